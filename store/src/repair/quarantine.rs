//! Copies in `quarantine/`, each there and on the device before what it is a copy of is touched.

use std::fmt::Write;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::salvage::{self, Holes, STEP_BYTES};
use super::{RepairError, Repairer, Unreadable};
use crate::format::is_zero;
use crate::fs::{Access, Fs, FsFile, is_unreadable, remove_file, write_file};
use crate::open::QUARANTINE;

impl Repairer {
    /// Copies a part of a file to `quarantine/`, durably, under a name of its own. Where the same is
    /// there already, as after a repair that was interrupted, it is not copied again.
    ///
    /// What the device does not give are zeros in the copy, and stands in a text beside it.
    pub(super) fn keep(
        &mut self,
        file: &Path,
        part: Range<u64>,
        name: &str,
    ) -> Result<(), RepairError> {
        let source = self.fs.open(file, Access::Read).map_err(RepairError::io("open", file))?;
        let part = Part { file, source: source.as_ref(), range: part };
        let folder = self.root.join(QUARANTINE);
        let fs = self.fs.as_ref();
        fs.create_dir(&folder).map_err(RepairError::io("create", &folder))?;
        fs.sync_dir(&self.root).map_err(RepairError::io("sync", &self.root))?;
        let (kept, lost) = match part.find(fs, &folder, name)? {
            Place::Found(copy, lost) => (copy, lost),
            Place::Free(name) => {
                let lost = part.copy(fs, &folder, &name)?;
                (name, lost)
            }
        };
        fs.sync_dir(&folder).map_err(RepairError::io("sync", &folder))?;
        if !lost.is_empty() {
            self.unreadable.push(Unreadable::new(file.to_owned(), lost));
        }
        self.kept.push(kept);
        Ok(())
    }
}

/// What is copied.
struct Part<'a> {
    file: &'a Path,
    source: &'a dyn FsFile,
    range: Range<u64>,
}

/// Where the copy is, or will be.
enum Place {
    /// It is whole already, but for this.
    Found(PathBuf, Holes),
    /// Nothing has this name.
    Free(PathBuf),
}

/// A step of a copy: where it begins, and as much of the buffer as it takes.
fn steps(range: &Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    let end = range.end;
    range.clone().step_by(STEP_BYTES).map(move |at| {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        (at, left.min(STEP_BYTES))
    })
}

impl Part<'_> {
    /// Returns the copy that is whole already and what it lacks, or else a name that is free.
    fn find(&self, fs: &dyn Fs, folder: &Path, name: &str) -> Result<Place, RepairError> {
        let names = fs.list(folder).map_err(RepairError::io("list", folder))?;
        // Another segment may have had the same name, and other bytes.
        let numbered = (2..).map(|n| format!("{name}.{n}"));
        for name in std::iter::once(name.to_owned()).chain(numbered) {
            let path = folder.join(&name);
            if !names.contains(&name) {
                return Ok(Place::Free(path));
            }
            let copy = fs.open(&path, Access::Write).map_err(RepairError::io("open", &path))?;
            if let Some(lost) =
                self.agrees(copy.as_ref()).map_err(RepairError::io("read", &path))?
            {
                // Whoever made it, it is on the device before its source goes.
                copy.sync().map_err(RepairError::io("sync", &path))?;
                return Ok(Place::Found(path, lost));
            }
        }
        unreachable!("numbers do not end")
    }

    /// Returns what a copy lacks, if it has everything that can be read.
    fn agrees(&self, copy: &dyn FsFile) -> io::Result<Option<Holes>> {
        if copy.size()? != self.range.end - self.range.start {
            return Ok(None);
        }
        let (mut here, mut there) = (vec![0; STEP_BYTES], vec![0; STEP_BYTES]);
        let mut lost = Holes::default();
        for (at, len) in steps(&self.range) {
            let (here, there) = (&mut here[..len], &mut there[..len]);
            match copy.read_at(there, at - self.range.start) {
                Err(error) if is_unreadable(&error) => return Ok(None),
                read => read?,
            }
            let mut holes = Holes::default();
            salvage::read(self.source, here, at, &mut holes)?;
            for hole in holes.into_ranges() {
                let inside = |offset: u64| usize::try_from(offset - at).expect("less than a step");
                let hidden = inside(hole.start)..inside(hole.end);
                // It may have been read when the copy was made.
                here[hidden.clone()].copy_from_slice(&there[hidden.clone()]);
                if is_zero(&there[hidden]) {
                    lost.push(hole);
                }
            }
            if here != there {
                return Ok(None);
            }
        }
        Ok(Some(lost))
    }

    /// Makes a copy, which has its name once all of it is on the device. Returns what it lacks.
    fn copy(&self, fs: &dyn Fs, folder: &Path, kept: &Path) -> Result<Holes, RepairError> {
        let name = kept.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder.join(format!("{name}.tmp"));
        let io = |action| RepairError::io(action, &temporary);
        remove_file(fs, &temporary).map_err(io("remove"))?;
        let target = fs.open(&temporary, Access::CreateNew).map_err(io("create"))?;
        let mut buffer = vec![0; STEP_BYTES];
        let mut holes = Holes::default();
        for (at, len) in steps(&self.range) {
            salvage::read(self.source, &mut buffer[..len], at, &mut holes)
                .map_err(RepairError::io("read", self.file))?;
            target.write_at(&buffer[..len], at - self.range.start).map_err(io("write"))?;
        }
        target.sync().map_err(io("sync"))?;
        let beside = format!("{name}.unreadable");
        let path = folder.join(&beside);
        if holes.is_empty() {
            // An attempt that got no further may have left one.
            remove_file(fs, &path).map_err(RepairError::io("remove", path))?;
        } else {
            write_file(fs, folder, &beside, self.describe(&holes).as_bytes())
                .map_err(RepairError::io("write", path))?;
        }
        fs.rename(&temporary, kept).map_err(RepairError::io("rename", kept))?;
        Ok(holes)
    }

    /// Says what a copy lacks, for whoever finds it later.
    fn describe(&self, holes: &Holes) -> String {
        let mut text = format!(
            "The copy beside this begins at byte {} of {}. The device did not give these bytes \
             of that file, first to last; they are zeros in the copy:\n",
            self.range.start,
            self.file.display(),
        );
        for hole in holes.clone().into_ranges() {
            let _ = writeln!(text, "{} to {}", hole.start, hole.end - 1);
        }
        text
    }
}
