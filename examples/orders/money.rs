//! Money and counts as people read them.

/// Writes cents as dollars, such as `$1,234.50`.
pub(crate) fn dollars(cents: u64) -> String {
    format!("${}.{:02}", count(cents / 100), cents % 100)
}

/// Writes a number with a comma between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart_and_cents_have_two_digits() {
        assert_eq!(dollars(7), "$0.07");
        assert_eq!(dollars(250_031_563), "$2,500,315.63");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
    }
}
