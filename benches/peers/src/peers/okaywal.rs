//! okaywal: a write-ahead log alone, without index, conditions or reading back. An append is one
//! entry with a chunk for each event. Old entries go at each
//! checkpoint. Its files are larger than by default, so that checkpoints are rare.

use std::path::Path;
use std::sync::Arc;

use okaywal::{Configuration, LogVoid, WriteAheadLog};

use super::{Fallible, Peer, Prepared, Verdict, encode, stream_name};

pub struct Okay {
    log: WriteAheadLog,
}

impl Okay {
    pub fn open(dir: &Path) -> Fallible<Self> {
        Ok(Self {
            log: {
                let files = Configuration::default_for(dir).preallocate_bytes(64 * 1024 * 1024);
                files.checkpoint_after_bytes(48 * 1024 * 1024).open(LogVoid)?
            },
        })
    }
}

impl Peer for Okay {
    fn prepare<'a>(&'a self, streams: &'a [u64], _: Option<u64>) -> Fallible<Prepared<'a>> {
        let events: Vec<_> = streams.iter().map(|&n| encode(&stream_name(n), 0)).collect();
        Ok(Box::new(move || {
            let mut entry = self.log.begin_entry()?;
            for event in &events {
                entry.write_chunk(event)?;
            }
            entry.commit()?;
            Ok(Verdict::Accepted)
        }))
    }

    fn has_conditions(&self) -> bool {
        false
    }

    fn close(self: Arc<Self>) -> Fallible<()> {
        Ok(self.log.clone().shutdown()?)
    }
}
