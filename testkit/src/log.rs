//! Walks the frames of a log by `docs/format.md` alone: identity, catalog, segments and frames,
//! which the log of the events and the log of the groups have in common.
//!
//! Nothing is repaired. A log that a crash left torn is an error here until a writer has opened
//! the store again.

use std::path::{Path, PathBuf};
use std::{fs, io, iter};

use crate::fields::{Check, DecodeStoreError, Fields, crc, ensure, zeros};

/// What a record takes from the frame around it.
pub(crate) struct Frame {
    pub(crate) salt: [u8; 8],
    pub(crate) position: u64,
    pub(crate) records: u32,
    pub(crate) commit_time: i64,
}

/// Takes the records off the body of a frame.
type Visit<'a> = dyn FnMut(&Frame, &mut Fields<'_>) -> Check<()> + 'a;

/// A log up to some frame: what the next frame or segment must continue.
struct Log {
    store: [u8; 16],
    kind: u64,
    /// First segment, active segment and durable position as the catalog has them.
    catalog: [u64; 3],
    epoch_last: u32,
    segment: u64,
    position: u64,
    frames: u64,
    chain: u32,
    epoch: u32,
    commit_time: i64,
    offset: usize,
}

/// Visits the frames of a log in order; `kind` is 0 for the events and 1 for the groups.
pub(crate) fn walk(dir: &Path, kind: u64, visit: &mut Visit<'_>) -> Result<(), DecodeStoreError> {
    let (identity, catalogs) = (dir.join("STORE"), dir.join("CATALOG"));
    let store = store_id(&read(&identity)?).map_err(wrong(&identity, 0))?;
    let mut log = Log::new(&read(&catalogs)?, store, kind).map_err(wrong(&catalogs, 0))?;
    let folder = dir.join(if kind == 0 { "log" } else { "offsets" });
    for path in segments(&folder).map_err(|error| DecodeStoreError::Io(folder.clone(), error))? {
        let walked = log.segment(&path, &read(&path)?, visit);
        walked.map_err(wrong(&path, log.offset))?;
    }
    ensure(log.segment >= log.catalog[1], "the catalog's active segment is missing")
        .and(ensure(log.position > log.catalog[2], "the log ends before its durable position"))
        .map_err(wrong(&folder, 0))
}

fn wrong(path: &Path, offset: usize) -> impl FnOnce(&'static str) -> DecodeStoreError {
    let path = path.to_owned();
    move |rule| DecodeStoreError::Format(path, offset, rule)
}

fn read(path: &Path) -> Result<Vec<u8>, DecodeStoreError> {
    fs::read(path).map_err(|error| DecodeStoreError::Io(path.to_owned(), error))
}

/// Lists what is neither in the making nor an index, in the order of the names, which is that of
/// the positions.
fn segments(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    let derived = |path: &PathBuf| path.extension().is_some_and(|e| e == "tmp" || e == "idx");
    paths.retain(|path| !derived(path));
    paths.sort();
    Ok(paths)
}

/// Checks a header block and returns its fields from byte 12 on.
fn block(bytes: &[u8], magic: [u8; 8], flags_known: u16) -> Check<Fields<'_>> {
    let (block, sum) = bytes.split_last_chunk().ok_or("a block is cut short")?;
    let mut fields = Fields(block);
    ensure(crc(&[block]) == u32::from_le_bytes(*sum), "CRC of a block")?;
    ensure(fields.take(8)? == magic, "magic number of a block")?;
    let [version, flags] = fields.u16s()?;
    ensure(version == 1, "format version")?;
    ensure(flags & !flags_known == 0, "unknown flag of a block")?;
    Ok(fields)
}

fn store_id(bytes: &[u8]) -> Check<[u8; 16]> {
    ensure(bytes.len() == 4096, "size of STORE")?;
    let mut fields = block(bytes, *b"HWSTORE1", 0)?;
    let ([zero], id) = (fields.u32s()?, fields.get(|id| id)?);
    let ([_created], [slots]) = (fields.u64s()?, fields.u32s()?);
    ensure(zero == 0 && zeros(fields.0), "reserved bytes of STORE")?;
    ensure(slots == 1, "unknown way from a key to its slot")?;
    Ok(id)
}

impl Log {
    /// Starts before the first segment that the newer half of the catalog names.
    fn new(catalog: &[u8], store: [u8; 16], kind: u64) -> Check<Self> {
        ensure(catalog.len() == 8192, "size of CATALOG")?;
        let half = |parity: u64, bytes| -> Check<(u64, u32, [u64; 3])> {
            let mut fields = block(bytes, *b"HWCATLG1", 1)?;
            let ([zero], id, [sequence]) = (fields.u32s()?, fields.get(|id| id)?, fields.u64s()?);
            let ([epoch_last, zero_too], logs) = (fields.u32s()?, fields.u64s::<6>()?);
            ensure(zero | zero_too == 0 && zeros(fields.0), "reserved bytes of CATALOG")?;
            ensure(sequence % 2 == parity, "half of CATALOG by its sequence")?;
            ensure(id == store, "store id of CATALOG")?;
            let catalog =
                if kind == 0 { [logs[0], logs[1], logs[2]] } else { [logs[3], logs[4], logs[5]] };
            Ok((sequence, epoch_last, catalog))
        };
        let (even, odd) = catalog.split_at(4096);
        let newer = half(0, even).into_iter().chain(half(1, odd)).max();
        let (_, epoch_last, catalog) = newer.ok_or("neither half of CATALOG is valid")?;
        Ok(Self {
            store,
            kind,
            catalog,
            epoch_last,
            segment: catalog[0].max(1) - 1,
            position: 1,
            frames: 0,
            chain: 0,
            epoch: 0,
            commit_time: i64::MIN,
            offset: 0,
        })
    }

