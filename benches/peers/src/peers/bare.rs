//! No store at all: blocks of 4 KiB, written one behind the other into a file that was filled
//! with zeros before. What the machine allows.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Fallible, Mode, Peer, Prepared, Verdict};

const FILE_BYTES: u64 = 128 * 1024 * 1024;
const BLOCK: [u8; 4096] = [0xA5; 4096];

pub struct Bare {
    file: File,
    next: AtomicU64,
    mode: Mode,
}

impl Bare {
    pub fn open(dir: &Path, mode: Mode) -> Fallible<Self> {
        let mut file = File::create(dir.join("blocks"))?;
        let zeros = vec![0; 64 * 1024];
        for _ in 0..FILE_BYTES / zeros.len() as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(Self { file, next: AtomicU64::new(0), mode })
    }
}

impl Peer for Bare {
    fn prepare<'a>(&'a self, _: &'a [u64], _: Option<u64>) -> Fallible<Prepared<'a>> {
        let offset = self.next.fetch_add(BLOCK.len() as u64, Ordering::Relaxed) % FILE_BYTES;
        Ok(Box::new(move || {
            self.file.write_all_at(&BLOCK, offset)?;
            if self.mode == Mode::Sync {
                self.file.sync_data()?;
            }
            Ok(Verdict::Accepted)
        }))
    }

    fn is_store(&self) -> bool {
        false
    }

    fn close(self: Arc<Self>) -> Fallible<()> {
        Ok(())
    }
}
