//! A disk that is full, and one that is read-only. Needs root, to mount a small one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::{event, events, run};

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
