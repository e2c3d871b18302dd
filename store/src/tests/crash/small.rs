//! Every small workload: up to three operations, and a crash at each step of the last one, with
//! several outcomes. (Most bugs of this kind show in so little: Mohan et al., "Finding
//! crash-consistency bugs with bounded black-box crash testing", OSDI 2018.)

use super::model::Model;
use super::work::Work;
use super::{
    DISK, DURABILITIES, Durability, Fault, Path, SimFs, Survival, Tally, at, crash, open, survivals,
};

const ALPHABET: [Work; 9] = [
    Work::Append { events: 1, bytes: 10, id: true, sync: false },
    Work::Append { events: 3, bytes: 3_900, id: false, sync: false },
    Work::Append { events: 1, bytes: 700, id: false, sync: true },
    Work::Roll,
    Work::CommitGroup,
    Work::CommitMuch,
    Work::Remove,
    Work::Close,
    Work::Kill,
];

/// Every sequence of `len` operations, each as the digits of a number.
fn workloads(len: u32) -> impl Iterator<Item = Vec<Work>> {
    (0..ALPHABET.len().pow(len)).map(move |mut number| {
        let mut digit = || {
            let work = ALPHABET[number % ALPHABET.len()];
            number /= ALPHABET.len();
            work
        };
        (0..len).map(|_| digit()).collect()
    })
}

/// Crashes at each step of the last operation of a workload; the ones before have their own turn.
/// Where the last one is a kill, it is the recovery behind it that is cut short.
fn exhaust(workload: &[Work], outcomes: usize, tally: &mut Tally) {
    for durability in DURABILITIES {
        for step in 0.. {
            tally.points += 1;
            let mut reached = false;
            for survival in survivals(step).into_iter().take(outcomes) {
                let place = (workload, durability, step, survival);
                reached |= at(place, || run(workload, durability, step, survival));
                tally.count(Fault::PowerOff);
                tally.states += 1;
            }
            if !reached {
                break;
            }
        }
    }
}

fn run(workload: &[Work], durability: Durability, step: u64, survival: Survival) -> bool {
    let fs = SimFs::new(Path::new(DISK));
    let mut model = Model::new();
    let mut store = open(&fs, durability).unwrap();
    let (last, before) = workload.split_last().expect("a workload has operations");
    for work in before {
        assert!(model.work(&mut store, &fs, durability, *work));
    }
    fs.fail_at(fs.steps() + step, Fault::PowerOff);
    model.work(&mut store, &fs, durability, *last);
    let reached = fs.is_off();
    crash(&fs, &mut store);
    if survival == Survival::Everything {
        // As it is when only the process dies; what is seen then, the power must not take.
        model.process_dies(&fs);
        fs.kill_process();
        let mut store = open(&fs, durability).unwrap();
        model.check(&store);
        crash(&fs, &mut store);
        fs.lose_power(Survival::Nothing);
    } else {
        fs.lose_power(survival);
    }
    model.check(&open(&fs, durability).unwrap());
    reached
}

#[test]
fn small_work_survives_a_crash_at_each_step() {
    let mut tally = Tally::new();
    for workload in workloads(1) {
        exhaust(&workload, 2, &mut tally);
    }
    for (n, workload) in workloads(2).enumerate() {
        // A slice of them; the campaign below takes all.
        if n % 9 == workload_shift(n) {
            exhaust(&workload, 2, &mut tally);
        }
    }
    tally.report("a slice of small work", 600);
}

/// Takes another second operation for each first one.
fn workload_shift(n: usize) -> usize {
    n / 9 % 9
}

/// All of up to three operations, or `HEADWATER_CRASH_OPERATIONS`.
#[test]
#[ignore = "takes minutes"]
fn small_work_campaign() {
    let len = std::env::var("HEADWATER_CRASH_OPERATIONS").map_or(3, |len| len.parse().unwrap());
    let mut tally = Tally::new();
    for workload in (1..=len).flat_map(workloads) {
        exhaust(&workload, 4, &mut tally);
    }
    let floor = ALPHABET.len().pow(len) as u64 * DURABILITIES.len() as u64 * 8;
    tally.report(&format!("all work of up to {len} operations"), floor);
}
