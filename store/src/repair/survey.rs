//! What can still be read among bytes that do not count any more.

use std::collections::BTreeMap;

use headwater_core::{Position, Revision};

use crate::format::frame::{self, ALIGN_BYTES, FrameHeader, HEADER_BYTES};
use crate::format::segment::LogKind;
use crate::format::{Seed, record, u32_at};

/// Where a stream ended, and how many of its events were met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    pub(crate) events: u64,
    pub(crate) revision: Revision,
    pub(crate) position: Position,
}

/// Everything that was met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    /// How many events can still be read.
    pub(crate) readable: u64,
    /// The last position that any frame claims.
    pub(crate) last: Position,
    pub(crate) streams: BTreeMap<String, Met>,
}

/// Goes through the frame headers that are right, from an offset on: behind one that is wrong, at
/// the next place where one may be.
pub(crate) fn frames<'a>(
    file: &'a [u8],
    from: usize,
    seed: &'a Seed,
) -> impl Iterator<Item = (usize, FrameHeader)> + 'a {
    let mut at = from;
    std::iter::from_fn(move || {
        while at + HEADER_BYTES <= file.len() {
            let here = at;
            match frame::decode_header(&file[here..], seed) {
                // A body that is wrong may hide that the length is, so the search goes on in it.
                Ok(header) => {
                    let is_whole = frame::decode(&file[here..], seed).is_ok();
                    at += if is_whole { header.bytes as usize } else { ALIGN_BYTES };
                    return Some((here, header));
                }
                Err(_) => at += ALIGN_BYTES,
            }
        }
        None
    })
}

impl Survey {
    /// Takes in what a segment holds from an offset on.
    pub(crate) fn take(&mut self, kind: LogKind, file: &[u8], from: usize, seed: &Seed) {
        for (offset, header) in frames(file, from, seed) {
            self.last = self.last.max(header.last());
            if kind == LogKind::Offsets {
                self.readable += u64::from(header.records);
                continue;
            }
            let end = file.len().min(offset + header.bytes as usize);
            self.records(&file[offset + HEADER_BYTES..end], &header, seed);
        }
    }

    /// Takes in the records of a frame, each by its own checksum.
    fn records(&mut self, body: &[u8], header: &FrameHeader, seed: &Seed) {
        let (mut at, mut position) = (0, header.first);
        for _ in 0..header.records {
            let Some(bytes) = body.get(at..).filter(|bytes| bytes.len() >= record::HEADER_BYTES)
            else {
                return;
            };
            if let Ok(record) = record::decode(bytes, seed) {
                self.readable += 1;
                let revision = record.revision();
                let met = self.streams.entry(record.stream.to_owned());
                let met = met.or_insert(Met { events: 0, revision, position });
                met.events += 1;
                if position >= met.position {
                    (met.revision, met.position) = (revision, position);
                }
            }
            // A length that is wrong leads to bytes that are no record.
            at = at.saturating_add((u32_at(bytes, 0) as usize).max(record::HEADER_BYTES));
            position = position.next();
        }
    }
}