    fn segment(&mut self, path: &Path, bytes: &[u8], visit: &mut Visit<'_>) -> Check<()> {
        self.offset = 0;
        let mut fields =
            block(bytes.get(..4096).ok_or("a segment is cut short")?, *b"HWSEG001", 0)?;
        let ([units], store) = (fields.u32s()?, fields.get(|id: [u8; 16]| id)?);
        let ([kind, id, base], salt) = (fields.u64s()?, fields.get(|salt| salt)?);
        let ([_created, before], [chain, epoch]) = (fields.u64s()?, fields.u32s()?);
        let [durable, frames] = fields.u64s()?;
        ensure(zeros(fields.0), "reserved bytes of a segment")?;
        ensure(u64::try_from(bytes.len()) == Ok(u64::from(units) * 4096), "size of a segment")?;
        ensure(store == self.store && kind == self.kind, "segment of another log")?;
        ensure(
            path.file_name() == Some(format!("{base:020}-{id:08x}.seg").as_ref()),
            "name of a segment",
        )?;
        if id < self.catalog[0] {
            return Ok(());
        }
        if id > 1 && id == self.catalog[0] {
            (self.position, self.frames, self.chain) = (base, frames, chain);
        }
        ensure(
            id.checked_sub(1) == Some(self.segment) && before == self.segment,
            "segments have a hole",
        )?;
        ensure(
            (base, frames, chain) == (self.position, self.frames, self.chain),
            "a segment continues the one before",
        )?;
        ensure(base.checked_sub(1) == Some(durable), "durable position of a segment")?;
        ensure(epoch >= self.epoch && epoch <= self.epoch_last, "epoch of a segment")?;
        (self.segment, self.epoch, self.offset) = (id, epoch, 4096);
        while let Some(rest) = bytes.get(self.offset..).filter(|rest| !zeros(rest)) {
            self.offset += self.frame(rest, salt, visit)?;
        }
        Ok(())
    }

    /// Checks the frame in front of `rest`, visits it, and returns its length.
    fn frame(&mut self, rest: &[u8], salt: [u8; 8], visit: &mut Visit<'_>) -> Check<usize> {
        let mut fields = Fields(rest);
        let header = fields.take(64)?;
        let (start, mut fields) = (&header[..8], Fields(&header[8..]));
        let [header_crc, body_crc] = fields.u32s()?;
        ensure(crc(&[&salt, start, &header[12..]]) == header_crc, "CRC of a frame's header")?;
        let (magic, [length]) = (start.starts_with(b"HWF1"), Fields(&start[4..]).u32s()?);
        let ([position, number], commit_time) = (fields.u64s()?, fields.get(i64::from_le_bytes)?);
        let ([durable], [records, epoch, chain]) = (fields.u64s()?, fields.u32s()?);
        let [flags, hollow] = fields.u16s()?;
        ensure(magic, "magic number of a frame")?;
        ensure(length % 8 == 0 && (64..=1 << 24).contains(&length), "length of a frame")?;
        let whole = Fields(rest).take(length)?;
        let mut body = Fields(&whole[64..]);
        ensure(crc(&[&salt, body.0]) == body_crc, "CRC of a frame's body")?;
        ensure(flags == 0, "unknown flag of a frame")?;
        let (front, back) = whole.split_at_checked(512 - self.offset % 512).unwrap_or((whole, &[]));
        let sectors = iter::once(front).chain(back.chunks(512)).filter(|sector| zeros(sector));
        ensure(sectors.count() == usize::from(hollow), "number of sectors of zeros in a frame")?;
        let expected = (self.position, self.frames.checked_add(1), self.chain);
        ensure((position, Some(number), chain) == expected, "a frame continues the one before")?;
        ensure(durable < position, "durable position of a frame")?;
        ensure(commit_time >= self.commit_time, "commit time of a frame")?;
        ensure(epoch >= self.epoch && epoch <= self.epoch_last, "epoch of a frame")?;
        ensure(records > 0, "number of records in a frame")?;
        self.position = position.checked_add(records.into()).ok_or("position of a frame")?;
        visit(&Frame { salt, position, records, commit_time }, &mut body)?;
        ensure(body.0.len() < 8 && zeros(body.0), "padding of a frame")?;
        (self.frames, self.commit_time, self.epoch) = (number, commit_time, epoch);
        self.chain = header_crc ^ body_crc.rotate_left(16);
        Ok(whole.len())
    }
}
