//! The catalog's file: two blocks, written in turn.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use headwater_core::LogId;

use crate::error::OpenError;
use crate::format::BLOCK_BYTES;
use crate::format::block::BlockFault;
use crate::format::catalog::Catalog;
use crate::fs::{Access, Fs, FsFile, read_file, write_file};
use crate::planted::{Bug, planted};
use crate::sync::Mutex;

pub(crate) const FILE_NAME: &str = "CATALOG";

/// The catalog of an open store. Both logs keep their entries in it.
#[derive(Debug)]
pub(crate) struct CatalogFile {
    file: Arc<dyn FsFile>,
    current: Mutex<Catalog>,
}

/// Creates the file of a store that is being made.
pub(crate) fn create(fs: &dyn Fs, root: &Path, catalog: &Catalog) -> io::Result<()> {
    let mut bytes = catalog.encode();
    bytes.extend_from_slice(&bytes.clone());
    write_file(fs, root, FILE_NAME, &bytes)
}

/// Reads the newest valid block. One may be torn; both are an error, and never a new store.
pub(crate) fn read(fs: &dyn Fs, root: &Path, store: LogId) -> Result<Catalog, OpenError> {
    let path = root.join(FILE_NAME);
    let bytes = read_file(fs, &path).map_err(OpenError::io("read", &path))?;
    let blocks = [0, BLOCK_BYTES].map(|at| Catalog::decode(bytes.get(at..).unwrap_or_default()));
    let newest = blocks.iter().flatten().max_by_key(|catalog| catalog.sequence).copied();
    let fault = |path: PathBuf, fault: &BlockFault| file_fault(path, fault);
    match (newest, &blocks) {
        (Some(catalog), _) if catalog.store == store => Ok(catalog),
        (Some(catalog), _) => Err(OpenError::File {
            path,
            detail: format!("it belongs to store {}, not {store}", catalog.store),
        }),
        (None, [Err(first), _]) => Err(fault(path, first)),
        (None, _) => unreachable!("a block is valid or has a fault"),
    }
}

/// Turns the fault of a header block into an error about its file.
pub(crate) fn file_fault(path: PathBuf, fault: &BlockFault) -> OpenError {
    match *fault {
        BlockFault::Version { found, known } if found > known => {
            OpenError::NewerFormat { path, found, known }
        }
        _ => OpenError::File { path, detail: fault.to_string() },
    }
}

impl CatalogFile {
    /// Opens the file to write on from `current`.
    pub(crate) fn open(fs: &dyn Fs, root: &Path, current: Catalog) -> Result<Self, OpenError> {
        let path = root.join(FILE_NAME);
        let file = fs.open(&path, Access::Write).map_err(OpenError::io("open", path))?;
        Ok(Self { file, current: Mutex::new(current) })
    }

    /// Changes the catalog and makes it durable, in the block that is not the newest.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Catalog)) -> io::Result<()> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = *current;
        change(&mut next);
        next.sequence += 1;
        let turn = if planted(Bug::CatalogInPlace) { 0 } else { next.sequence % 2 };
        let at = turn * BLOCK_BYTES as u64;
        self.file.write_at(&next.encode(), at)?;
        if !planted(Bug::CatalogWithoutSync) {
            self.file.sync()?;
        }
        *current = next;
        Ok(())
    }
}
