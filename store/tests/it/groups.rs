//! The durable progress of consumer groups.

use headwater_core::{
    Durability, Effect, Generation, GroupError, GroupLog, GroupName, NewGroup, Position, Query,
    Read, Slot, SlotCommit, SlotProgress, SlotRange, Start, Timestamp,
};
use headwater_store::{Options, ReadOnlyStore, Store, VerifyOptions, verify};
use pollster::block_on;

use crate::common::*;
use crate::damage::copy_store;

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn commit(slots: SlotRange, floor: u64, generation: Generation) -> SlotCommit {
    let floor = Position::new(floor);
    SlotCommit {
        slots,
        progress: SlotProgress {
            floor,
            settled: Vec::new(),
            generation,
            ..SlotProgress::default()
        },
    }
}

fn store_with_events(count: usize) -> (tempfile::TempDir, Store) {
    let dir = temp();
    let store = open(&dir, small());
    for n in 0..count {
        store.append_blocking(one("a-1", &n.to_string())).unwrap();
    }
    (dir, store)
}

#[test]
fn progress_survives_closing_and_killing() {
    let (dir, store) = store_with_events(10);
    let name = group("billing");
    let selection = Query::tags([tag("x")]);
    block_on(store.open_group(NewGroup::consumer(name.clone()).select(selection.clone()))).unwrap();
    let generation = block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap();
    let one = SlotRange::one(Slot::new(7).unwrap());
    let mut ahead = commit(one, 3, generation);
    ahead.progress.settled = vec![(Position::new(5), Position::new(6))];
    block_on(store.commit_slots(&name, vec![ahead])).unwrap();
    block_on(store.open_group(NewGroup::consumer(group("other")).start(Start::End))).unwrap();
    block_on(store.open_group(NewGroup::consumer(group("gone")).start(Start::End))).unwrap();
    block_on(store.delete_group(&group("gone"))).unwrap();
    let expected = block_on(store.groups()).unwrap();
    assert_eq!(expected.len(), 2);

    let killed = dir.path().join("killed");
    copy_store(store.path(), &killed);
    let reader = ReadOnlyStore::open(&killed).unwrap();
    assert_eq!(reader.groups(), expected);
    let reopened = Store::open(&killed, small()).unwrap();
    assert_eq!(block_on(reopened.groups()).unwrap(), expected);
    store.close().unwrap();
    let store = open(&dir, small());
    assert_eq!(block_on(store.groups()).unwrap(), expected);
    // An existing group keeps its progress, whatever start is asked for.
    let state =
        block_on(store.open_group(NewGroup::consumer(name).select(selection).start(Start::End)))
            .unwrap();
    assert_eq!(state.slot(Slot::new(7).unwrap()).floor, Position::new(3));
}

#[test]
fn a_late_commit_of_an_older_owner_is_fenced_after_reopening_too() {
    let (dir, store) = store_with_events(10);
    let name = group("g");
    block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
    let old = block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap();
    store.close().unwrap();
    let store = open(&dir, small());
    let new = block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap();
    assert!(new > old);
    let late = block_on(store.commit_slots(&name, vec![commit(SlotRange::all(), 5, old)]));
    assert!(matches!(late, Err(GroupError::Fenced { .. })), "{late:?}");
    block_on(store.commit_slots(&name, vec![commit(SlotRange::all(), 5, new)])).unwrap();
    assert_eq!(block_on(store.group(&name)).unwrap().floor(), Position::new(5));
}

#[test]
fn positions_outside_the_log_and_unknown_groups_are_refused() {
    let (_dir, store) = store_with_events(3);
    let name = group("g");
    let beyond = Start::After(Position::new(4));
    let error =
        block_on(store.open_group(NewGroup::consumer(name.clone()).start(beyond))).unwrap_err();
    assert!(matches!(error, GroupError::OutsideLog { .. }), "{error}");
    let error = block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap_err();
    assert!(matches!(error, GroupError::Unknown(_)), "{error}");
    block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
    let error = block_on(store.seek_group(&name, Position::new(4))).unwrap_err();
    assert!(matches!(error, GroupError::OutsideLog { .. }), "{error}");
    block_on(store.seek_group(&name, Position::new(3))).unwrap();
    assert_eq!(block_on(store.group(&name)).unwrap().floor(), Position::new(3));
    let other = Query::tags([tag("x")]);
    let error = block_on(store.open_group(NewGroup::consumer(name).select(other))).unwrap_err();
    assert!(matches!(error, GroupError::Differs { .. }), "{error}");
}

