//! Places that chance comes to too seldom: scripted work, a chosen cut, a chosen outcome.

use std::time::Duration;

use headwater_core::{Durability, EventLog, GroupName, ReadError, Visibility};
use pollster::block_on;

use super::incidents::{DISK, on_disk, payloads, stop};
use super::*;
use crate::fs::sim::{Fault, SimFs, Survival};
use crate::retention::{Cutoff, Passing};

#[test]
fn a_frame_promises_nothing_of_what_was_not_synced_before_it() {
    let mut cuts = 0;
    for seed in 0..16 {
        let disk = SimFs::new(Path::new(DISK));
        let store = on_disk(&disk, Durability::Os);
        let written: Vec<String> = (0..3).map(|n| format!("{n} {}", "x".repeat(3_000))).collect();
        for text in &written {
            store.append_blocking(append("a-1", text)).unwrap();
        }
        stop(&disk, &store);
        // A later frame may have come to the device where an earlier one has not.
        disk.lose_power(Survival::Drawn(seed));
        let store = on_disk(&disk, Durability::Os);
        let there = payloads(&store);
        assert_eq!(there, written[..there.len()]);
        cuts += store.recovery().cuts.len();
    }
    assert!(cuts > 12, "an end was torn {cuts} times");
}

#[test]
fn an_end_is_looked_at_unless_its_writer_closed_it() {
    let mut cuts = 0;
    for seed in 0..16 {
        let disk = SimFs::new(Path::new(DISK));
        let store = on_disk(&disk, Durability::Sync);
        store.append_blocking(append("a-1", "first")).unwrap();
        store.close().unwrap();
        drop(store);
        let store = on_disk(&disk, Durability::Sync);
        assert!(store.recovery().clean);
        // The next frame is written and not synced.
        disk.fail_at(disk.steps() + 1, Fault::PowerOff);
        store.append_blocking(append("a-1", &"torn ".repeat(1_000))).unwrap_err();
        stop(&disk, &store);
        disk.lose_power(Survival::Drawn(seed));
        let store = on_disk(&disk, Durability::Sync);
        // Where the sector of its header is lost, the rest of it may be there all the same.
        cuts += store.recovery().cuts.len();
        store.append_blocking(append("a-1", "second")).unwrap();
        stop(&disk, &store);
        disk.lose_power(Survival::Nothing);
        let store = on_disk(&disk, Durability::Sync);
        assert_eq!(payloads(&store), ["first", "second"], "{seed}");
    }
    assert_eq!(cuts, 16);
}

#[test]
fn who_asks_for_durable_events_sees_none_that_the_power_takes() {
    let interval = Durability::Interval { every: Duration::from_secs(3600), bytes: 1 << 20 };
    for durability in [Durability::Os, interval] {
        let disk = SimFs::new(Path::new(DISK));
        let store = on_disk(&disk, durability);
        store.append_blocking(append("a-1", "synced")).unwrap();
        store.flush().unwrap();
        store.append_blocking(append("a-1", "cached")).unwrap();
        let heads = [Visibility::Durable, Visibility::Committed]
            .map(|visibility| block_on(store.head(visibility)).unwrap().get());
        assert_eq!(heads, [1, 2]);
        let mut read = Read::forward(Query::all(), Position::START);
        read.visibility = Visibility::Durable;
        let seen = store.read_blocking(&read).unwrap().events;
        stop(&disk, &store);
        disk.lose_power(Survival::Nothing);
        assert_eq!(seen, all(&on_disk(&disk, durability)));
        assert_eq!(seen.len(), 1);
    }
}

#[test]
fn a_removal_that_was_reported_is_noted_and_stays_when_the_power_goes() {
    let disk = SimFs::new(Path::new(DISK));
    let store = on_disk(&disk, Durability::Sync);
    for n in 0..12 {
        store.append_blocking(append("a-1", &format!("{n} {}", "x".repeat(14_000)))).unwrap();
    }
    let (name, floor, start) = (GroupName::new("g").unwrap(), Position::new(5), Position::new(4));
    block_on(store.pin(name.clone(), floor)).unwrap();
    let report = store.remove(Cutoff::Through(Position::new(12)), Passing::Refuse).unwrap();
    assert_eq!(report.removed.map(|removal| removal.through), Some(start));
    assert_eq!(report.held_by, [(name, floor)]);
    stop(&disk, &store);
    disk.lose_power(Survival::Nothing);
    let store = on_disk(&disk, Durability::Sync);
    assert_eq!(block_on(store.start()).unwrap(), start);
    let noted: Vec<_> = store.ledger().unwrap().iter().map(|removal| removal.through).collect();
    assert_eq!(noted, [start]);
    let below = store.read_blocking(&Read::forward(Query::all(), Position::START)).unwrap_err();
    assert!(matches!(below, ReadError::BelowStart { .. }), "{below}");
}
