//! The bytes of a snapshot: what it is of, how far it goes, and the state.
//!
//! Little-endian: magic (8 bytes, the last one the format version), `xxh3_64` of what follows (8), log
//! id (16), version of the fold (4), fingerprint of the state's shape (8), codec id (1), position (8)
//! and id (16) of the last event in it, length (4) and bytes of the fold's name, length (4) and bytes of
//! what it folds, then the encoded state.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::origin::NoSnapshot;
use super::store::SnapshotKey;
use crate::codec::CodecId;
use crate::event::RecordedEvent;
use crate::id::{EventId, LogId};
use crate::position::Position;

const MAGIC: &[u8; 8] = b"hwfold\0\x01";

/// What a snapshot is of. All of it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) log: LogId,
    /// Of the fold.
    pub(super) name: &'static str,
    /// What is folded: a stream, or a view as it is before any event, with its query.
    pub(super) subject: Vec<u8>,
    pub(super) version: u32,
    /// Fingerprint of the state's shape; 0 where it does not say.
    pub(super) shape: u64,
    pub(super) codec: CodecId,
}

/// The last event in a snapshot. A log that was restored, rolled back or lost its end has another one
/// there, once it has grown again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) position: Position,
    pub(super) event: EventId,
}

impl Mark {
    pub(super) fn at(event: &RecordedEvent) -> Self {
        Self { position: event.position, event: event.id }
    }
}

impl Identity {
    /// Returns what the snapshot is kept under. Its version is no part of it, so that a new one takes
    /// the place of the old.
    pub(super) fn key(&self) -> SnapshotKey {
        let mut bytes = BytesMut::with_capacity(24 + self.name.len() + self.subject.len());
        bytes.put_slice(self.log.as_bytes());
        put(&mut bytes, self.name.as_bytes());
        put(&mut bytes, &self.subject);
        SnapshotKey::from_bytes(xxh3_128(&bytes).to_le_bytes())
    }

    pub(super) fn encode(&self, mark: Mark, state: &[u8]) -> Bytes {
        let named = self.name.len() + self.subject.len();
        let mut bytes = BytesMut::with_capacity(77 + named + state.len());
        bytes.put_slice(MAGIC);
        bytes.put_u64_le(0);
        bytes.put_slice(self.log.as_bytes());
        bytes.put_u32_le(self.version);
        bytes.put_u64_le(self.shape);
        bytes.put_u8(self.codec.get());
        bytes.put_u64_le(mark.position.get());
        bytes.put_slice(mark.event.as_bytes());
        put(&mut bytes, self.name.as_bytes());
        put(&mut bytes, &self.subject);
        bytes.put_slice(state);
        let sum = xxh3_64(&bytes[16..]);
        bytes[8..16].copy_from_slice(&sum.to_le_bytes());
        bytes.freeze()
    }

    /// Returns how far a snapshot goes, and its encoded state.
    ///
    /// # Errors
    ///
    /// The first [`NoSnapshot`] that applies, where it is damaged or of something else than this.
    pub(super) fn decode<'a>(&self, bytes: &'a [u8]) -> Result<(Mark, &'a [u8]), NoSnapshot> {
        let body = intact(bytes).ok_or(NoSnapshot::Damaged)?;
        let (found, mark, state) = Found::take(body).ok_or(NoSnapshot::Damaged)?;
        if (found.log, found.name, found.subject) != (self.log, self.name.as_bytes(), &self.subject)
        {
            return Err(NoSnapshot::Foreign);
        }
        if found.version != self.version {
            return Err(NoSnapshot::Version { stored: found.version, given: self.version });
        }
        if found.shape != self.shape {
            return Err(NoSnapshot::Shape { stored: found.shape, given: self.shape });
        }
        if found.codec != self.codec {
            return Err(NoSnapshot::Codec { stored: found.codec, given: self.codec });
        }
        Ok((mark, state))
    }
}

fn put(bytes: &mut BytesMut, part: &[u8]) {
    let length = u32::try_from(part.len()).expect("names and views are shorter than 4 GiB");
    bytes.put_u32_le(length);
    bytes.put_slice(part);
}

/// Returns what follows the checksum, if that is right.
fn intact(bytes: &[u8]) -> Option<&[u8]> {
    let (stored, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    (u64::from_le_bytes(*stored) == xxh3_64(body)).then_some(body)
}

/// What a snapshot says it is of.
struct Found<'a> {
    log: LogId,
    name: &'a [u8],
    subject: &'a [u8],
    version: u32,
    shape: u64,
    codec: CodecId,
}

