//! Headers: named texts that travel beside the payload, such as `traceparent`.

use serde::{Deserialize, Serialize};

use crate::limits;

/// Name and value pairs in the order they were added; a name may stand more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(String, String)>", into = "Vec<(String, String)>")]
pub struct Headers(Vec<(String, String)>);

/// A header that cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header name {name:?} is {} bytes long; use 1 to {max} bytes", name.len(), max = limits::HEADER_NAME_BYTES_MAX)]
pub struct InvalidHeader {
    /// The name as given.
    pub name: String,
}

impl TryFrom<Vec<(String, String)>> for Headers {
    type Error = InvalidHeader;

    fn try_from(pairs: Vec<(String, String)>) -> Result<Self, InvalidHeader> {
        let mut headers = Self::new();
        for (name, value) in pairs {
            headers.insert(name, value)?;
        }
        Ok(headers)
    }
}

impl From<Headers> for Vec<(String, String)> {
    fn from(headers: Headers) -> Self {
        headers.0
    }
}

impl Headers {
    /// Makes an empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a header behind the others.
    ///
    /// # Errors
    ///
    /// [`InvalidHeader`] if the name is empty or longer than
    /// [`HEADER_NAME_BYTES_MAX`](limits::HEADER_NAME_BYTES_MAX).
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<(), InvalidHeader> {
        let name = name.into();
        if name.is_empty() || name.len() > limits::HEADER_NAME_BYTES_MAX {
            return Err(InvalidHeader { name });
        }
        self.0.push((name, value.into()));
        Ok(())
    }

    /// Returns the first value under `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(n, value)| (n == name).then_some(value))
    }

    /// Goes through all headers in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns how many headers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_order_and_their_repeats() {
        let mut headers = Headers::new();
        headers.insert("a", "1").unwrap();
        headers.insert("b", "2").unwrap();
        headers.insert("a", "3").unwrap();
        assert_eq!(headers.get("a"), Some("1"));
        assert_eq!(headers.iter().map(|(_, v)| v).collect::<Vec<_>>(), ["1", "2", "3"]);
    }

    #[test]
    fn headers_are_checked_when_they_are_read_back() {
        assert!(serde_json::from_str::<Headers>(r#"[["","v"]]"#).is_err());
        let headers: Headers = serde_json::from_str(r#"[["n","v"]]"#).unwrap();
        assert_eq!(serde_json::to_string(&headers).unwrap(), r#"[["n","v"]]"#);
    }

    #[test]
    fn a_header_needs_a_name_of_bounded_length() {
        assert!(Headers::new().insert("", "x").is_err());
        assert!(Headers::new().insert("n".repeat(256), "x").is_err());
    }
}
