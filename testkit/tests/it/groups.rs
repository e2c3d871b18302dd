//! The progress of groups decodes to what the engine reports.

use headwater_core::{
    Generation, GroupChange, GroupCommit, GroupLog, GroupName, Key, NewGroup, Parked, ParkedCommit,
    ParkedState, Position, Query, Slot, SlotCommit, SlotProgress, SlotRange, Start, StreamId,
    Timestamp,
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
    let mut shapes = Vec::new();
    for state in block_on(store.groups()).unwrap() {
        let group = decoded.remove(&state.definition.name).unwrap();
        assert_eq!(
            (group.id, group.start, group.generation, group.paused),
            (state.definition.id, state.definition.start, state.generation, state.paused),
            "{:?}",
            state.definition
        );
        assert!(group.parked.values().eq(state.parked()), "{:?}", group.parked);
        for slot in Slot::all() {
            assert_eq!(&group.slots[usize::from(slot.get())], state.slot(slot), "slot {slot}");
        }
        shapes.push(group.shape);
    }
    assert!(decoded.is_empty(), "the engine does not know {:?}", decoded.keys());
    shapes
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
    block_on(store.open_group(NewGroup::consumer(name("one")))).unwrap();
    assert_eq!(agree_on_groups(&store), [r#"{"kind":"consumer","order":"key","selection":[]}"#]);
    block_on(store.open_group(
        NewGroup::consumer(name("two")).select(query).start(Start::After(Position::new(4))),
    ))
    .unwrap();
    agree_on_groups(&store);
    block_on(store.open_group(NewGroup::consumer(name("three")).start(Start::End))).unwrap();
    agree_on_groups(&store);
    let generation =
        block_on(store.claim_slots(&name("two"), vec![slots(10, 20), slots(30, 1023)]));
    agree_on_groups(&store);
    let settled =
        vec![(Position::new(8), Position::new(8)), (Position::new(10), Position::new(12))];
    let progress = SlotProgress {
        generation: generation.unwrap(),
        floor: Position::new(6),
        settled,
        ..SlotProgress::default()
    };
    let commit = SlotCommit { slots: slots(12, 18), progress };
    block_on(store.commit_slots(&name("two"), vec![commit])).unwrap();
    agree_on_groups(&store);
    block_on(store.claim_slots(&name("two"), vec![slots(15, 15)])).unwrap();
    agree_on_groups(&store);
    block_on(store.seek_group(&name("one"), Position::new(9))).unwrap();
    agree_on_groups(&store);
    every_change(&store, &name("two"));
    block_on(store.rename_group(&name("one"), name("uno"))).unwrap();
    agree_on_groups(&store);
    block_on(store.delete_group(&name("three"))).unwrap();
    let shapes = agree_on_groups(&store);
    assert!(shapes.iter().any(|shape| shape.contains(r#"[{"streams":["a-1"]}]"#)), "{shapes:?}");
    store.close().unwrap();
    agree_on_groups(&store);
    let store = open(&dir, small());
    agree_on_groups(&store);
    block_on(store.seek_group(&name("two"), Position::new(2))).unwrap();
    agree_on_groups(&store);
}

/// Parks sequences, changes them, pauses and alters the group.
fn every_change(store: &Store, group: &GroupName) {
    let generation = block_on(store.claim_slots(group, vec![SlotRange::all()])).unwrap();
    let p = Position::new;
    let selection = Query::stream(StreamId::new("a-1").unwrap());
    let parked = |first, key: Option<&str>, through| Parked {
        first: p(first),
        slot: Slot::new(7).unwrap(),
        key: key.map(|key| Key::new(key).unwrap()),
        next: p(first),
        through: p(through),
        attempts: 3,
        since: Timestamp::from_nanos(-5),
        cause: "the mail server said no".to_owned(),
        state: ParkedState::Waiting,
    };
    let sequences = [parked(9, Some("a-8"), 9), parked(10, None, 10), parked(12, Some("b"), 19)];
    let commit = |parked| ParkedCommit { generation, parked };
    let attempts = vec![(p(14), 2), (p(20), 1)];
    let progress = SlotProgress { floor: p(8), attempts, generation, ..SlotProgress::default() };
    let changes = [
        GroupChange::Commit(GroupCommit {
            slots: vec![SlotCommit { slots: slots(3, 9), progress }],
            parked: sequences.clone().map(commit).into(),
        }),
        GroupChange::Commit(GroupCommit {
            slots: Vec::new(),
            parked: vec![commit(Parked { state: ParkedState::Done, ..sequences[1].clone() })],
        }),
        GroupChange::Parked(p(12), ParkedState::Redriving),
        GroupChange::Pause(true),
        GroupChange::Parked(p(12), ParkedState::Done),
        GroupChange::Seek(p(11)),
        GroupChange::Parked(p(9), ParkedState::Done),
        GroupChange::Claim(vec![slots(3, 3)]),
        GroupChange::Alter(NewGroup::share(group.clone()).select(selection).shape),
        GroupChange::Pause(false),
    ];
    for change in changes {
        block_on(store.change_group(group, change.clone()))
            .unwrap_or_else(|error| panic!("{change:?}: {error}"));
        agree_on_groups(store);
    }
}

#[test]
fn a_log_of_offsets_over_many_segments_decodes() {
    let dir = temp();
    let store = open(&dir, small());
    for n in 0..200 {
        store.append_blocking(one(&format!("a-{n}"), "x")).unwrap();
    }
    for group in ["a", "b", "gone"] {
        block_on(store.open_group(NewGroup::consumer(name(group)))).unwrap();
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
            let progress = SlotProgress { generation, floor, settled, ..SlotProgress::default() };
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
