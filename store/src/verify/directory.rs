//! What stands beside the log: the catalog, `TAILS`, `LEDGER`, groups, and files that are not ours.

use headwater_core::{Position, StreamId};

use super::{Quarantined, Severity, Verifier};
use crate::catalog;
use crate::error::Remedy;
use crate::format::BLOCK_BYTES;
use crate::format::catalog::Catalog;
use crate::format::segment::{LogKind, parse_file_name};
use crate::format::tails::Tails;
use crate::fs::{Access, is_temporary, read_file};
use crate::ledger;
use crate::open::{IMPORT_FILE, LOCK_FILE, QUARANTINE, STORE_FILE};
use crate::tails;

impl Verifier<'_> {
    /// Reads `TAILS` and checks it by itself.
    pub(super) fn tails(&mut self) -> Option<Tails<Vec<u8>>> {
        let path = self.dir.root.join(tails::FILE_NAME);
        let start = self.store.start();
        let bytes = match read_file(self.dir.fs.as_ref(), &path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if start > Position::START {
                    let detail = "it is missing, and the log begins behind its first position";
                    self.fault(Severity::Damage, path, detail.to_owned(), None);
                }
                return None;
            }
            Err(error) => {
                self.fault(Severity::Damage, path, format!("it cannot be read: {error}"), None);
                return None;
            }
        };
        let tails = match Tails::decode(bytes) {
            Ok(tails) => tails,
            Err(fault) => {
                self.fault(Severity::Damage, path, fault.to_string(), None);
                return None;
            }
        };
        let (store, through) = (tails.store, tails.through);
        if store != self.store.id() {
            let detail = format!("it belongs to store {store}");
            self.fault(Severity::Damage, path, detail, None);
            return None;
        }
        if through < start {
            let detail = format!("it reaches to position {through} only, and {start} was removed");
            self.fault(Severity::Damage, path, detail, None);
        }
        Some(tails)
    }

    /// Checks everything but the segments.
    pub(super) fn small_files(&mut self, tails: Option<&Tails<Vec<u8>>>) {
        if let Some(tails) = tails {
            self.ends_of_streams(tails);
        }
        self.catalog();
        self.ledger();
        self.groups();
        self.files();
    }

    fn ends_of_streams(&mut self, tails: &Tails<Vec<u8>>) {
        let path = self.dir.root.join(tails::FILE_NAME);
        for tail in tails.iter() {
            self.report.tails += 1;
            let is_name = StreamId::check(&tail.stream).is_ok();
            let is_end = (Position::FIRST..=tails.through).contains(&tail.position)
                && (1..=tail.position.get()).contains(&tail.revision.get());
            if !is_name || !is_end {
                let detail = format!(
                    "it says that stream {:?} ended at position {}, with revision {}",
                    tail.stream, tail.position, tail.revision
                );
                self.fault(Severity::Damage, path.clone(), detail, None);
            }
        }
    }

    fn catalog(&mut self) {
        let path = self.dir.root.join(catalog::FILE_NAME);
        let Ok(bytes) = read_file(self.dir.fs.as_ref(), &path) else { return };
        let mut epoch = self.store.catalog.epoch;
        for (at, other) in [(0, 1), (1, 0)] {
            let block = bytes.get(at * BLOCK_BYTES..).unwrap_or_default();
            match Catalog::decode(block) {
                // A new store has the same block twice.
                Ok(block) if block.sequence == 1 || block.sequence % 2 == at as u64 => {
                    // A writer that came since wrote its own.
                    epoch = epoch.max(block.epoch);
                }
                Ok(block) => {
                    let detail = format!("block {at} has the sequence {}", block.sequence);
                    self.fault(Severity::Damage, path.clone(), detail, None);
                }
                Err(fault) => {
                    let detail = format!(
                        "block {at} is torn or damaged: {fault}; block {other} counts, and the \
                         next writer replaces this one"
                    );
                    self.fault(Severity::Derived, path.clone(), detail, None);
                }
            }
        }
        let (catalog, end) = (self.store.catalog, self.store.log.end);
        let newest = self.store.log.active.as_ref().map_or(0, |active| active.header.id);
        if self.store.damage().is_some() {
            return;
        }
        if catalog.events.active_segment > newest {
            let detail = format!("it names segment {}", catalog.events.active_segment);
            self.fault(Severity::Damage, path.clone(), detail, None);
        }
        if end.epoch > epoch {
            let detail = format!("its epoch is {epoch}, and a frame has epoch {}", end.epoch);
            self.fault(Severity::Damage, path, detail, None);
        }
    }

    fn ledger(&mut self) {
        let path = self.dir.root.join(ledger::FILE_NAME);
        let (torn, removals) = match ledger::read_lines(self.dir.fs.as_ref(), &self.dir.root) {
            Ok(read) => read,
            Err(error) => {
                let detail = format!("it cannot be read: {error}");
                return self.fault(Severity::Note, path, detail, None);
            }
        };
        if torn > 0 {
            let detail = format!("{torn} of its lines are torn, and mean nothing");
            self.fault(Severity::Note, path.clone(), detail, None);
        }
        for removal in &removals {
            if removal.first > removal.through {
                let (first, through) = (removal.first, removal.through);
                let detail = format!("it says that {first} through {through} were removed");
                self.fault(Severity::Note, path.clone(), detail, None);
            }
        }
        let told = removals.iter().map(|removal| removal.through).max().unwrap_or_default();
        let start = self.store.start();
        if told < start {
            let detail = format!("it says nothing of what was removed up to position {start}");
            self.fault(Severity::Note, path, detail, None);
        }
    }

    fn groups(&mut self) {
        let path = self.dir.root.join(LogKind::Offsets.folder());
        let (head, start) = (self.store.head(), self.store.start());
        for group in self.store.groups() {
            let name = &group.definition.name;
            for (slots, progress) in group.runs() {
                let slots = format!("{}-{}", slots.first(), slots.last());
                let reach = progress.reach();
                let detail = if progress.disorder().is_some() {
                    format!("group {name}: what slots {slots} have settled is not in order")
                } else if progress.generation > group.generation {
                    format!("group {name}: slots {slots} have a generation that was never given")
                } else if reach > head {
                    format!("group {name}: slots {slots} are at {reach}, beyond the head {head}")
                } else {
                    continue;
                };
                let remedy = (reach > head).then_some(Remedy::CutTail);
                self.fault(Severity::Damage, path.clone(), detail, remedy);
            }
            if group.floor() < start {
                let floor = group.floor();
                let detail = format!(
                    "group {name} has read up to {floor}, and everything up to {start} was removed"
                );
                self.fault(Severity::Note, path.clone(), detail, None);
            }
        }
    }

    /// Lists what is not of the store, and what is set aside.
    fn files(&mut self) {
        let (fs, root) = (self.dir.fs.as_ref(), self.dir.root.clone());
        let known = [
            STORE_FILE,
            IMPORT_FILE,
            LOCK_FILE,
            catalog::FILE_NAME,
            tails::FILE_NAME,
            ledger::FILE_NAME,
            QUARANTINE,
            LogKind::Events.folder(),
            LogKind::Offsets.folder(),
            "lost+found",
        ];
        let mut strange = Vec::new();
        for name in fs.list(&root).unwrap_or_default() {
            if !known.contains(&name.as_str()) {
                strange.push(root.join(name));
            }
        }
        for (kind, first) in [
            (LogKind::Events, self.store.catalog.events.first_segment),
            (LogKind::Offsets, self.store.catalog.offsets.first_segment),
        ] {
            let folder = root.join(kind.folder());
            for name in fs.list(&folder).unwrap_or_default() {
                let counts = parse_file_name(&name.replace(".idx", ".seg"))
                    .is_some_and(|(_, id)| id >= first);
                if !counts {
                    strange.push(folder.join(name));
                }
            }
        }
        let folder = root.join(QUARANTINE);
        for file in fs.list(&folder).unwrap_or_default() {
            let opened = fs.open(&folder.join(&file), Access::Read).and_then(|file| file.size());
            self.report.quarantine.push(Quarantined { file, bytes: opened.unwrap_or(0) });
        }
        self.report.quarantine.sort_by(|a, b| a.file.cmp(&b.file));
        strange.sort();
        for path in strange {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let detail = if is_temporary(&name) {
                "it is in the making, or a crash left it; the next opening removes it"
            } else if parse_file_name(&name.replace(".idx", ".seg")).is_some() {
                "it was removed from the log, and goes at the next opening"
            } else {
                "it is not a file of the store"
            };
            self.fault(Severity::Note, path.clone(), detail.to_owned(), None);
        }
    }
}