#[test]
fn a_commit_that_no_log_can_have_is_refused_and_changes_nothing() {
    let (dir, store) = store_with_events(10);
    let name = group("g");
    block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
    let generation = block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap();
    let commits = |settled: &[(u64, u64)]| {
        let [right, mut wrong] =
            [0, 1].map(|slot| commit(SlotRange::one(Slot::new(slot).unwrap()), 3, generation));
        let p = Position::new;
        wrong.progress.settled = settled.iter().map(|&(first, last)| (p(first), p(last))).collect();
        vec![right, wrong]
    };
    let before = block_on(store.groups()).unwrap();
    for settled in [&[(3, 4)][..], &[(6, 5)], &[(5, 7), (7, 8)], &[(8, 9), (5, 6)]] {
        let error = block_on(store.commit_slots(&name, commits(settled))).unwrap_err();
        assert!(matches!(error, GroupError::Disordered { .. }), "{settled:?}: {error}");
        assert_eq!(error.effect(), Effect::None);
    }
    for settled in [&[(11, 11)][..], &[(5, 6), (8, 11)]] {
        let error = block_on(store.commit_slots(&name, commits(settled))).unwrap_err();
        assert!(matches!(error, GroupError::OutsideLog { .. }), "{settled:?}: {error}");
    }
    assert_eq!(block_on(store.groups()).unwrap(), before);
    store.close().unwrap();
    let store = open(&dir, small());
    assert_eq!(block_on(store.groups()).unwrap(), before);
    // As a group leaves it whose scan has come up to a range.
    block_on(store.commit_slots(&name, commits(&[(4, 5), (6, 6), (8, 10)]))).unwrap();
    store.close().unwrap();
    let verified = verify(store.path(), &VerifyOptions::default(), &|_, _| {}).unwrap();
    assert_eq!(verified.faults, []);
}

#[test]
fn the_offsets_log_stays_small_however_much_is_committed() {
    let (dir, store) = store_with_events(3);
    let names: Vec<GroupName> = (0..3).map(|n| group(&format!("g{n}"))).collect();
    let mut generations = Vec::new();
    for name in &names {
        block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
        generations.push(block_on(store.claim_slots(name, vec![SlotRange::all()])).unwrap());
    }
    // Each commit writes every other slot by itself: about 13 KiB.
    for round in 0..1_000_u64 {
        let at = (round % 3) as usize;
        let commits = (0..1024)
            .step_by(2)
            .map(|n| {
                let mut one = commit(SlotRange::one(Slot::new(n).unwrap()), 0, generations[at]);
                let settled = Position::new(2 + round % 2);
                one.progress.settled = vec![(settled, settled)];
                one
            })
            .collect();
        block_on(store.commit_slots(&names[at], commits)).unwrap();
    }
    let expected = block_on(store.groups()).unwrap();
    let files = std::fs::read_dir(store.path().join("offsets")).unwrap().count();
    assert!(files <= 2, "{files} files");
    let killed = dir.path().join("killed");
    copy_store(store.path(), &killed);
    let reopened = Store::open(&killed, small()).unwrap();
    assert_eq!(block_on(reopened.groups()).unwrap(), expected);
}

#[test]
fn the_state_of_many_groups_may_be_larger_than_a_segment() {
    let dir = temp();
    let store = open(&dir, Options { durability: Durability::Os, ..small() });
    for n in 0..2 {
        store.append_blocking(one("a-1", &n.to_string())).unwrap();
    }
    let names: Vec<GroupName> = (0..300).map(|n| group(&format!("g{n}"))).collect();
    let first = store.path().join("offsets/00000000000000000001-00000001.seg");
    for name in &names {
        block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
        let generation = block_on(store.claim_slots(name, vec![SlotRange::all()])).unwrap();
        // Every other slot differs from its neighbours: about 20 KiB for the commit, and 32 KiB
        // for the state.
        let commits = (0..1024).step_by(2).map(|n| {
            let mut one = commit(SlotRange::one(Slot::new(n).unwrap()), 0, generation);
            one.progress.settled = vec![(Position::new(2), Position::new(2))];
            one
        });
        block_on(store.commit_slots(name, commits.collect())).unwrap();
        if !first.exists() {
            break;
        }
    }
    assert!(!first.exists(), "the log never went over to another segment");
    let expected = block_on(store.groups()).unwrap();
    assert!(expected.len() > 128, "the state of {} groups fits into a segment", expected.len());
    let killed = dir.path().join("killed");
    copy_store(store.path(), &killed);
    let reopened = Store::open(&killed, small()).unwrap();
    assert_eq!(block_on(reopened.groups()).unwrap(), expected);
}

