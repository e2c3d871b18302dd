//! The progress of groups decodes to what the engine reports.

use headwater_core::{
    Generation, GroupLog, GroupName, Position, Query, Slot, SlotCommit, SlotProgress, SlotRange,
    Start, StreamId,
};
use headwater_store::Store;
use headwater_testkit::decode_groups;
use pollster::block_on;

use crate::common::*;

fn slots(first: u16, last: u16) -> SlotRange {
    SlotRange::new(Slot::new(first).unwrap(), Slot::new(last).unwrap()).unwrap()
}

fn name(text: &str) -> GroupName {
    GroupName::new(text).unwrap()
}

/// Compares every slot of every group.
fn agree_on_groups(store: &Store) -> Vec<String> {
    let mut decoded = decode_groups(store.path()).unwrap_or_else(|error| panic!("{error}"));
    let mut selections = Vec::new();
    for state in block_on(store.groups()).unwrap() {
        let group = decoded.remove(&state.definition.name).unwrap();
        assert_eq!(
            (group.start, group.generation),
            (state.definition.start, state.generation),
            "{:?}",
            state.definition
        );
        for slot in Slot::all() {
            assert_eq!(&group.slots[usize::from(slot.get())], state.slot(slot), "slot {slot}");
        }
        selections.push(group.selection);
    }
    assert!(decoded.is_empty(), "the engine does not know {:?}", decoded.keys());
    selections
}

#[test]
fn a_store_without_groups_decodes() {
    let dir = temp();
    assert!(agree_on_groups(&open(&dir, small())).is_empty());
}

#[test]
fn every_kind_of_entry_decodes() {
    let dir = temp();
    let store = open(&dir, small());
    for n in 0..20 {
        store.append_blocking(one(&format!("a-{n}"), "x")).unwrap();
    }
    let query = Query::stream(StreamId::new("a-1").unwrap());
    block_on(store.open_group(name("one"), Query::all(), Start::Beginning)).unwrap();
    assert_eq!(agree_on_groups(&store), ["[]"]);
    block_on(store.open_group(name("two"), query, Start::After(Position::new(4)))).unwrap();
    agree_on_groups(&store);
    block_on(store.open_group(name("three"), Query::all(), Start::End)).unwrap();
    agree_on_groups(&store);
    let generation =
        block_on(store.claim_slots(&name("two"), vec![slots(10, 20), slots(30, 1023)]));
    agree_on_groups(&store);
    let settled =
        vec![(Position::new(8), Position::new(8)), (Position::new(10), Position::new(12))];
    let progress =
        SlotProgress { generation: generation.unwrap(), floor: Position::new(6), settled };
    let commit = SlotCommit { slots: slots(12, 18), progress };
    block_on(store.commit_slots(&name("two"), vec![commit])).unwrap();
    agree_on_groups(&store);
    block_on(store.claim_slots(&name("two"), vec![slots(15, 15)])).unwrap();
    agree_on_groups(&store);
    block_on(store.seek_group(&name("one"), Position::new(9))).unwrap();
    agree_on_groups(&store);
    block_on(store.delete_group(&name("three"))).unwrap();
    let selections = agree_on_groups(&store);
    assert!(selections.contains(&r#"[{"streams":["a-1"]}]"#.to_owned()), "{selections:?}");
    store.close().unwrap();
    agree_on_groups(&store);
    let store = open(&dir, small());
    agree_on_groups(&store);
    block_on(store.seek_group(&name("two"), Position::new(2))).unwrap();
    agree_on_groups(&store);
}

#[test]
fn a_log_of_offsets_over_many_segments_decodes() {
    let dir = temp();
    let store = open(&dir, small());
    for n in 0..200 {
        store.append_blocking(one(&format!("a-{n}"), "x")).unwrap();
    }
    for group in ["a", "b", "gone"] {
        block_on(store.open_group(name(group), Query::all(), Start::Beginning)).unwrap();
    }
    block_on(store.delete_group(&name("gone"))).unwrap();
    let mut generation = Generation::new(0);
    for round in 1..=200_u64 {
        let group = name(if round % 3 == 0 { "a" } else { "b" });
        if round % 3 == 0 || generation.get() == 0 || round % 3 == 1 {
            generation = block_on(store.claim_slots(&group, vec![SlotRange::all()])).unwrap();
        }
        let commits = (0..100).map(|slot| {
            let floor = round / 2 + u64::from(slot % 3);
            let settled =
                (floor + 2..200).step_by(2).map(|at| (Position::new(at), Position::new(at)));
            let (floor, settled) = (Position::new(floor), settled.collect());
            let progress = SlotProgress { generation, floor, settled };
            SlotCommit { slots: slots(slot * 10, slot * 10 + slot % 10), progress }
        });
        block_on(store.commit_slots(&group, commits.collect())).unwrap();
        if round % 25 == 0 {
            agree_on_groups(&store);
        }
    }
    let segments = std::fs::read_dir(store.path().join("offsets")).unwrap();
    let names: Vec<_> = segments.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        names.iter().all(|name| !name.to_string_lossy().ends_with("-00000001.seg")),
        "{names:?}"
    );
    store.close().unwrap();
    drop(store);
    let store = open(&dir, small());
    agree_on_groups(&store);
    agree(&store);
}
