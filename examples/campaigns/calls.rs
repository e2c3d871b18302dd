//! Failing system calls under the real program: `headwater append`, run under strace, meets an error
//! or a kill at its n-th call of a kind, or has too few descriptors or too short files.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Instant;

use headwater::{Position, Store};
use serde_json::json;

use crate::child;
use crate::options::{DURABILITIES, Options};

/// How many events are sent; enough for four segments.
const EVENTS: usize = 120;

/// Calls, and how each can fail.
const CALLS: [(&str, &[&str]); 12] = [
    ("pwrite64", &["EIO", "ENOSPC", "EDQUOT"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    ("fsync", &["EIO"]),
    ("openat", &["EIO", "ENOSPC", "EMFILE", "EROFS"]),
    ("rename", &["EIO", "ENOSPC"]),
    ("unlink", &["EIO"]),
    ("mkdir", &["ENOSPC"]),
    ("pread64", &["EIO"]),
    ("fadvise64", &["EIO"]),
    ("ftruncate", &["EIO"]),
    ("flock", &["EIO"]),
    ("mmap", &["ENOMEM"]),
];

/// What goes wrong.
#[derive(Clone, Debug)]
enum Fault {
    /// The n-th call of this kind in each thread fails.
    Error { call: &'static str, error: &'static str, n: u32 },
    /// The process is killed at the n-th call of this kind.
    Kill { call: &'static str, n: u32 },
    /// The process has so few of something.
    Limit(String),
    /// Files may have so many bytes, and a write beyond is an error and no signal.
    FileSize(u32),
}

/// What is there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// Nothing.
    Create,
    /// A store whose writer was killed.
    Recover,
}

struct Bench {
    program: PathBuf,
    home: tempfile::TempDir,
    input: String,
}

#[derive(Default)]
struct Tally {
    points: u64,
    kills: u64,
    signals: u64,
    refusals: u64,
    acks: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let program = tool()?;
    if let Err(error) = Command::new("strace").arg("-V").output() {
        println!("SKIPPED: failing system calls: strace: {error}");
        return Ok(());
    }
    let home = tempfile::Builder::new().prefix("headwater-calls-").tempdir()?;
    let bench = Bench { program, home, input: input() };
    bench.make_killed()?;
    let mut dice = fastrand::Rng::with_seed(options.seed);
    let mut faults = bench.faults()?;
    let planned = faults.len();
    dice.shuffle(&mut faults);
    let mut tally = Tally::default();
    for (scene, fault) in faults {
        if begun.elapsed() > options.time {
            break;
        }
        let durability = dice.choice(DURABILITIES).expect("there are three").0;
        bench.meet(scene, &fault, durability, &mut tally).map_err(|error| {
            let left = bench.home.path().with_file_name("headwater-calls-failed");
            // Whoever looks for the cause wants what is there, if it can be had.
            let _ = fs::rename(bench.home.path(), &left);
            format!("{scene:?}, {fault:?}, {durability}: {error}; see {}", left.display())
        })?;
    }
    let summary = json!({
        "campaign": "calls",
        "seed": options.seed,
        "points": tally.points,
        "points_planned": planned,
        "kills": tally.kills,
        "ended_by_a_limit's_signal": tally.signals,
        "ended_with_an_error": tally.refusals,
        "acks_checked": tally.acks,
        "seconds": begun.elapsed().as_secs(),
    });
    println!("{summary}");
    Ok(())
}

/// The program `headwater`, which lies beside the folder of this one.
pub(crate) fn tool() -> Result<PathBuf, Box<dyn Error>> {
    let target = std::env::current_exe()?.parent().and_then(Path::parent).map(Path::to_owned);
    let program = target.ok_or("this program lies nowhere")?.join("headwater");
    if program.exists() {
        return Ok(program);
    }
    let program = program.display();
    Err(format!("{program} is missing; cargo build --release --features cli").into())
}

fn id(number: usize) -> String {
    format!("00000000-0000-7000-8000-{number:012x}")
}

/// Lines for the program; a few wait for those before them.
fn input() -> String {
    let line = |number: usize| {
        let data = "x".repeat(number * 37 % 2_900);
        let stream = format!("s-{}", number % 3);
        let mut line = json!({"stream": stream, "type": "sent", "data": data, "id": id(number)});
        if number % 20 < 3 {
            line["expected"] = json!((number - 1) / 3);
        }
        format!("{line}\n")
    };
    (1..=EVENTS).map(line).collect()
}

impl Bench {
    fn dir(&self) -> PathBuf {
        self.home.path().join("store")
    }

    fn append(&self, durability: &str) -> Vec<OsString> {
        let words = ["append", "--create", "--segment-bytes", "64KiB", "--durability", durability];
        let words = words.into_iter().map(OsString::from);
        [self.program.clone().into()].into_iter().chain(words).chain([self.dir().into()]).collect()
    }

    /// Runs a command line on the events. What hangs is killed, and so noticed.
    fn run(&self, line: &[OsString]) -> Result<Output, Box<dyn Error>> {
        let mut child = Command::new("timeout")
            .args(["--signal=KILL", "--foreground", "60"])
            .args(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("it was asked for");
        Ok(thread::scope(|scope| {
            // A program that stops early closes its input.
            scope.spawn(move || drop(stdin.write_all(self.input.as_bytes())));
            child.wait_with_output()
        })?)
    }

    /// Makes a store whose writer was killed in the middle.
    fn make_killed(&self) -> Result<(), Box<dyn Error>> {
        let fault = Fault::Kill { call: "pwrite64", n: 30 };
        self.run(&self.under(&fault, "os"))?;
        Ok(fs::rename(self.dir(), self.home.path().join("killed"))?)
    }

    fn set(&self, scene: Scene) -> Result<(), Box<dyn Error>> {
        if self.dir().exists() {
            fs::remove_dir_all(self.dir())?;
        }
        if scene == Scene::Recover {
            crate::power::copy(&self.home.path().join("killed"), &self.dir())?;
        }
        Ok(())
    }

    /// The command line of a run that meets a fault.
    fn under(&self, fault: &Fault, durability: &str) -> Vec<OsString> {
        let strace = |call: &str, what: &str| {
            let trace = format!("--trace={call}");
            let inject = format!("--inject={call}:{what}");
            let words = ["strace", "-f", "-qq", "-o", "/dev/null", &trace, &inject];
            words.map(OsString::from).to_vec()
        };
        let mut line = match fault {
            Fault::Error { call, error, n } => strace(call, &format!("error={error}:when={n}")),
            Fault::Kill { call, n } => strace(call, &format!("signal=SIGKILL:when={n}")),
            Fault::Limit(limit) => ["prlimit", limit].map(OsString::from).to_vec(),
            Fault::FileSize(bytes) => {
                let limit = format!("--fsize={bytes}");
                let words = ["env", "--ignore-signal=XFSZ", "prlimit", &limit];
                words.map(OsString::from).to_vec()
            }
        };
        line.extend(self.append(durability));
        line
    }

    /// Everything that can go wrong: each kind of call, as often as a thread makes it.
    fn faults(&self) -> Result<Vec<(Scene, Fault)>, Box<dyn Error>> {
        let mut faults = Vec::new();
        for scene in [Scene::Create, Scene::Recover] {
            self.set(scene)?;
            let log = self.home.path().join("trace");
            let mut line: Vec<OsString> = ["strace", "-f", "-qq", "-o"].map(Into::into).to_vec();
            line.push(log.clone().into());
            line.extend(self.append("sync"));
            self.run(&line)?;
            let trace = fs::read_to_string(log)?;
            let counts = count_calls(&trace);
            let not_ours = count_calls(before_main(&trace));
            for (call, errors) in CALLS {
                for n in 1..=counts.get(call).copied().unwrap_or(0) {
                    faults.push((scene, Fault::Kill { call, n }));
                    if n > not_ours.get(call).copied().unwrap_or(0) {
                        let error = |&error| (scene, Fault::Error { call, error, n });
                        faults.extend(errors.iter().map(error));
                    }
                }
            }
            for files in 3..30 {
                faults.push((scene, Fault::Limit(format!("--nofile={files}"))));
            }
            for pages in (0..20).chain([64, 1_000]) {
                faults.push((scene, Fault::FileSize(pages * 4096)));
                faults.push((scene, Fault::Limit(format!("--fsize={}", pages * 4096))));
            }
        }
        Ok(faults)
    }

    /// Runs into a fault, and sees that it was told honestly and nothing is lost.
    fn meet(
        &self,
        scene: Scene,
        fault: &Fault,
        durability: &str,
        tally: &mut Tally,
    ) -> Result<(), Box<dyn Error>> {
        self.set(scene)?;
        let output = self.run(&self.under(fault, durability))?;
        tally.points += 1;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let acks = acks(&output);
        // timeout says so of what was killed by a signal.
        let signal = output.status.signal().or(output.status.code().map(|code| code - 128));
        match (output.status.code(), fault) {
            (Some(0), _) if acks.len() == EVENTS => {}
            (Some(0), _) => return Err(format!("success, and {} ACKs", acks.len()).into()),
            (Some(1..=4), _) if said.starts_with("error: ") && !said.contains("panicked") => {
                tally.refusals += 1;
            }
            // Before the program itself begins.
            (Some(1 | 127), _) if said.contains("shared librar") && acks.is_empty() => {}
            (_, Fault::Kill { .. }) if signal == Some(9) => tally.kills += 1,
            (_, Fault::Limit(limit)) if limit.contains("fsize") && signal == Some(25) => {
                tally.signals += 1;
            }
            _ => return Err(format!("it ended with {}: {said}", output.status).into()),
        }
        if output.status.code() == Some(4) {
            return Err(format!("an error is taken for damage: {said}").into());
        }
        self.check(&acks, matches!(fault, Fault::Kill { .. }), tally)?;
        let again = self.run(&self.append("sync"))?;
        let repeated = self::acks(&again);
        if !again.status.success() || repeated.len() != EVENTS || !repeated.starts_with(&acks) {
            let said = String::from_utf8_lossy(&again.stderr);
            return Err(format!("sending it again: {} {said}", again.status).into());
        }
        self.check(&repeated, false, tally)
    }

    /// What was acknowledged is there, and nothing that was not sent, or twice. The store is the
    /// beginning of what was sent, unless a call failed once: lines that were under way behind the
    /// one that met it may have gone on.
    fn check(
        &self,
        acks: &[(String, u64)],
        in_order: bool,
        tally: &mut Tally,
    ) -> Result<(), Box<dyn Error>> {
        if acks.is_empty() && !self.dir().exists() {
            return Ok(());
        }
        let store = Store::open(self.dir(), child::options(headwater::Durability::Sync))?;
        let mut ids = Vec::new();
        let mut scan = store.scan(Position::START)?;
        while let Some(event) = scan.next() {
            ids.push(event?.id().to_string());
        }
        let order: Vec<String> = (1..=EVENTS).map(id).collect();
        let mut sent = ids.clone();
        if !in_order {
            sent.sort_unstable();
            sent.dedup();
        }
        let is_sent = if in_order {
            order.starts_with(&sent)
        } else {
            sent.len() == ids.len() && sent.iter().all(|id| order.contains(id))
        };
        if !is_sent {
            return Err(format!("the log is not what was sent: {ids:?}").into());
        }
        for (id, position) in acks {
            let found = usize::try_from(*position - 1).ok().and_then(|index| ids.get(index));
            if found != Some(id) {
                return Err(format!("{id} was acknowledged at {position}: {found:?}").into());
            }
        }
        tally.acks += acks.len() as u64;
        Ok(store.close()?)
    }
}

fn acks(output: &Output) -> Vec<(String, u64)> {
    let text = String::from_utf8_lossy(&output.stdout);
    // A line without its end was cut off by a kill.
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let ack = |line: &str| {
        let (id, position) = line.strip_prefix("ACK ")?.split_once(' ')?;
        Some((id.to_owned(), position.parse().ok()?))
    };
    lines.filter_map(ack).collect()
}

/// Returns the part of a trace in which the dynamic loader and Rust's runtime begin, which do not
/// outlive an error, and are not ours. The last thing they do is to set a stack for signals.
fn before_main(trace: &str) -> &str {
    let begun = trace.find(" sigaltstack({").unwrap_or(0);
    &trace[..begun]
}

/// How often the busiest thread makes each call.
fn count_calls(trace: &str) -> HashMap<&str, u32> {
    let mut threads: HashMap<(&str, &str), u32> = HashMap::new();
    for line in trace.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(call)) = (words.next(), words.next()) else { continue };
        if let Some((call, _)) = call.split_once('(') {
            *threads.entry((thread, call)).or_default() += 1;
        }
    }
    let mut most = HashMap::new();
    for ((_, call), count) in threads {
        let known: &mut u32 = most.entry(call).or_default();
        *known = count.max(*known);
    }
    most
}