#[test]
fn progress_that_is_too_much_for_one_entry_is_refused_and_the_group_goes_on() {
    let dir = temp();
    let store = open(&dir, Options { durability: Durability::Os, ..small() });
    for n in 0..2_000 {
        store.append_blocking(one("a-1", &n.to_string())).unwrap();
    }
    let name = group("g");
    block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
    let generation = block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap();
    let settled: Vec<_> =
        (1..=1_000).map(|n| (Position::new(2 * n), Position::new(2 * n))).collect();
    let mut results = Vec::new();
    for first in [0, 1] {
        // Every third slot.
        let much = (first..1024).step_by(3).map(|slot| {
            let mut much = commit(SlotRange::one(Slot::new(slot).unwrap()), 0, generation);
            much.progress.settled = settled.clone();
            // Neighbours that are equal would be one run.
            much.progress.settled.truncate(1_000 - usize::from(first));
            much
        });
        results.push(block_on(store.commit_slots(&name, much.collect())));
    }
    // Each fits into an entry; the whole state would not.
    assert!(results[0].is_ok());
    assert!(matches!(results[1], Err(GroupError::TooLarge { .. })), "{:?}", results[1]);
    block_on(store.commit_slots(&name, vec![commit(SlotRange::all(), 1, generation)])).unwrap();
}

#[test]
fn damaged_progress_does_not_hide_the_events() {
    let (dir, store) = store_with_events(3);
    block_on(store.open_group(NewGroup::consumer(group("g")))).unwrap();
    store.close().unwrap();
    let copy = dir.path().join("copy");
    copy_store(store.path(), &copy);
    let file = copy.join("offsets/00000000000000000001-00000001.seg");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4096 + 70] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let reader = ReadOnlyStore::open(&copy).unwrap();
    assert!(reader.damage().is_none() && reader.groups_damage().is_some());
    assert_eq!(reader.head(), Position::new(3));
}

#[test]
fn a_group_that_is_created_anew_owes_nothing_to_the_owners_of_the_old_one() {
    let (dir, store) = store_with_events(20);
    let name = group("g");
    let create = |store: &Store| {
        block_on(store.open_group(NewGroup::consumer(name.clone()))).unwrap();
        block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap()
    };
    let old = create(&store);
    block_on(store.seek_group(&name, Position::new(1))).unwrap();
    let older = block_on(store.claim_slots(&name, vec![SlotRange::all()])).unwrap();
    block_on(store.delete_group(&name)).unwrap();
    store.close().unwrap();
    let store = open(&dir, small());
    let new = create(&store);
    for late in [old, older] {
        let commit = vec![commit(SlotRange::all(), 20, late)];
        let error = block_on(store.commit_slots(&name, commit)).unwrap_err();
        assert!(matches!(error, GroupError::Fenced { .. }), "{error}");
    }
    assert!(new > older);
    assert_eq!(block_on(store.group(&name)).unwrap().floor(), Position::START);
}

#[test]
fn a_renamed_group_is_the_same_group() {
    let (dir, store) = store_with_events(3);
    let (old, new) = (group("old"), group("new"));
    let opened = block_on(store.open_group(NewGroup::consumer(old.clone()))).unwrap();
    block_on(store.open_group(NewGroup::consumer(group("other")))).unwrap();
    let generation = block_on(store.claim_slots(&old, vec![SlotRange::all()])).unwrap();
    let error = block_on(store.rename_group(&old, group("other"))).unwrap_err();
    assert!(matches!(error, GroupError::NameTaken(_)), "{error}");
    block_on(store.rename_group(&old, new.clone())).unwrap();
    block_on(store.commit_slots(&new, vec![commit(SlotRange::all(), 2, generation)])).unwrap();
    let error = block_on(store.group(&old)).unwrap_err();
    assert!(matches!(error, GroupError::Unknown(_)), "{error}");
    let copy = dir.path().join("copy");
    copy_store(store.path(), &copy);
    let store = Store::open(&copy, small()).unwrap();
    let state = block_on(store.group(&new)).unwrap();
    assert_eq!((state.definition.id, state.floor()), (opened.definition.id, Position::new(2)));
}

#[test]
fn a_group_begins_at_a_time() {
    let (_dir, store) = store_with_events(3);
    let time = store.read_blocking(&Read::forward(Query::all(), Position::new(1))).unwrap();
    let time = time.events[0].commit_time;
    let begun = |name, start| {
        let new = NewGroup::consumer(group(name)).start(start);
        block_on(store.open_group(new)).unwrap().definition.start.get()
    };
    // Appends may share a moment.
    assert!(begun("then", Start::Time(time)) <= 1);
    assert_eq!(begun("before", Start::Time(Timestamp::EPOCH)), 0);
    assert_eq!(begun("never", Start::Time(Timestamp::from_nanos(i64::MAX))), 3);
}
