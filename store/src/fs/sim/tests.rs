//! What the simulated disk may and may not keep.

use super::*;
use crate::fs::{Access, Fs};

const DIR: &str = "/disk";

/// Every content that a file may have after power is lost, in some draws.
fn outcomes(work: impl Fn(&SimFs)) -> BTreeMap<Option<Vec<u8>>, usize> {
    let mut found = BTreeMap::new();
    let survivals = [Survival::Nothing, Survival::Everything];
    for survival in survivals.into_iter().chain((0..200).map(Survival::Drawn)) {
        let fs = SimFs::new(Path::new(DIR));
        work(&fs);
        fs.lose_power(survival);
        let content = crate::fs::read_file(&fs, &Path::new(DIR).join("f")).ok();
        *found.entry(content).or_default() += 1;
    }
    found
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn created(fs: &SimFs, name: &str) -> Arc<dyn FsFile> {
    fs.open(&path(name), Access::CreateNew).unwrap()
}

fn kept(work: impl Fn(&SimFs)) -> Vec<Option<Vec<u8>>> {
    outcomes(work).into_keys().collect()
}

#[test]
fn a_name_and_its_bytes_are_kept_apart() {
    let bytes = vec![7; 100];
    let found = kept(|fs| created(fs, "f").write_at(&[7; 100], 0).unwrap());
    assert!(found.contains(&None) && found.contains(&Some(bytes.clone())));
    assert!(found.contains(&Some(vec![])), "a name without its bytes");
    assert!(found.contains(&Some(vec![0; 100])), "a size without its bytes");
    let named = kept(|fs| {
        created(fs, "f").write_at(&[7; 100], 0).unwrap();
        fs.sync_dir(Path::new(DIR)).unwrap();
    });
    assert!(!named.contains(&None) && named.contains(&Some(vec![])));
    let synced = kept(|fs| {
        let file = created(fs, "f");
        file.write_at(&[7; 100], 0).unwrap();
        file.sync().unwrap();
    });
    assert_eq!(synced, [None, Some(bytes.clone())]);
    let both = kept(|fs| {
        let file = created(fs, "f");
        file.write_at(&[7; 100], 0).unwrap();
        file.sync().unwrap();
        fs.sync_dir(Path::new(DIR)).unwrap();
    });
    assert_eq!(both, [Some(bytes)]);
}

#[test]
fn each_sector_keeps_any_content_since_the_last_sync() {
    let found = kept(|fs| {
        let file = created(fs, "f");
        file.write_at(&[1; 1024], 0).unwrap();
        file.sync().unwrap();
        fs.sync_dir(Path::new(DIR)).unwrap();
        file.write_at(&[2; 1024], 0).unwrap();
        file.write_at(&[3; 512], 512).unwrap();
    });
    let firsts_and_seconds: Vec<(u8, u8)> =
        found.iter().flatten().map(|bytes| (bytes[0], bytes[512])).collect();
    assert_eq!(firsts_and_seconds, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]);
    assert!(found.iter().flatten().all(|b| b[..512].iter().all(|&x| x == b[0])), "whole sectors");
}

#[test]
fn the_end_of_a_shortened_file_may_be_zeros_before_its_size_is_durable() {
    let found = kept(|fs| {
        let file = created(fs, "f");
        file.write_at(&[7; 1024], 0).unwrap();
        file.sync().unwrap();
        fs.sync_dir(Path::new(DIR)).unwrap();
        file.set_size(512).unwrap();
    });
    let zeroed = [[7; 512], [0; 512]].concat();
    assert_eq!(found, [Some(vec![7; 512]), Some(zeroed), Some(vec![7; 1024])]);
}

#[test]
fn a_renamed_file_is_the_old_or_the_new_one() {
    let found = kept(|fs| {
        for (name, byte) in [("f", 1), ("f.tmp", 2)] {
            let file = created(fs, name);
            file.write_at(&[byte; 8], 0).unwrap();
            file.sync().unwrap();
        }
        fs.sync_dir(Path::new(DIR)).unwrap();
        fs.rename(&path("f.tmp"), &path("f")).unwrap();
    });
    assert_eq!(found, [Some(vec![1; 8]), Some(vec![2; 8])]);
}

#[test]
fn a_removed_file_comes_back_unless_its_directory_was_synced() {
    let remove = |sync: bool| {
        kept(move |fs| {
            created(fs, "f").sync().unwrap();
            fs.sync_dir(Path::new(DIR)).unwrap();
            fs.remove(&path("f")).unwrap();
            if sync {
                fs.sync_dir(Path::new(DIR)).unwrap();
            }
        })
    };
    assert_eq!(remove(false), [None, Some(vec![])]);
    assert_eq!(remove(true), [None]);
}

