//! Base64 (RFC 4648, with padding), for payloads that are not JSON.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encodes bytes.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = (group >> (18 - 6 * at)) & 63;
            let present = at <= chunk.len();
            text.push(if present { char::from(ALPHABET[digit as usize]) } else { '=' });
        }
    }
    text
}

/// Decodes a text, or returns `None` if it is not what [`encode`] makes.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    if !text.len().is_multiple_of(4) {
        return None;
    }
    for chunk in text.as_bytes().chunks(4) {
        let digits = chunk.iter().position(|&c| c == b'=').unwrap_or(4);
        if digits < 2 || chunk[digits..].iter().any(|&c| c != b'=') {
            return None;
        }
        let mut group = 0_u32;
        for &c in &chunk[..digits] {
            let digit = ALPHABET.iter().position(|&known| known == c)?;
            group = group << 6 | u32::try_from(digit).ok()?;
        }
        group <<= 6 * (4 - digits);
        bytes.extend_from_slice(&group.to_be_bytes()[1..digits]);
    }
    // One text per value: padding in the middle or loose bits at the end are refused.
    (encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(decode(&encode(&[255, 254, 253, 0])).unwrap(), [255, 254, 253, 0]);
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in ["Z", "Zg=", "Zh==", "Zg==Zg==", "Zm 9v", "====", "Zm9*"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }
}
