//! A device that lies: writes that are lost or go elsewhere, bits that rot, sectors that cannot be
//! read. Nobody can promise that everything is there then; but what is read is what was written,
//! and a shorter log says so.

use std::collections::BTreeMap;

use headwater_core::{EventLog, Position, Query, Read, Visibility};
use pollster::block_on;

use super::model::{Told, head};
use super::{DISK, Durability, Fault, Model, Path, SimFs, Store, Survival, Tally, at, open, work};
use crate::fs::Fs;
use crate::fs::sim::Dice;

/// What the device does to what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Forget,
    Misdirect,
    Rot,
    Spoil,
}

const LIES: [Lie; 4] = [Lie::Forget, Lie::Misdirect, Lie::Rot, Lie::Spoil];

/// Files of a store that hold what nobody can make anew.
fn files(fs: &SimFs) -> Vec<std::path::PathBuf> {
    let root = super::root();
    let mut files = Vec::new();
    for dir in [root.clone(), root.join("log"), root.join("offsets")] {
        let names = fs.list(&dir).unwrap_or_default();
        let names =
            names.into_iter().filter(|name| !crate::fs::is_temporary(name) && name != "LOCK");
        files.extend(names.map(|name| dir.join(name)).filter(|path| fs.list(path).is_err()));
    }
    files
}

/// Works, lets the device lie, loses power, and looks what is left.
fn run(seed: u64, lie: Lie, step: u64) {
    let durability = Durability::Sync;
    let fs = SimFs::new(Path::new(DISK));
    let mut dice = Dice(seed ^ step);
    match lie {
        Lie::Forget => fs.fail_at(step, Fault::LostWrite),
        Lie::Misdirect => fs.fail_at(step, Fault::MisdirectedWrite),
        Lie::Rot | Lie::Spoil => {}
    }
    let mut model = Model::new();
    let mut store = open(&fs, durability).unwrap();
    for _ in 0..20 {
        // A reader meets the damage sooner or later; here it is looked at once, at the end.
        let next = work::draw(&mut dice, work::Mix::Everything);
        let looks = matches!(next, work::Work::Kill | work::Work::Read | work::Work::Close);
        if !looks && !model.work(&mut store, &fs, durability, next) {
            break;
        }
    }
    let start = block_on(store.start()).unwrap();
    let end = head(&store, Visibility::Durable);
    super::crash(&fs, &mut store);
    fs.lose_power(Survival::Everything);
    let all = files(&fs);
    let file = &all[dice.index(all.len())];
    let size = fs.open(file, crate::fs::Access::Read).unwrap().size().unwrap();
    match lie {
        Lie::Rot if size > 0 => fs.rot(file, dice.roll(size * 8)),
        Lie::Spoil if size > 0 => fs.spoil(file, dice.roll(size.div_ceil(512))),
        _ => {}
    }
    // An error is an honest answer.
    let Ok(store) = open(&fs, durability) else { return };
    check(&model, &store, (start, end));
}

/// What can be read was written there, and at most the newest append is missing without a word.
fn check(model: &Model, store: &Store, (start, end): (Position, Position)) {
    let mut written = BTreeMap::new();
    let mut newest = Position::START;
    for asked in &model.asked {
        if let Told::Done(done) = asked.told {
            let positions = (done.first.get()..).map(Position::new);
            written.extend(positions.zip(&asked.payloads));
            newest = done.first;
        }
    }
    let mut after = block_on(store.start()).unwrap();
    assert!(after <= start.max(end), "the log starts after {after}, and ended at {end}");
    let mut done = false;
    while !done {
        // An error is an honest answer.
        let page = store.read_blocking(&Read::forward(Query::all(), after).limit(3));
        let Ok(page) = page else { return };
        for event in &page.events {
            let payload = written.get(&event.position).expect("somebody wrote it");
            assert_eq!(event.payload, payload.as_bytes(), "{}", event.position);
        }
        (after, done) = (page.scanned, page.done);
    }
    assert!(after >= newest.previous(), "silence from {after} to {end}");
}

/// Each lie at several places of one workload.
pub(super) fn sweep(seed: u64, tally: &mut Tally) {
    for lie in LIES {
        for step in (20..200).step_by(12) {
            at((seed, lie, step), || run(seed, lie, step));
            tally.points += 1;
            tally.states += 1;
            let kind = match lie {
                Lie::Forget => "lost write",
                Lie::Misdirect => "misdirected write",
                Lie::Rot => "bit rot",
                Lie::Spoil => "bad sector",
            };
            *tally.faults.entry(kind).or_default() += 1;
        }
    }
}

#[test]
fn a_device_that_lies_is_never_believed() {
    let mut tally = Tally::new();
    for seed in 0..4 {
        sweep(seed, &mut tally);
    }
    tally.report("a slice of lies", 200);
}