#[test]
fn a_failed_sync_is_forgotten_and_the_next_one_means_nothing() {
    let fs = SimFs::new(Path::new(DIR));
    let file = created(&fs, "f");
    file.write_at(&[1; 512], 0).unwrap();
    file.sync().unwrap();
    fs.sync_dir(Path::new(DIR)).unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    fs.fail_at(fs.steps(), Fault::Once(5));
    assert!(file.sync().is_err());
    file.sync().unwrap();
    let read = |fs: &SimFs| crate::fs::read_file(fs, &path("f")).unwrap()[0];
    assert_eq!(read(&fs), 2, "the cache has it");
    let map = file.map().unwrap();
    assert_eq!(map.below(1), [2]);
    file.evict().unwrap();
    assert_eq!((read(&fs), map.below(1)[0]), (1, 1), "the device never had it");
    fs.lose_power(Survival::Everything);
    assert_eq!(read(&fs), 1);
}

#[test]
fn nothing_works_without_power_and_old_handles_stay_dead() {
    let fs = SimFs::new(Path::new(DIR));
    let file = created(&fs, "f");
    let lock = fs.lock(&path("LOCK")).unwrap().unwrap();
    assert!(fs.lock(&path("LOCK")).unwrap().is_none());
    fs.fail_at(fs.steps(), Fault::PowerOff);
    assert!(file.write_at(&[1], 0).is_err() && file.size().is_err());
    assert!(fs.list(Path::new(DIR)).is_err());
    fs.lose_power(Survival::Everything);
    assert!(file.size().is_err() && lock.size().is_err());
    assert!(fs.lock(&path("LOCK")).unwrap().is_some());
}

#[test]
fn a_directory_without_its_name_is_gone_with_its_files() {
    let inner = Path::new(DIR).join("inner");
    let run = |synced: bool| {
        let fs = SimFs::new(Path::new(DIR));
        fs.create_dir(&inner).unwrap();
        fs.open(&inner.join("f"), Access::CreateNew).unwrap().sync().unwrap();
        fs.sync_dir(&inner).unwrap();
        if synced {
            fs.sync_dir(Path::new(DIR)).unwrap();
        }
        fs.lose_power(Survival::Nothing);
        fs.list(&inner).is_ok()
    };
    assert_eq!((run(false), run(true)), (false, true));
}

#[test]
fn a_directory_that_was_lost_with_its_parent_can_be_made_again() {
    let fs = SimFs::new(Path::new(DIR));
    let (outer, inner) = (path("outer"), path("outer").join("inner"));
    for dir in [&outer, &inner] {
        fs.create_dir(dir).unwrap();
    }
    fs.lose_power(Survival::Nothing);
    assert!(fs.list(&outer).is_err() && fs.list(&inner).is_err());
    for dir in [&outer, &inner] {
        fs.create_dir(dir).unwrap();
    }
    assert_eq!(fs.list(&outer).unwrap(), ["inner"]);
}

