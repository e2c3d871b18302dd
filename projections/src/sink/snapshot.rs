//! Snapshot files: the state of a read model with its checkpoint, never trusted unchecked.
//!
//! Little-endian: magic (8 bytes, the last one the format version), CRC-32 of what follows the
//! CRC, length of the checkpoint, length of the state, checkpoint and state in the bincode
//! encoding. Version 1 has no event in its checkpoint. A file is written beside the old one, synced, renamed over it, and the directory is
//! synced: a crash leaves the old file or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_core::{Bincode, Codec, CodecError, Position};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::SinkError;
use crate::checkpoint::{Checkpoint, CheckpointMismatch, ProjectionId};

const MAGIC: &[u8; 8] = b"hwsnap\0\x02";
/// Of the version before.
const MAGIC_1: &[u8; 8] = b"hwsnap\0\x01";

/// The checkpoint of version 1.
#[derive(Deserialize)]
struct Checkpoint1 {
    id: ProjectionId,
    position: Position,
}

/// Why a snapshot was not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotFault {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it does not begin like a snapshot of this format")]
    Magic,
    #[error("it is shorter or longer than it says")]
    Length,
    #[error("its checksum is {found:08x}, not {stored:08x}")]
    Checksum { stored: u32, found: u32 },
    #[error("it cannot be decoded: {0}")]
    Decode(#[from] CodecError),
    #[error(transparent)]
    Mismatch(#[from] CheckpointMismatch),
}

/// Reads a snapshot of a projection, or returns `None` if there is no file.
pub(super) fn read<S: DeserializeOwned>(
    path: &Path,
    id: &ProjectionId,
    head: Position,
) -> Result<Option<(Checkpoint, S)>, SnapshotFault> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (checkpoint, state) = parse(&bytes)?;
    let checkpoint = if bytes.starts_with(MAGIC_1) {
        let Checkpoint1 { id, position } = Bincode::decode(checkpoint)?;
        Checkpoint { id, position, event: None }
    } else {
        Bincode::decode(checkpoint)?
    };
    checkpoint.check(id, head)?;
    Ok(Some((checkpoint, Bincode::decode_verified(state)?)))
}

/// Returns the encoded checkpoint and state.
fn parse(bytes: &[u8]) -> Result<(&[u8], &[u8]), SnapshotFault> {
    let rest = bytes.strip_prefix(MAGIC).or_else(|| bytes.strip_prefix(MAGIC_1));
    let rest = rest.ok_or(SnapshotFault::Magic)?;
    let (stored, body) = rest.split_first_chunk().ok_or(SnapshotFault::Length)?;
    let (stored, found) = (u32::from_le_bytes(*stored), crc32fast::hash(body));
    if stored != found {
        return Err(SnapshotFault::Checksum { stored, found });
    }
    let (first, body) = body.split_first_chunk().ok_or(SnapshotFault::Length)?;
    let (second, body) = body.split_first_chunk().ok_or(SnapshotFault::Length)?;
    let length = |bytes| usize::try_from(u64::from_le_bytes(bytes)).ok();
    let parts = length(*first).and_then(|at| body.split_at_checked(at));
    let (checkpoint, state) = parts.ok_or(SnapshotFault::Length)?;
    if length(*second) != Some(state.len()) {
        return Err(SnapshotFault::Length);
    }
    Ok((checkpoint, state))
}

