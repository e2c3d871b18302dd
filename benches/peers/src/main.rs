//! The same workloads on Headwater and on its peers, in one run and side by side.
//!
//! Each peer has a process of its own. A workload runs in short rounds that go around the peers,
//! forward and backward in turn, so that a busy neighbour or a warm device meets all of them; the
//! ratios are medians of rounds that ran side by side. `benches/README.md` has the commands.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

mod child;
mod facts;
mod peers;
mod table;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use child::Process;
use peers::{Fallible, PEERS};
use table::{Row, Unit};
use workload::Workload;

const USAGE: &str = "usage: headwater-peers [--quick] [--dir DIR] [--events N] [--rounds N] \
                     [--round-ms N] [--only PEER,..] [--workloads NAME,..]";

/// What the command line asks for.
#[derive(Debug)]
struct Plan {
    dir: PathBuf,
    events: u64,
    rounds: usize,
    round: Duration,
    /// Which peers run; the others have empty columns.
    only: Option<Vec<String>>,
    /// Which workloads run.
    workloads: Option<Vec<String>>,
}

impl Plan {
    fn parse(arguments: &[String]) -> Fallible<Self> {
        let mut plan = Self {
            dir: std::env::current_exe()?.with_file_name("peers-data"),
            events: 1_000_000,
            rounds: 7,
            round: Duration::from_millis(400),
            only: None,
            workloads: None,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "--quick" {
                (plan.events, plan.rounds) = (20_000, 2);
                plan.round = Duration::from_millis(50);
                continue;
            }
            let value = arguments.next().ok_or(USAGE)?;
            let list = || Some(value.split(',').map(str::to_owned).collect());
            match argument.as_str() {
                "--dir" => plan.dir = value.into(),
                "--events" => plan.events = value.parse()?,
                "--rounds" => plan.rounds = value.parse()?,
                "--round-ms" => plan.round = Duration::from_millis(value.parse()?),
                "--only" => plan.only = list(),
                "--workloads" => plan.workloads = list(),
                _ => return Err(USAGE.into()),
            }
        }
        if plan.events < 2_000 || !plan.events.is_multiple_of(2_000) || plan.rounds == 0 {
            return Err("--events takes multiples of 2,000, --rounds at least 1".into());
        }
        Ok(plan)
    }

    fn has(&self, peer: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|name| name == peer))
    }

    fn wants(&self, workload: &str) -> bool {
        self.workloads.as_ref().is_none_or(|wanted| wanted.iter().any(|name| name == workload))
    }
}

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, peer, dir] = &arguments[..]
        && flag == "--child"
    {
        return child::serve(peer, dir.as_ref());
    }
    let plan = Plan::parse(&arguments)?;
    if plan.dir.exists() {
        return Err(format!("{} exists; give another --dir", plan.dir.display()).into());
    }
    std::fs::create_dir_all(&plan.dir)?;
    let facts = facts::gather(&plan.dir, &arguments)?;
    let result = measure(&plan);
    std::fs::remove_dir_all(&plan.dir)?;
    let rows = result?;
    println!("{facts}\n{}\n{}", table::render(&rows), facts::NOTES);
    Ok(())
}

fn measure(plan: &Plan) -> Fallible<Vec<Row>> {
    let mut rows = appends(plan)?;
    if plan.wants("filled") {
        rows.extend(filled(plan)?);
    }
    Ok(rows)
}

/// A row, and how it is measured: the store, the workload, which figure, and by what it is
/// divided.
type Measured = (&'static str, Unit, &'static str, Workload, Figure);

#[derive(Clone, Copy, Debug)]
enum Figure {
    Rate,
    P50,
    P99,
}

impl Figure {
    fn of(self, numbers: &[f64]) -> Option<f64> {
        match self {
            Self::Rate => numbers.first().copied(),
            Self::P50 => numbers.get(1).map(|nanoseconds| nanoseconds / 1e9),
            Self::P99 => numbers.get(2).map(|nanoseconds| nanoseconds / 1e9),
        }
    }
}

const APPENDS: [Measured; 16] = {
    use Figure::{P50, P99, Rate};
    use Unit::{Microseconds, PerSecond};
    use Workload as W;
    [
        ("durable, one writer, p50", Microseconds, "sync", W::Single, P50),
        ("durable, 64 threads", PerSecond, "sync", W::Threads, Rate),
        ("durable, 64 in flight", PerSecond, "sync", W::Tickets64, Rate),
        ("durable, 1,024 in flight", PerSecond, "sync", W::Tickets1024, Rate),
        ("durable, batches of 1,000", PerSecond, "sync", W::Batch, Rate),
        ("not synced, one event, p50", Microseconds, "os", W::Single, P50),
        ("not synced, one event, p99", Microseconds, "os", W::Single, P99),
        ("not synced, batches of 1,000", PerSecond, "os", W::Batch, Rate),
        ("durable and conditional, p50", Microseconds, "sync", W::Conditional, P50),
        ("not synced and conditional, p50", Microseconds, "os", W::Conditional, P50),
        ("contended: 16 threads, 8 streams, accepted", PerSecond, "sync", W::Contended, Rate),
        ("a refusal, p50", Microseconds, "sync", W::Refusal, P50),
        ("append to visible, durable, p50", Microseconds, "sync", W::Visible, P50),
        ("of it after the return, p50", Microseconds, "sync", W::Visible, P99),
        ("append to visible, not synced, p50", Microseconds, "os", W::Visible, P50),
        ("of it after the return, p50", Microseconds, "os", W::Visible, P99),
    ]
};

