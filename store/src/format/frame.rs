//! Frames: what one group of appends is written as, with one checksum over its header and one
//! over its body.

use headwater_core::{Position, Timestamp};

use super::{SECTOR_BYTES, Seed, array, i64_at, is_zero, put, u16_at, u32_at, u64_at};
use crate::planted::{Bug, planted};

/// Bytes of a frame header.
pub(crate) const HEADER_BYTES: usize = 64;
/// Frames begin at multiples of this.
pub(crate) const ALIGN_BYTES: usize = 8;
/// The longest frame.
pub(crate) const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

const MAGIC: [u8; 4] = *b"HWF1";

/// What a frame header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Header to end of padding, a multiple of 8.
    pub(crate) bytes: u32,
    pub(crate) header_crc: u32,
    pub(crate) body_crc: u32,
    /// Position of the first record.
    pub(crate) first: Position,
    /// Counts the frames of the log from 1.
    pub(crate) commit_seq: u64,
    pub(crate) commit_time: Timestamp,
    /// Everything up to here was on the device when the frame was built.
    pub(crate) durable: Position,
    pub(crate) records: u32,
    pub(crate) epoch: u32,
    /// The chain word of the frame before.
    pub(crate) previous_word: u32,
    /// In how many sectors the frame was all zeros when it was written.
    pub(crate) zero_sectors: u16,
}

/// What the writer knows of a frame before it is sealed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameFields {
    /// Where in the file the frame begins.
    pub(crate) offset: u64,
    pub(crate) first: Position,
    pub(crate) commit_seq: u64,
    pub(crate) commit_time: Timestamp,
    pub(crate) durable: Position,
    pub(crate) records: u32,
    pub(crate) epoch: u32,
    pub(crate) previous_word: u32,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameFault {
    #[error("only {0} bytes are left for a header of 64")]
    Truncated(usize),
    #[error("its header is all zeros")]
    Unwritten,
    #[error("its header has the wrong checksum")]
    HeaderChecksum,
    #[error("its body has the wrong checksum")]
    BodyChecksum,
    #[error("it does not begin with HWF1")]
    Magic,
    #[error("its length {0} is impossible")]
    Length(u32),
    #[error("its flags {0:#06x} are unknown")]
    Flags(u16),
}

impl FrameHeader {
    /// Stands for the whole frame in the header of the next one.
    pub(crate) fn word(&self) -> u32 {
        self.header_crc ^ self.body_crc.rotate_left(16)
    }

    /// Position of the last record.
    pub(crate) fn last(&self) -> Position {
        Position::new(self.first.get() + u64::from(self.records) - 1)
    }
}

/// Fills in the header of a frame whose body is complete: `frame` begins with 64 free bytes and
/// is padded here. Returns what the header says.
pub(crate) fn seal(frame: &mut Vec<u8>, fields: &FrameFields, seed: &Seed) -> FrameHeader {
    frame.resize(frame.len().next_multiple_of(ALIGN_BYTES), 0);
    let bytes = u32::try_from(frame.len()).expect("the writer bounds its frames");
    assert!(frame.len() <= FRAME_BYTES_MAX, "the writer bounds its frames");
    assert!(fields.records > 0 && fields.first > Position::START, "frames hold records");
    frame[..HEADER_BYTES].fill(0);
    put(frame, 0, MAGIC);
    put(frame, 4, bytes.to_le_bytes());
    put(frame, 16, fields.first.get().to_le_bytes());
    put(frame, 24, fields.commit_seq.to_le_bytes());
    put(frame, 32, fields.commit_time.as_nanos().to_le_bytes());
    put(frame, 40, fields.durable.get().to_le_bytes());
    put(frame, 48, fields.records.to_le_bytes());
    put(frame, 52, fields.epoch.to_le_bytes());
    put(frame, 56, fields.previous_word.to_le_bytes());
    let body_crc = seed.checksum(&[&frame[HEADER_BYTES..]]);
    put(frame, 12, body_crc.to_le_bytes());
    let zero_sectors = zero_sectors(frame, fields.offset);
    put(frame, 62, zero_sectors.to_le_bytes());
    let header_crc = seed.checksum(&[&frame[..8], &frame[12..HEADER_BYTES]]);
    put(frame, 8, header_crc.to_le_bytes());
    FrameHeader {
        bytes,
        header_crc,
        body_crc,
        first: fields.first,
        commit_seq: fields.commit_seq,
        commit_time: fields.commit_time,
        durable: fields.durable,
        records: fields.records,
        epoch: fields.epoch,
        previous_word: fields.previous_word,
        zero_sectors,
    }
}

/// Reads a frame header and checks it by itself.
pub(crate) fn decode_header(bytes: &[u8], seed: &Seed) -> Result<FrameHeader, FrameFault> {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return Err(FrameFault::Truncated(bytes.len()));
    };
    if is_zero(header) {
        return Err(FrameFault::Unwritten);
    }
    let header_crc = u32_at(header, 8);
    let right = seed.checksum(&[&header[..8], &header[12..]]) == header_crc;
    if !right && !planted(Bug::TrustHeaders) {
        return Err(FrameFault::HeaderChecksum);
    }
    if array(header, 0) != MAGIC {
        return Err(FrameFault::Magic);
    }
    let (length, flags) = (u32_at(header, 4), u16_at(header, 60));
    if flags != 0 {
        return Err(FrameFault::Flags(flags));
    }
    let size = length as usize;
    let records = u32_at(header, 48);
    let first = u64_at(header, 16);
    let possible = (HEADER_BYTES..=FRAME_BYTES_MAX).contains(&size)
        && size.is_multiple_of(ALIGN_BYTES)
        && (1..=length).contains(&records)
        && first > 0
        && first.checked_add(u64::from(records)).is_some();
    if !possible {
        return Err(FrameFault::Length(length));
    }
    Ok(FrameHeader {
        bytes: length,
        header_crc,
        body_crc: u32_at(header, 12),
        first: Position::new(first),
        commit_seq: u64_at(header, 24),
        commit_time: Timestamp::from_nanos(i64_at(header, 32)),
        durable: Position::new(u64_at(header, 40)),
        records,
        epoch: u32_at(header, 52),
        previous_word: u32_at(header, 56),
        zero_sectors: u16_at(header, 62),
    })
}

/// Reads a whole frame at the beginning of `bytes` and returns its header and its body.
pub(crate) fn decode<'a>(
    bytes: &'a [u8],
    seed: &Seed,
) -> Result<(FrameHeader, &'a [u8]), FrameFault> {
    let header = decode_header(bytes, seed)?;
    let body =
        bytes.get(HEADER_BYTES..header.bytes as usize).ok_or(FrameFault::Truncated(bytes.len()))?;
    if seed.checksum(&[body]) != header.body_crc && !planted(Bug::TrustBodies) {
        return Err(FrameFault::BodyChecksum);
    }
    Ok((header, body))
}

/// Returns in how many sectors the part of `bytes` is all zeros, `bytes` lying at `offset`.
pub(crate) fn zero_sectors(bytes: &[u8], offset: u64) -> u16 {
    let into = usize::try_from(offset % SECTOR_BYTES as u64).expect("less than a sector");
    let (head, rest) = bytes.split_at(bytes.len().min((SECTOR_BYTES - into) % SECTOR_BYTES));
    let sectors = std::iter::once(head).filter(|head| !head.is_empty());
    let zero = sectors.chain(rest.chunks(SECTOR_BYTES)).filter(|sector| is_zero(sector)).count();
    u16::try_from(zero).expect("a frame of 16 MiB lies in fewer than 65,536 sectors")
}
