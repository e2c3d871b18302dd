//! The rule for names of event types, as `headwater-core` has it, before anything runs.

/// Longest name of an event type.
const BYTES_MAX: usize = 128;

/// Returns what is wrong with the name of an event type, and what to do.
pub(crate) fn fault(name: &str) -> Option<String> {
    let path = "names of events may not hold a slash or a backslash nor be . or ..; write a dot or a hyphen instead";
    if name.is_empty() {
        return Some("an event needs a name of at least one character".to_owned());
    }
    if name.len() > BYTES_MAX {
        let len = name.len();
        return Some(format!(
            "the name is {len} bytes long, and the limit is {BYTES_MAX}; shorten it"
        ));
    }
    if name.contains(['/', '\\']) || matches!(name, "." | "..") {
        return Some(path.to_owned());
    }
    let character = name.chars().find(|c| c.is_control() || c.is_whitespace())?;
    Some(format!("the name has the character {character:?}; remove white space and controls"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_core::EventType;

    #[test]
    fn a_name_passes_here_if_and_only_if_it_is_one_for_the_log() {
        let long = "x".repeat(BYTES_MAX);
        let longer = format!("{long}x");
        let names = [
            "",
            "a",
            "order.placed",
            "Käse",
            "a b",
            "a\tb",
            "a\u{7}",
            "a/b",
            "a\\b",
            ".",
            "..",
            "...",
            "a\u{a0}b",
            &long,
            &longer,
        ];
        for name in names {
            assert_eq!(fault(name).is_none(), EventType::new(name).is_ok(), "{name:?}");
        }
    }
}