impl<'a> Found<'a> {
    fn take(mut body: &'a [u8]) -> Option<(Self, Mark, &'a [u8])> {
        let log = LogId::from_bytes(chunk(&mut body)?);
        let version = u32::from_le_bytes(chunk(&mut body)?);
        let shape = u64::from_le_bytes(chunk(&mut body)?);
        let [codec] = chunk(&mut body)?;
        let position = Position::new(u64::from_le_bytes(chunk(&mut body)?));
        let event = EventId::from_bytes(chunk(&mut body)?);
        let (name, subject) = (part(&mut body)?, part(&mut body)?);
        let codec = CodecId::new(codec);
        Some((Self { log, name, subject, version, shape, codec }, Mark { position, event }, body))
    }
}

fn chunk<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (chunk, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*chunk)
}

fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(u32::from_le_bytes(chunk(bytes)?)).ok()?;
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            log: LogId::from_bytes([1; 16]),
            name: "account",
            subject: b"account-17".to_vec(),
            version: 2,
            shape: 3,
            codec: CodecId::BINCODE,
        }
    }

    fn mark() -> Mark {
        Mark { position: Position::new(4), event: EventId::from_bytes([5; 16]) }
    }

    #[test]
    fn the_bytes_of_a_snapshot_are_frozen() {
        let golden = b"hwfold\0\x01\
            \xf7\xef\x83\xe7C\xa1\xa1\xff\
            \x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\
            \x02\0\0\0\x03\0\0\0\0\0\0\0\x02\x04\0\0\0\0\0\0\0\
            \x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\x05\
            \x07\0\0\0account\x0a\0\0\0account-17state";
        let bytes = identity().encode(mark(), b"state");
        assert_eq!(bytes.escape_ascii().to_string(), golden.escape_ascii().to_string());
        assert_eq!(identity().decode(golden).unwrap(), (mark(), &b"state"[..]));
        assert_eq!(identity().key().to_string(), "a39e6a3b79c2f2f0a4342e79cb907bc5");
    }

    #[test]
    fn every_cut_and_every_flipped_bit_of_a_snapshot_is_noticed() {
        let whole = identity().encode(mark(), b"state");
        for length in 0..whole.len() {
            assert!(identity().decode(&whole[..length]).is_err(), "cut at {length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(identity().decode(&flipped).is_err(), "bit {bit}");
        }
        assert!(identity().decode(&[&whole[..], b"!"].concat()).is_err(), "a byte more");
    }

    #[test]
    fn no_bytes_behind_a_right_checksum_make_decoding_panic() {
        let whole = identity().encode(mark(), b"state");
        for length in 16..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole[..length].to_vec();
                *bytes.last_mut().unwrap() = value;
                let sum = xxh3_64(&bytes[16..]);
                bytes[8..16].copy_from_slice(&sum.to_le_bytes());
                let _ = identity().decode(&bytes);
            }
        }
    }

    #[test]
    fn a_snapshot_of_anything_else_is_told_apart() {
        let whole = identity().encode(mark(), b"state");
        let given = |change: fn(&mut Identity)| {
            let mut given = identity();
            change(&mut given);
            given.decode(&whole).unwrap_err()
        };
        assert!(matches!(given(|id| id.log = LogId::from_bytes([2; 16])), NoSnapshot::Foreign));
        assert!(matches!(given(|id| id.name = "accounts"), NoSnapshot::Foreign));
        assert!(matches!(given(|id| id.subject.push(b'0')), NoSnapshot::Foreign));
        let version = given(|id| id.version = 3);
        assert!(matches!(version, NoSnapshot::Version { stored: 2, given: 3 }));
        assert!(matches!(given(|id| id.shape = 4), NoSnapshot::Shape { stored: 3, given: 4 }));
        let codec = given(|id| id.codec = CodecId::JSON);
        assert!(matches!(codec, NoSnapshot::Codec { stored: CodecId::BINCODE, .. }), "{codec}");
    }

    #[test]
    fn what_a_snapshot_is_of_makes_its_key_and_its_version_does_not() {
        let key = |change: fn(&mut Identity)| {
            let mut id = identity();
            change(&mut id);
            id.key()
        };
        let own = identity().key();
        assert_ne!(key(|id| id.log = LogId::from_bytes([2; 16])), own);
        assert_ne!(key(|id| id.name = "accounts"), own);
        assert_ne!(key(|id| id.subject.push(b'0')), own);
        assert_eq!(key(|id| (id.version, id.shape, id.codec) = (3, 4, CodecId::JSON)), own);
    }
}
