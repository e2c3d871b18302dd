//! The progress of groups, with a crash at each step of the work in which the offsets go over to
//! another segment.

use headwater_core::{
    Generation, GroupLog, GroupName, GroupState, NewGroup, Position, Slot, SlotCommit,
    SlotProgress, SlotRange,
};
use pollster::block_on;

use super::{DISK, Durability, Fault, Path, SimFs, Store, Survival, at, crash, open, survivals};

fn name(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

/// Commits something to every second slot, which takes a third of a segment.
fn commit_much(store: &Store, group: &str, generation: Generation, n: u64) -> bool {
    let settled = vec![(Position::new(n), Position::new(n))];
    let commits = Slot::all().step_by(2).map(|slot| SlotCommit {
        slots: SlotRange::one(slot),
        progress: SlotProgress {
            floor: Position::START,
            settled: settled.clone(),
            generation,
            ..SlotProgress::default()
        },
    });
    block_on(store.commit_slots(&name(group), commits.collect())).is_ok()
}

/// Returns whether the work came to the step.
fn run(durability: Durability, step: u64, survival: Survival) -> bool {
    let disk = SimFs::new(Path::new(DISK));
    let mut store = open(&disk, durability).unwrap();
    for _ in 1..6 {
        store.append_blocking(crate::tests::append("s-1", "settled by and by")).unwrap();
    }
    for group in ["a", "b", "c"] {
        block_on(store.open_group(NewGroup::consumer(name(group)))).unwrap();
    }
    let generation = block_on(store.claim_slots(&name("c"), vec![SlotRange::all()])).unwrap();
    let mut told = block_on(store.groups()).unwrap();
    disk.fail_at(disk.steps() + step, Fault::PowerOff);
    for n in 1..6 {
        if !commit_much(&store, "c", generation, n) {
            break;
        }
        told = block_on(store.groups()).unwrap();
    }
    let reached = disk.is_off();
    crash(&disk, &mut store);
    if durability == Durability::Sync {
        disk.lose_power(survival);
    } else {
        disk.kill_process();
    }
    let store = open(&disk, durability).unwrap();
    let found = block_on(store.groups()).unwrap();
    let names: Vec<_> = found.iter().map(|state| state.definition.name.as_ref()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(found[..2], told[..2]);
    let newest = |state: &GroupState| {
        let settled = state.runs().flat_map(|(_, progress)| progress.settled.clone());
        settled.map(|(first, _)| first).max().unwrap_or_default()
    };
    // What was answered is there, or the one commit that nobody was told of.
    let (there, last) = (newest(&found[2]), newest(&told[2]));
    assert!(there == last || (reached && there == last.next()), "{there} where {last} was told");
    reached
}

#[test]
fn progress_survives_a_crash_at_each_step_of_going_over_to_another_segment() {
    for durability in [Durability::Sync, Durability::Os] {
        for step in 0.. {
            let mut reached = false;
            // Without syncs only the process dies, which has one outcome.
            let outcomes = if durability == Durability::Sync { 3 } else { 1 };
            for survival in survivals(step).into_iter().take(outcomes) {
                reached |= at((durability, step, survival), || run(durability, step, survival));
            }
            if !reached {
                assert!(step > 20, "it takes more than {step} steps");
                break;
            }
        }
    }
}
