//! A disk that is full, and one that is read-only. Needs root, to mount a small one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Place, event, events, run};

/// A small file system in memory, unmounted when it goes.
struct Disk {
    dir: TempDir,
}

impl Disk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = mount(&["-t", "tmpfs", "-o", &options, "headwater-test"], dir.path());
        if !mounted {
            eprintln!("SKIPPED: cannot mount a tmpfs here, so full disks were NOT tested");
        }
        mounted.then_some(Self { dir })
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).output();
    }
}

fn mount(args: &[&str], dir: &Path) -> bool {
    Command::new("mount").args(args).arg(dir).output().is_ok_and(|run| run.status.success())
}

#[test]
fn a_full_disk_ends_appending_and_keeps_what_was_acknowledged() {
    let Some(disk) = Disk::mount("1m") else { return };
    let path = disk.store();
    let store = path.to_str().unwrap();
    let append = ["append", store, "--create", "--segment-bytes", "128KiB"];
    let full = run(&append, &events(1, 20_000));
    full.fails(1, &["line ", "no space", "free some", "caused by: "]);
    let acked = full.acks();
    assert!(acked.len() > 100, "{}", full.err);
    let read = run(&["read", store, "--json"], "");
    assert_eq!(read.code, 0, "{}", read.err);
    for ((id, position), event) in acked.iter().zip(read.json()) {
        assert_eq!((&event["id"], &event["position"]), (&id.as_str().into(), &(*position).into()));
    }
    assert!(read.out.lines().count() >= acked.len());
    assert_eq!(run(&["verify", store], "").code, 0);
}

#[test]
fn a_store_cannot_be_created_on_a_full_disk() {
    let Some(disk) = Disk::mount("1m") else { return };
    let path = disk.store();
    let store = path.to_str().unwrap();
    let _ = fs::write(disk.dir.path().join("ballast"), vec![1; 2 << 20]);
    let append = ["append", store, "--create", "--segment-bytes", "64KiB"];
    let full = run(&append, &event(1, "s-1"));
    full.fails(1, &["caused by: No space left"]);
    fs::remove_file(disk.dir.path().join("ballast")).unwrap();
    let healed = run(&append, &event(1, "s-1"));
    assert_eq!((healed.code, healed.acks().len()), (0, 1), "{}", healed.err);
}

#[test]
fn a_repair_that_finds_no_space_says_how_far_it_came_and_is_finished_by_another() {
    let Some(disk) = Disk::mount("1m") else { return };
    let path = disk.store();
    let store = path.to_str().unwrap();
    let append = ["append", store, "--create", "--segment-bytes", "64KiB"];
    assert_eq!(run(&append, &events(1, 1_000)).code, 0);
    let ballast = disk.dir.path().join("ballast");
    let _ = fs::write(&ballast, vec![1; 2 << 20]);
    let quarantine = ["--quarantine-segment", "1", "--apply", "--lose-acknowledged"];
    let repair = [&["repair", store][..], &quarantine].concat();
    let full = run(&repair, "");
    full.fails(1, &["the repair stopped at step 1 of 3", "caused by: No space left"]);
    assert_eq!(full.err.matches("\nnot done  ").count(), 3, "{}", full.err);
    fs::remove_file(ballast).unwrap();
    let done = run(&repair, "");
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(done.out.matches("did       ").count(), 3, "{}", done.out);
    assert_eq!(run(&["verify", store], "").code, 0);
}

#[test]
fn an_export_that_finds_no_space_leaves_no_file() {
    let Some(disk) = Disk::mount("1m") else { return };
    let place = Place::with(&events(1, 5_000));
    let file = disk.dir.path().join("log.ndjson");
    let export = ["export", place.text(), file.to_str().unwrap()];
    run(&export, "").fails(1, &["caused by: No space left"]);
    assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 0, "nothing half done is left");
}

#[test]
fn an_import_that_finds_no_space_leaves_no_store_and_can_be_repeated() {
    let Some(disk) = Disk::mount("1m") else { return };
    let place = Place::with(&events(1, 15_000));
    let lines = place.look("export", &[]).out;
    let path = disk.store();
    let import = ["import", "-", path.to_str().unwrap(), "--segment-bytes", "64KiB"];
    run(&import, &lines).fails(1, &["no space"]);
    let left = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name != "LOCK").collect();
    assert!(left.is_empty(), "{left:?} is left half done");
    let few = Place::with(&events(1, 50)).look("export", &[]).out;
    let again = run(&import, &few);
    assert_eq!(again.code, 0, "{again:?}");
}

#[test]
fn a_read_only_disk_can_be_read_and_not_appended_to() {
    let Some(disk) = Disk::mount("1m") else { return };
    let path = disk.store();
    let store = path.to_str().unwrap();
    let append = ["append", store, "--create", "--segment-bytes", "64KiB"];
    assert_eq!(run(&append, &events(1, 9)).code, 0);
    assert!(mount(&["-o", "remount,ro"], disk.dir.path()), "root can remount");
    run(&append, &event(10, "s-1")).fails(1, &["caused by: Read-only file system"]);
    for command in ["stat", "tail", "read", "groups", "verify"] {
        assert_eq!(run(&[command, store], "").code, 0, "{command}");
    }
}