#[test]
fn a_second_name_leads_to_the_same_bytes_and_is_durable_on_its_own() {
    let run = |synced: bool, survival| {
        let fs = SimFs::new(Path::new(DIR));
        let inner = path("inner");
        fs.create_dir(&inner).unwrap();
        created(&fs, "f").sync().unwrap();
        fs.sync_dir(Path::new(DIR)).unwrap();
        let second = inner.join("g");
        fs.link(&path("f"), &second).unwrap();
        let error = fs.link(&path("f"), &second).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        if synced {
            fs.sync_dir(&inner).unwrap();
        }
        fs.remove(&path("f")).unwrap();
        fs.lose_power(survival);
        let [first, second] = [path("f"), second].map(|name| fs.open(&name, Access::Write).ok());
        if let (Some(first), Some(second)) = (&first, &second) {
            first.write_at(&[9], 0).unwrap();
            assert_eq!(second.size().unwrap(), 1, "one file");
        }
        (first.is_some(), second.is_some())
    };
    assert_eq!(run(true, Survival::Nothing), (true, true));
    assert_eq!(run(true, Survival::Everything), (false, true));
    let found: std::collections::BTreeSet<_> =
        (0..50).map(|seed| run(false, Survival::Drawn(seed))).collect();
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn a_directory_goes_when_it_is_empty_and_comes_back_unless_that_was_synced() {
    let run = |synced: bool, survival| {
        let fs = SimFs::new(Path::new(DIR));
        let inner = path("inner");
        fs.create_dir(&inner).unwrap();
        fs.open(&inner.join("f"), Access::CreateNew).unwrap().sync().unwrap();
        fs.sync_dir(&inner).unwrap();
        fs.sync_dir(Path::new(DIR)).unwrap();
        assert!(fs.remove_dir(&inner).is_err(), "it is not empty");
        fs.remove(&inner.join("f")).unwrap();
        fs.remove_dir(&inner).unwrap();
        assert!(fs.list(&inner).is_err());
        if synced {
            fs.sync_dir(Path::new(DIR)).unwrap();
        }
        fs.lose_power(survival);
        fs.list(&inner).ok()
    };
    assert_eq!(run(false, Survival::Nothing), Some(vec!["f".to_owned()]));
    assert_eq!(run(true, Survival::Nothing), None);
    assert_eq!(run(false, Survival::Everything), None);
}

#[test]
fn one_seed_gives_one_outcome() {
    let run = |seed| {
        let fs = SimFs::new(Path::new(DIR));
        let file = created(&fs, "f");
        fs.sync_dir(Path::new(DIR)).unwrap();
        file.set_size(40_000).unwrap();
        file.sync().unwrap();
        // Only the sectors are left to chance, each for itself: two outcomes are not the same by
        // chance.
        file.write_at(&vec![1; 40_000], 0).unwrap();
        fs.lose_power(Survival::Drawn(seed));
        let bytes = crate::fs::read_file(&fs, &path("f")).unwrap();
        bytes.into_iter().step_by(SECTOR_BYTES).collect::<Vec<_>>()
    };
    assert_eq!(run(42), run(42));
    assert_ne!(run(42), run(43));
}

#[test]
fn the_death_of_a_process_keeps_what_it_wrote_and_power_may_still_take_it() {
    let written = || {
        let fs = SimFs::new(Path::new(DIR));
        let file = created(&fs, "f");
        let lock = fs.lock(&path("LOCK")).unwrap();
        file.write_at(&[7; 600], 0).unwrap();
        fs.stop();
        assert!(file.write_at(&[8], 0).is_err());
        fs.kill_process();
        assert!(file.size().is_err(), "its files went with the process");
        assert!(lock.is_some() && fs.lock(&path("LOCK")).unwrap().is_some());
        fs
    };
    let read = |fs: &SimFs| crate::fs::read_file(fs, &path("f")).ok();
    let fs = written();
    assert_eq!(read(&fs), Some(vec![7; 600]));
    fs.lose_power(Survival::Nothing);
    assert_eq!(read(&fs), None);
    let fs = written();
    fs.open(&path("f"), Access::Write).unwrap().sync().unwrap();
    fs.sync_dir(Path::new(DIR)).unwrap();
    fs.lose_power(Survival::Nothing);
    assert_eq!(read(&fs), Some(vec![7; 600]));
}

#[test]
fn syncing_one_file_says_nothing_of_another() {
    let fs = SimFs::new(Path::new(DIR));
    let files = ["f", "g"].map(|name| created(&fs, name));
    fs.sync_dir(Path::new(DIR)).unwrap();
    for file in &files {
        file.write_at(&[1; 512], 0).unwrap();
    }
    files[0].sync().unwrap();
    fs.lose_power(Survival::Nothing);
    let sizes = ["f", "g"].map(|name| crate::fs::read_file(&fs, &path(name)).unwrap().len());
    assert_eq!(sizes, [512, 0]);
}

#[test]
fn a_cache_that_is_in_use_keeps_what_a_failed_sync_lost() {
    let fs = SimFs::new(Path::new(DIR));
    let file = created(&fs, "f");
    fs.sync_dir(Path::new(DIR)).unwrap();
    file.write_at(&[1; 512], 0).unwrap();
    file.sync().unwrap();
    file.write_at(&[2; 512], 0).unwrap();
    fs.fail_at(fs.steps(), Fault::Once(5));
    file.sync().unwrap_err();
    fs.pin_cache();
    file.evict().unwrap();
    assert_eq!(crate::fs::read_file(&fs, &path("f")).unwrap()[0], 2);
    fs.lose_power(Survival::Everything);
    assert_eq!(crate::fs::read_file(&fs, &path("f")).unwrap()[0], 1);
}

#[test]
fn a_full_disk_takes_what_fits_and_has_room_again_when_a_file_goes() {
    let fs = SimFs::new(Path::new(DIR));
    created(&fs, "old").write_at(&[1; 600], 0).unwrap();
    fs.set_space(Some(1_000));
    let file = created(&fs, "f");
    assert_eq!(fs.free_bytes(Path::new(DIR)).unwrap(), 400);
    let full = |result: io::Result<()>| crate::fs::is_full(&result.unwrap_err());
    assert!(full(file.write_at(&[2; 500], 0)));
    assert_eq!(file.size().unwrap(), 400);
    assert!(full(file.allocate(401)));
    file.write_at(&[3; 400], 0).unwrap();
    fs.remove(&path("old")).unwrap();
    file.write_at(&[4; 500], 400).unwrap();
    fs.set_space(None);
    file.allocate(1 << 20).unwrap();
}

#[test]
fn only_so_many_files_are_open_at_a_time() {
    let fs = SimFs::new(Path::new(DIR));
    fs.set_handles(Some(2));
    let files = ["f", "g"].map(|name| created(&fs, name));
    let error = fs.open(&path("f"), Access::Read).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::MFILE.raw_os_error()));
    drop(files);
    fs.open(&path("f"), Access::Read).unwrap();
}