fn encode<S: Serialize>(checkpoint: &Checkpoint, state: &S) -> Result<Vec<u8>, CodecError> {
    let checkpoint = Bincode::encode(checkpoint)?;
    let state = Bincode::encode(state)?;
    let mut body = Vec::with_capacity(16 + checkpoint.len() + state.len());
    body.extend_from_slice(&(checkpoint.len() as u64).to_le_bytes());
    body.extend_from_slice(&(state.len() as u64).to_le_bytes());
    body.extend_from_slice(&checkpoint);
    body.extend_from_slice(&state);
    let mut bytes = Vec::with_capacity(MAGIC.len() + 4 + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Replaces the snapshot at `path`. Survives power loss once it returns `Ok`.
pub(super) fn write<S: Serialize>(
    path: &Path,
    checkpoint: &Checkpoint,
    state: &S,
) -> Result<(), SinkError> {
    let bytes = encode(checkpoint, state)
        .map_err(|error| SinkError::engine("encoding the snapshot", error))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |error| SinkError::File { action, path, source: Arc::new(error) }
    };
    let fill = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()
    };
    fill().map_err(failed("writing", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("replacing", path))?;
    let sync = File::open(&directory).and_then(|directory| directory.sync_all());
    sync.map_err(failed("syncing", &directory))
}

#[cfg(test)]
mod tests {
    use headwater_core::{EventId, LogId};

    use super::*;

    const VERSION_1: &[u8] = b"hwsnap\x00\x01\xcay\xae\x85\x16\x00\x00\x00\x00\x00\x00\
        \x00\x03\x00\x00\x00\x00\x00\x00\x00\x01p\x01\x10\x07\x07\x07\x07\x07\x07\
        \x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x09\x0c\x02\x01\x02";

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            id: ProjectionId {
                name: "p".into(),
                version: 1,
                log: LogId::from_bytes([7; 16]),
                selection: 9,
            },
            position: Position::new(12),
            event: Some(EventId::from_bytes([3; 16])),
        }
    }

    fn load(path: &Path) -> Result<Option<(Checkpoint, Vec<u64>)>, SnapshotFault> {
        read(path, &checkpoint().id, Position::new(12))
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was_and_a_missing_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.snapshot");
        assert!(load(&path).unwrap().is_none());
        write(&path, &checkpoint(), &vec![1_u64]).unwrap();
        write(&path, &checkpoint(), &vec![1_u64, 2]).unwrap();
        assert_eq!(load(&path).unwrap(), Some((checkpoint(), vec![1, 2])));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_snapshot_of_version_1_comes_back_without_its_event() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.snapshot");
        // Written by version 1 with position 12 and the state [1, 2].
        fs::write(&path, VERSION_1).unwrap();
        let known = Checkpoint { event: None, ..checkpoint() };
        assert_eq!(load(&path).unwrap(), Some((known, vec![1, 2])));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.snapshot");
        let whole = encode(&checkpoint(), &vec![1_u64, 2]).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(load(&path).is_err(), "cut at {length}");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &flipped).unwrap();
            assert!(load(&path).is_err(), "bit {bit}");
        }
        fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
        assert!(load(&path).is_err(), "a byte more");
    }

    #[test]
    fn no_bytes_behind_a_right_checksum_make_reading_panic() {
        let (dir, corpus) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = dir.path().join("p.snapshot");
        let state: Vec<u64> = vec![1, 1000, u64::MAX];
        let whole = encode(&checkpoint(), &state).unwrap();
        for (name, bytes) in [("1", VERSION_1), ("2", &whole)] {
            fs::write(corpus.path().join(name), bytes).unwrap();
        }
        let run = headwater_testkit::mutation::run(corpus.path(), |bytes| {
            let mut bytes = bytes.to_vec();
            if let Some((head, body)) = bytes.split_at_mut_checked(12) {
                head[8..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
            }
            fs::write(&path, &bytes).unwrap();
            if let Ok(Some((checkpoint, state))) = load(&path) {
                fs::write(&path, encode(&checkpoint, &state).unwrap()).unwrap();
                assert_eq!(load(&path).unwrap(), Some((checkpoint, state)));
            }
        });
        assert!(run.mutations > 20, "{} mutations", run.mutations);
    }

    #[test]
    fn a_snapshot_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.snapshot");
        write(&path, &checkpoint(), &vec![1_u64]).unwrap();
        let refused = |change: fn(&mut ProjectionId), head| {
            let mut id = checkpoint().id;
            change(&mut id);
            read::<Vec<u64>>(&path, &id, Position::new(head)).is_err()
        };
        assert!(!refused(|_| {}, 12));
        assert!(refused(|_| {}, 11));
        assert!(refused(|id| id.name = "q".into(), 12));
        assert!(refused(|id| id.version = 2, 12));
        assert!(refused(|id| id.log = LogId::from_bytes([8; 16]), 12));
        assert!(refused(|id| id.selection = 10, 12));
    }
}
