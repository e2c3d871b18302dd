//! JSON as text: payloads pass through unchanged but for white space between tokens.
//!
//! Parsing a payload into values and writing them again would round its numbers and reorder its
//! members, so it is only checked, and then its text is used.

use serde_json::Value;

/// Returns a JSON text without the white space between its tokens, or what is wrong with it.
pub(crate) fn compact(bytes: &[u8]) -> Result<String, serde_json::Error> {
    serde_json::from_slice::<Value>(bytes)?;
    let text = String::from_utf8_lossy(bytes);
    Ok(squeeze(&text))
}

/// Returns the text of a member of a JSON object, compact. The object is valid.
pub(crate) fn member(object: &str, name: &str) -> Option<String> {
    let bytes = object.as_bytes();
    let mut at = object.find('{')? + 1;
    loop {
        at += object[at..].find('"')?;
        let key_end = string_end(bytes, at);
        let key: String = serde_json::from_str(object.get(at..key_end)?).ok()?;
        at = key_end + object[key_end..].find(':')? + 1;
        let end = value_end(bytes, at);
        if key == name {
            return Some(squeeze(object.get(at..end)?));
        }
        at = end;
    }
}

/// Removes white space outside of strings.
fn squeeze(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(quote) = rest.find('"') {
        out.extend(rest[..quote].chars().filter(|c| !c.is_ascii_whitespace()));
        let end = string_end(rest.as_bytes(), quote);
        out.push_str(&rest[quote..end]);
        rest = &rest[end..];
    }
    out.extend(rest.chars().filter(|c| !c.is_ascii_whitespace()));
    out
}

/// Returns where the string that begins at `at` is over.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Returns where the value that begins at `at` is over: at the comma or bracket behind it.
fn value_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return at,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_order_and_escapes_pass_unchanged() {
        let text = b" { \"z\" : 1.10 ,\n \"a\": [12345678901234567890123, \"x \\\" }, y\" ] }\r\n";
        let compacted = r#"{"z":1.10,"a":[12345678901234567890123,"x \" }, y"]}"#;
        assert_eq!(compact(text).unwrap(), compacted);
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "1 2", "nul", "\"\u{1}\"", "[1,]", "\"\\ud800\"", "1e999"] {
            assert!(compact(text.as_bytes()).is_err(), "{text}");
        }
        assert!(compact(b"\"\xff\"").is_err());
    }

    #[test]
    fn a_member_is_found_whatever_stands_before_it() {
        let object =
            r#"{ "a":"\"data\":1}", "b":{"data":[2]}, "d\u0061ta" : { "n": 1e2 } , "c":3}"#;
        assert_eq!(member(object, "data").unwrap(), r#"{"n":1e2}"#);
        assert_eq!(member(object, "c").unwrap(), "3");
        assert_eq!(member(object, "none"), None);
        assert_eq!(member("{}", "data"), None);
    }
}
