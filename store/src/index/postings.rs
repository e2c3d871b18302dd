//! Lists of events as bytes: ascending numbers in blocks of 128, the gaps packed in as few bits
//! as the widest needs, with a table to skip by. (Blocks of packed gaps are what search engines
//! store: Lemire and Boytsov, "Decoding billions of integers per second through vectorization",
//! 2015.)

/// Numbers in a block.
pub(super) const BLOCK: usize = 128;
/// The longest block: a width and 127 gaps of 32 bits.
pub(super) const BLOCK_BYTES_MAX: usize = 1 + (BLOCK - 1) * 4;
/// The longest count.
pub(super) const COUNT_BYTES_MAX: usize = 5;

/// Appends an ascending list of at least two numbers: their count, the first number of each
/// block, where each block but the first begins behind the first, and the blocks.
pub(super) fn encode(out: &mut Vec<u8>, list: &[u32]) {
    debug_assert!(list.is_sorted_by(|a, b| a < b));
    let mut count = list.len();
    while count >= 0x80 {
        out.push(low_byte(count as u64) | 0x80);
        count >>= 7;
    }
    out.push(low_byte(count as u64));
    for block in list.chunks(BLOCK) {
        out.extend_from_slice(&block[0].to_le_bytes());
    }
    let table = out.len();
    out.resize(table + (list.len().div_ceil(BLOCK) - 1) * 4, 0);
    let blocks = out.len();
    for (at, block) in list.chunks(BLOCK).enumerate() {
        if at > 0 {
            let offset = u32::try_from(out.len() - blocks).expect("postings are below 2 GiB");
            let entry = table + (at - 1) * 4;
            out[entry..entry + 4].copy_from_slice(&offset.to_le_bytes());
        }
        pack(out, block);
    }
}

fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

/// Reads the count that begins a list. Returns it and how many bytes it takes.
pub(super) fn count(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut count = 0;
    for (at, &byte) in bytes.iter().take(COUNT_BYTES_MAX).enumerate() {
        count |= usize::from(byte & 0x7F) << (7 * at);
        if byte < 0x80 {
            return Some((count, at + 1));
        }
    }
    None
}

fn pack(out: &mut Vec<u8>, block: &[u32]) {
    let gaps = || block.windows(2).map(|pair| pair[1] - pair[0] - 1);
    let width = gaps().map(|gap| 32 - gap.leading_zeros()).max().unwrap_or(0);
    out.push(low_byte(width.into()));
    let (mut bits, mut held) = (0_u64, 0);
    for gap in gaps() {
        bits |= u64::from(gap) << held;
        held += width;
        while held >= 8 {
            out.push(low_byte(bits));
            bits >>= 8;
            held -= 8;
        }
    }
    if held > 0 {
        out.push(low_byte(bits));
    }
}

/// Reads a block of `count` numbers that begins with `first`; `None` if these are not its bytes.
pub(super) fn unpack(bytes: &[u8], first: u32, count: usize, out: &mut Vec<u32>) -> Option<()> {
    let (&width, mut packed) = bytes.split_first()?;
    let width = u32::from(width);
    if width > 32 {
        return None;
    }
    let mask = (1_u64 << width) - 1;
    let (mut bits, mut held, mut number) = (0_u64, 0, first);
    out.push(number);
    for _ in 1..count {
        while held < width {
            let (&byte, rest) = packed.split_first()?;
            bits |= u64::from(byte) << held;
            held += 8;
            packed = rest;
        }
        let gap = u32::try_from(bits & mask).ok()?;
        bits >>= width;
        held -= width;
        number = number.checked_add(gap)?.checked_add(1)?;
        out.push(number);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_gives_back_what_was_packed_at_every_width() {
        for width in 0..=31_u8 {
            let gap = if width == 0 { 0 } else { 1_u32 << (width - 1) };
            let count = (u32::MAX / (gap + 1)).min(127);
            let list: Vec<u32> = (0..count).map(|n| 3 + n * (gap + 1)).collect();
            let mut bytes = Vec::new();
            pack(&mut bytes, &list);
            assert_eq!(bytes[0], width);
            assert_eq!(bytes.len(), 1 + ((list.len() - 1) * usize::from(width)).div_ceil(8));
            let mut out = Vec::new();
            unpack(&bytes, 3, list.len(), &mut out).unwrap();
            assert_eq!(out, list);
            for cut in 0..bytes.len() {
                let short = unpack(&bytes[..cut], 3, list.len(), &mut Vec::new());
                assert!(short.is_none(), "{cut} of {} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn counts_of_every_length_are_read_back() {
        for number in [2_u32, 127, 128, 16_383, 16_384, 100_000] {
            let list: Vec<u32> = (0..number).collect();
            let mut bytes = Vec::new();
            encode(&mut bytes, &list);
            let (read, len) = count(&bytes).unwrap();
            assert_eq!(read, number as usize);
            assert_eq!(len, bytes[..len].iter().filter(|&&b| b >= 0x80).count() + 1);
        }
        assert_eq!(count(&[0x80; 9]), None);
        assert_eq!(count(&[]), None);
    }
}