#[test]
fn a_device_forgets_a_sector_or_writes_it_elsewhere_and_says_yes() {
    for fault in [Fault::LostWrite, Fault::MisdirectedWrite] {
        let mut found = BTreeMap::new();
        for nth in 0..40 {
            let fs = SimFs::new(Path::new(DIR));
            let file = created(&fs, "f");
            fs.sync_dir(Path::new(DIR)).unwrap();
            file.write_at(&[1; 4 * SECTOR_BYTES], 0).unwrap();
            file.sync().unwrap();
            for n in 0..nth {
                file.write_at(&[9], 3 * SECTOR_BYTES as u64 + n).unwrap();
            }
            file.sync().unwrap();
            file.write_at(&[2; SECTOR_BYTES], 0).unwrap();
            file.write_at(&[3; SECTOR_BYTES], SECTOR_BYTES as u64).unwrap();
            fs.fail_at(fs.steps(), fault);
            file.sync().unwrap();
            assert!(fs.has_failed());
            let cached = crate::fs::read_file(&fs, &path("f")).unwrap();
            assert_eq!((cached[0], cached[SECTOR_BYTES]), (2, 3), "the cache hides it");
            fs.lose_power(Survival::Everything);
            let kept = crate::fs::read_file(&fs, &path("f")).unwrap();
            let sectors = [0, 1, 2].map(|sector| kept[sector * SECTOR_BYTES]);
            *found.entry(sectors).or_insert(0) += 1;
        }
        let stale = [[1, 3, 1], [2, 1, 1]];
        if fault == Fault::LostWrite {
            assert_eq!(found.into_keys().collect::<Vec<_>>(), stale);
        } else {
            assert!(found.keys().any(|sectors| sectors[2] > 1), "{found:?}");
            assert!(!found.contains_key(&[2, 3, 1]), "{found:?}");
        }
    }
}

#[test]
fn what_is_at_rest_rots_and_goes_bad() {
    let fs = SimFs::new(Path::new(DIR));
    let file = created(&fs, "f");
    fs.sync_dir(Path::new(DIR)).unwrap();
    file.write_at(&[0; 2 * SECTOR_BYTES], 0).unwrap();
    file.sync().unwrap();
    fs.rot(&path("f"), 8 * 700 + 3);
    assert_eq!(crate::fs::read_file(&fs, &path("f")).unwrap()[700], 1 << 3);
    fs.spoil(&path("f"), 1);
    let mut sector = [0; SECTOR_BYTES];
    file.read_at(&mut sector, 0).unwrap();
    file.read_at(&mut sector, 1).unwrap_err();
    fs.lose_power(Survival::Everything);
    crate::fs::read_file(&fs, &path("f")).unwrap_err();
    let file = fs.open(&path("f"), Access::Write).unwrap();
    file.write_at(&[5], SECTOR_BYTES as u64).unwrap();
    file.read_at(&mut sector, SECTOR_BYTES as u64).unwrap();
}

#[test]
#[should_panic(expected = "SIGBUS")]
fn a_mapped_file_must_not_shrink() {
    let file = created(&SimFs::new(Path::new(DIR)), "f");
    file.set_size(1_000).unwrap();
    let _map = file.map().unwrap();
    file.set_size(999).unwrap();
}

#[test]
fn the_trace_tells_what_was_done_and_in_which_order() {
    let trace = |order: [u64; 2]| {
        let fs = SimFs::new(Path::new(DIR));
        let file = created(&fs, "f");
        for at in order {
            file.write_at(&[1], at).unwrap();
        }
        fs.lose_power(Survival::Drawn(1));
        fs.trace()
    };
    assert_eq!(trace([1, 2]), trace([1, 2]));
    assert_ne!(trace([1, 2]), trace([2, 1]));
}
