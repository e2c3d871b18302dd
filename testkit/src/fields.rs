//! Taking bytes apart without panics: what a decoder of any little-endian format needs.

use std::io;
use std::path::PathBuf;

/// Why a store could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeStoreError {
    /// The system did not let us read a file or a directory.
    #[error("cannot read {path}", path = .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// A file breaks a rule of the format; the number is the offset of the block or frame.
    #[error("{path} breaks a rule of the format at byte {1}: {2}", path = .0.display())]
    Format(PathBuf, usize, &'static str),
}

/// A value, or the rule that the bytes break.
pub(crate) type Check<T> = Result<T, &'static str>;

/// Returns the rule if it does not hold.
pub(crate) fn ensure(holds: bool, rule: &'static str) -> Check<()> {
    if holds { Ok(()) } else { Err(rule) }
}

/// Returns whether there is nothing but zeros.
pub(crate) fn zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Returns the CRC of the parts, one behind the other.
pub(crate) fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for part in parts {
        crc.update(part);
    }
    crc.finalize()
}

/// Bytes from which fields are taken, front to back.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    /// Takes a field of the size that `from` asks for.
    pub(crate) fn get<const N: usize, T>(&mut self, from: fn([u8; N]) -> T) -> Check<T> {
        let (field, rest) = self.0.split_first_chunk().ok_or("a field is cut short")?;
        self.0 = rest;
        Ok(from(*field))
    }

    /// Takes adjacent numbers of 8 bytes.
    pub(crate) fn u64s<const N: usize>(&mut self) -> Check<[u64; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.get(u64::from_le_bytes)?;
        }
        Ok(numbers)
    }

    /// Takes adjacent numbers of 4 bytes.
    pub(crate) fn u32s<const N: usize>(&mut self) -> Check<[u32; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.get(u32::from_le_bytes)?;
        }
        Ok(numbers)
    }

    /// Takes adjacent numbers of 2 bytes.
    pub(crate) fn u16s<const N: usize>(&mut self) -> Check<[u16; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.get(u16::from_le_bytes)?;
        }
        Ok(numbers)
    }

    /// Takes a field whose length stood elsewhere.
    pub(crate) fn take(&mut self, length: impl TryInto<usize>) -> Check<&'a [u8]> {
        let split = length.try_into().ok().and_then(|length| self.0.split_at_checked(length));
        let (field, rest) = split.ok_or("a field is cut short")?;
        self.0 = rest;
        Ok(field)
    }

    /// Takes a text whose length stood elsewhere.
    pub(crate) fn text(&mut self, length: impl TryInto<usize>) -> Check<&'a str> {
        std::str::from_utf8(self.take(length)?).map_err(|_| "a text is not UTF-8")
    }
}