/// The workloads that append to small stores.
fn appends(plan: &Plan) -> Fallible<Vec<Row>> {
    let mut processes = start(plan)?;
    for process in processes.iter_mut().flatten() {
        process.ask("open sync sync")?;
        process.ask("open os os")?;
    }
    let rows = rounds(plan, &APPENDS, &mut processes)?;
    for process in processes.into_iter().flatten() {
        end(process, &["sync", "os"])?;
    }
    Ok(rows)
}

const READS: [Measured; 5] = {
    use Figure::{P50, P99, Rate};
    use Unit::{Microseconds, PerSecond};
    use Workload as W;
    [
        ("replay, every payload byte", PerSecond, "filled", W::Replay, Rate),
        ("load 10 scattered events, p50", Microseconds, "filled", W::LoadShort, P50),
        ("load 10 scattered events, p99", Microseconds, "filled", W::LoadShort, P99),
        ("load 100 scattered events, p50", Microseconds, "filled", W::LoadLong, P50),
        ("load 100 scattered events, p99", Microseconds, "filled", W::LoadLong, P99),
    ]
};

/// The workloads on a store of many events.
fn filled(plan: &Plan) -> Fallible<Vec<Row>> {
    let mut killed = Row::new("open after kill -9", Unit::Milliseconds);
    let mut clean = Row::new("open after closing", Unit::Milliseconds);
    let mut loaded = Row::new("anonymous memory after filling", Unit::Megabytes);
    let mut opened = Row::new("anonymous memory after opening", Unit::Megabytes);
    let mut disk = Row::new("disk per event", Unit::Bytes);
    let mut processes = start(plan)?;
    for (at, slot) in processes.iter_mut().enumerate() {
        let Some(mut process) = slot.take() else { continue };
        let name = PEERS[at].0;
        let (store, events) = (plan.dir.join(name).join("filled"), plan.events);
        // Peers that know nothing else are filled durably.
        let mode = match process.number("open filled os")? {
            Some(_) => "os",
            None => "sync",
        };
        if mode == "sync" {
            process.ask("open filled sync")?;
        }
        if process.ask("count filled")?.is_none() {
            end(process, &["filled"])?;
            continue;
        }
        let open = format!("open filled {mode}");
        process.ask(&format!("fill filled {events}"))?;
        loaded.found[at].push(process.number("anon")?);
        let restart = || Process::start(name, plan.dir.join(name));
        for cycle in 0..plan.rounds.min(3) {
            process.kill()?;
            process = restart()?;
            killed.found[at].push(process.number(&open)?);
            check(name, &mut process, events)?;
            process.ask("close filled")?;
            process.end()?;
            if cycle == 0 {
                disk.found[at].push(Some(facts::disk_bytes(&store)? as f64 / events as f64));
            }
            process = restart()?;
            clean.found[at].push(process.number(&open)?);
            opened.found[at].push(process.number("anon")?);
        }
        *slot = Some(process);
        eprintln!("{name}: filled with {events} events, killed, opened again");
    }
    let mut rows = rounds(plan, &READS, &mut processes)?;
    for process in processes.into_iter().flatten() {
        end(process, &["filled"])?;
    }
    rows.extend([clean, killed, loaded, opened, disk]);
    Ok(rows)
}

/// Makes sure that a killed store holds what it was filled with.
fn check(name: &str, process: &mut Process, events: u64) -> Fallible<()> {
    let count = process.number("count filled")?;
    if count.is_some_and(|count| count < events as f64) {
        return Err(format!("{name} has {count:?} events after a kill, not {events}").into());
    }
    Ok(())
}

/// Goes around the peers with each workload.
fn rounds(
    plan: &Plan,
    measured: &[Measured],
    processes: &mut [Option<Process>],
) -> Fallible<Vec<Row>> {
    let mut rows: Vec<Row> =
        measured.iter().map(|&(title, unit, ..)| Row::new(title, unit)).collect();
    let mut done: Vec<(&str, Workload)> = Vec::new();
    for &(title, _, store, workload, _) in measured {
        let name = workload.name();
        if done.contains(&(store, workload)) || !plan.wants(name) {
            continue;
        }
        done.push((store, workload));
        eprintln!("{title}");
        let command = format!("round {store} {name} {} {}", plan.round.as_millis(), plan.events);
        // The round ahead warms everything up and does not count.
        for round in 0..=plan.rounds {
            for turn in 0..processes.len() {
                // There and back, beginning with another peer each time.
                let at = (turn + round / 2) % processes.len();
                let at = if round % 2 == 0 { at } else { processes.len() - 1 - at };
                let Some(process) = &mut processes[at] else { continue };
                let numbers = process.ask(&command)?;
                for (row, &(_, _, of, by, figure)) in rows.iter_mut().zip(measured) {
                    if (of, by) == (store, workload) && round > 0 {
                        let found = numbers.as_deref().and_then(|numbers| figure.of(numbers));
                        row.found[at].push(found);
                    }
                }
            }
        }
    }
    rows.retain(|row| row.found.iter().any(|found| !found.is_empty()));
    Ok(rows)
}

fn start(plan: &Plan) -> Fallible<Vec<Option<Process>>> {
    PEERS
        .iter()
        .map(|(name, _)| {
            plan.has(name).then(|| Process::start(name, plan.dir.join(name))).transpose()
        })
        .collect()
}

fn end(mut process: Process, stores: &[&str]) -> Fallible<()> {
    for store in stores {
        process.ask(&format!("close {store}"))?;
    }
    process.end()
}
