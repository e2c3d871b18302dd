//! Whether the simulated disk can do everything that real file systems do: the same small scenarios
//! on it and on ext4 and XFS that are shut down. What is real must be among what is simulated.

use headwater_testkit::{Disk, DiskKind};

use super::super::real::RealFs;
use super::super::{replace_file, write_file};
use super::*;
use crate::fs::{Access, Fs};

/// What is in a directory: files with their bytes, directories without.
type Outcome = BTreeMap<String, Option<Vec<u8>>>;

/// Where a scenario plays, and how the power goes in the middle of it.
struct Stage<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    cut: &'a dyn Fn(),
}

type Play = fn(&Stage<'_>) -> io::Result<()>;

/// How the kernel may write back, by itself, before the power goes.
#[derive(Clone, Copy, Debug)]
enum WriteBack {
    None,
    /// Some pages of every file.
    Pages,
}

impl Stage<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn FsFile>> {
        self.fs.open(&self.path(name), Access::CreateNew)
    }

    /// Makes a file with two sectors that is durable, with its name.
    fn settled(&self, name: &str, byte: u8) -> io::Result<Arc<dyn FsFile>> {
        let file = self.create(name)?;
        file.write_at(&[byte; 2 * SECTOR_BYTES], 0)?;
        file.sync()?;
        self.sync_dir()?;
        Ok(file)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.fs.rename(&self.path(from), &self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.fs.remove(&self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.fs.sync_dir(self.dir)
    }
}

/// A sector's worth and a bit of a byte.
fn some(byte: u8) -> Vec<u8> {
    vec![byte; 700]
}

const SCENARIOS: [(&str, Play); 39] = [
    ("create", |s| s.create("a").map(drop)),
    ("create, write", |s| s.create("a")?.write_at(&some(1), 0)),
    ("create, write, sync", |s| {
        let file = s.create("a")?;
        file.write_at(&some(1), 0)?;
        file.sync()
    }),
    ("create, sync", |s| s.create("a")?.sync()),
    ("create, sync of the directory", |s| {
        s.create("a")?;
        s.sync_dir()
    }),
    ("create, write, sync of the directory", |s| {
        s.create("a")?.write_at(&some(1), 0)?;
        s.sync_dir()
    }),
    ("create, write, both syncs", |s| s.settled("a", 1).map(drop)),
    ("two files, one synced", |s| {
        s.create("a")?.write_at(&some(1), 0)?;
        let second = s.create("b")?;
        second.write_at(&some(2), 0)?;
        second.sync()
    }),
    ("overwrite", |s| s.settled("a", 1)?.write_at(&some(2), 0)),
    ("overwrite, sync", |s| {
        let file = s.settled("a", 1)?;
        file.write_at(&some(2), 0)?;
        file.sync()
    }),
    ("overwrite twice", |s| {
        let file = s.settled("a", 1)?;
        file.write_at(&some(2), 0)?;
        file.write_at(&some(3), 100)
    }),
    ("overwrite, sync, overwrite", |s| {
        let file = s.settled("a", 1)?;
        file.write_at(&some(2), 0)?;
        file.sync()?;
        file.write_at(&some(3), 0)
    }),
    ("overwrite what was evicted", |s| {
        let file = s.settled("a", 1)?;
        file.evict()?;
        file.write_at(&some(2), 0)
    }),
    ("grow by writing", |s| s.settled("a", 1)?.write_at(&some(2), 1024)),
    ("grow by writing, sync", |s| {
        let file = s.settled("a", 1)?;
        file.write_at(&some(2), 1024)?;
        file.sync()
    }),
    ("write behind a hole", |s| s.create("a")?.write_at(&some(1), 1024)),
    ("write behind a hole, sync", |s| {
        let file = s.create("a")?;
        file.write_at(&some(1), 1024)?;
        file.sync()
    }),
    ("set the size", |s| s.settled("a", 1)?.set_size(1500)),
    ("set the size, sync", |s| {
        let file = s.settled("a", 1)?;
        file.set_size(1500)?;
        file.sync()
    }),
    ("set a lower size", |s| s.settled("a", 1)?.set_size(512)),
    ("set a lower size, sync", |s| {
        let file = s.settled("a", 1)?;
        file.set_size(512)?;
        file.sync()
    }),
    ("allocate", |s| s.create("a")?.allocate(1024)),
    ("allocate, sync", |s| {
        let file = s.create("a")?;
        file.allocate(1024)?;
        file.sync()
    }),
    ("allocate, write, sync", |s| {
        let file = s.create("a")?;
        file.allocate(1536)?;
        file.write_at(&some(1), 0)?;
        file.sync()
    }),
    ("rename", |s| {
        s.settled("a", 1)?;
        s.rename("a", "b")
    }),
    ("rename, sync of the directory", |s| {
        s.settled("a", 1)?;
        s.rename("a", "b")?;
        s.sync_dir()
    }),
    ("rename over another", |s| {
        s.settled("a", 1)?;
        s.settled("b", 2)?;
        s.rename("a", "b")
    }),
    ("rename what was never synced over another", |s| {
        s.settled("b", 2)?;
        s.create("a")?.write_at(&some(1), 0)?;
        s.rename("a", "b")
    }),
    ("rename twice", |s| {
        s.settled("a", 1)?;
        s.rename("a", "b")?;
        s.rename("b", "c")
    }),
    ("rename, and create under the old name", |s| {
        s.settled("a", 1)?;
        s.rename("a", "b")?;
        s.create("a")?.write_at(&some(2), 0)
    }),
    ("a whole file at once", |s| write_file(s.fs, s.dir, "a", &some(1))),
    ("a whole file replaced", |s| {
        s.settled("a", 1)?;
        replace_file(s.fs, s.dir, "a", &some(2))
    }),
    ("remove", |s| {
        s.settled("a", 1)?;
        s.remove("a")
    }),
    ("remove, sync of the directory", |s| {
        s.settled("a", 1)?;
        s.remove("a")?;
        s.sync_dir()
    }),
    ("remove, and create again", |s| {
        s.settled("a", 1)?;
        s.remove("a")?;
        let file = s.create("a")?;
        file.write_at(&some(2), 0)?;
        file.sync()
    }),
    ("a directory with a file that is synced", |s| {
        let inner = s.path("inner");
        s.fs.create_dir(&inner)?;
        let file = s.fs.open(&inner.join("a"), Access::CreateNew)?;
        file.write_at(&some(1), 0)?;
        file.sync()?;
        s.fs.sync_dir(&inner)
    }),
    ("a directory with a file, all of it synced", |s| {
        let inner = s.path("inner");
        s.fs.create_dir(&inner)?;
        write_file(s.fs, &inner, "a", &some(1))?;
        s.sync_dir()
    }),
    ("a sync that fails", |s| {
        let file = s.settled("a", 1)?;
        file.write_at(&some(2), 0)?;
        (s.cut)();
        assert!(file.sync().is_err(), "the power is gone");
        Ok(())
    }),
    ("a new file whose directory cannot be synced", |s| {
        let file = s.create("a")?;
        file.write_at(&some(2), 0)?;
        file.sync()?;
        (s.cut)();
        assert!(s.sync_dir().is_err(), "the power is gone");
        Ok(())
    }),
];

/// What is in files, as people read it: each byte, and how often it repeats.
fn in_short(outcome: &Outcome) -> String {
    let file = |bytes: &Vec<u8>| -> String {
        let runs = bytes.chunk_by(|a, b| a == b).map(|run| format!(" {}x{}", run.len(), run[0]));
        runs.collect::<Vec<_>>().concat()
    };
    let entry = |(name, bytes): (&String, &Option<Vec<u8>>)| {
        format!("[{name}{}]", bytes.as_ref().map(file).unwrap_or_default())
    };
    outcome.iter().map(entry).collect()
}

/// Reads what is there, with directories one deep.
fn outcome(fs: &dyn Fs, dir: &Path) -> Outcome {
    let mut found = Outcome::new();
    for name in fs.list(dir).unwrap() {
        let path = dir.join(&name);
        if let Ok(inner) = fs.list(&path) {
            found.insert(name.clone(), None);
            for file in inner {
                let bytes = crate::fs::read_file(fs, &path.join(&file)).unwrap();
                found.insert(format!("{name}/{file}"), Some(bytes));
            }
        } else {
            found.insert(name, Some(crate::fs::read_file(fs, &path).unwrap()));
        }
    }
    found
}

/// Everything that the simulated disk makes of a scenario, in many draws.
fn simulated(play: Play) -> Vec<Outcome> {
    let dir = Path::new("/disk");
    let mut outcomes = std::collections::BTreeSet::new();
    let survivals = [Survival::Nothing, Survival::Everything];
    for survival in survivals.into_iter().chain((0..1_000).map(Survival::Drawn)) {
        let fs = SimFs::new(dir);
        let cut = || fs.fail_at(fs.steps(), Fault::PowerOff);
        play(&Stage { fs: &fs, dir, cut: &cut }).unwrap();
        fs.lose_power(survival);
        outcomes.insert(outcome(&fs, dir));
    }
    outcomes.into_iter().collect()
}

/// What a real file system makes of it.
fn real(disk: &mut Disk, number: usize, play: Play, write_back: WriteBack) -> Outcome {
    let dir = disk.path().join(number.to_string());
    RealFs.create_dir(&dir).unwrap();
    RealFs.sync_dir(&dir).unwrap();
    RealFs.sync_dir(&disk.path()).unwrap();
    let cut = || disk.cut_power().unwrap();
    play(&Stage { fs: &RealFs, dir: &dir, cut: &cut }).unwrap();
    if matches!(write_back, WriteBack::Pages) {
        for name in RealFs.list(&dir).unwrap_or_default() {
            if let Ok(file) = RealFs.open(&dir.join(name), Access::Read) {
                // Asked to drop pages that are dirty, Linux begins to write them.
                let _ = file.evict();
            }
        }
    }
    // In some scenarios it has gone already.
    let _ = disk.cut_power();
    disk.remount().unwrap();
    outcome(&RealFs, &dir)
}

#[test]
#[ignore = "mounts file systems; needs root"]
fn real_disks_do_nothing_that_the_simulated_one_cannot() {
    for kind in [DiskKind::Ext4, DiskKind::Xfs] {
        let mut disk = match Disk::new(kind) {
            Ok(disk) => disk,
            Err(error) => {
                println!("SKIPPED: the simulated disk against {kind}: {error}");
                continue;
            }
        };
        let mut all = 0;
        let mut number = 0;
        for (name, play) in SCENARIOS {
            let simulated = simulated(play);
            for write_back in [WriteBack::None, WriteBack::Pages] {
                number += 1;
                let real = real(&mut disk, number, play, write_back);
                assert!(
                    simulated.contains(&real),
                    "{name} on {kind} ({write_back:?}) gives {}, and simulated {:#?}",
                    in_short(&real),
                    simulated.iter().map(in_short).collect::<Vec<_>>(),
                );
            }
            all += simulated.len();
        }
        println!(
            r#"{{"campaign": "conformance", "file_system": "{kind}", "scenarios": {}, "power_cuts": {number}, "outcomes_simulated": {all}}}"#,
            SCENARIOS.len(),
        );
    }
}
