//! Kills the example `orders` again and again, and sees that it makes no difference.
//!
//! It runs `orders` once in peace. Then it runs it in another directory, kills it with SIGKILL at
//! a random moment and starts it again, as often as asked; whenever a run comes to its end before
//! its kill, its report and its outbox are compared with those of the first run, and it begins
//! anew with `--fresh`. In the end the last one may finish, and is compared too.
//!
//! ```text
//! cargo build --release --examples
//! cargo run --release --example orders_kill_loop -- --kills 25 --seed 7
//! ```

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

const HELP: &str = "\
Kills the example `orders` at random moments and compares what it ends with to an undisturbed run.

Usage: orders_kill_loop [--kills N] [--seed N]

  --kills N   how often to kill it before its end (default 20)
  --seed N    where the random moments come from (default: the clock)

It runs the program `orders` that lies beside it: cargo build --release --examples.
Exit code: 0 if nothing differed, 1 otherwise.
";

/// The earliest moment of a kill.
const DELAY_MIN: Duration = Duration::from_millis(20);
/// How often a run is looked at.
const GLANCE: Duration = Duration::from_millis(1);

/// What to do.
struct Options {
    kills: u32,
    seed: u64,
}

/// What a finished run left behind.
#[derive(PartialEq, Eq)]
struct Outcome {
    report: String,
    /// The mails without their keys, which name events and so differ between two logs, sorted.
    mails: Vec<String>,
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match options().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orders_kill_loop: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let program = beside_this_program("orders")?;
    let home = tempfile::Builder::new().prefix("orders-kill-loop-").tempdir()?;
    println!("{} kills of {} with seed {}", options.kills, program.display(), options.seed);

    let calm = home.path().join("calm");
    let begun = Instant::now();
    finish(start(&program, &calm, false)?)?;
    let undisturbed = begun.elapsed();
    let expected = outcome(&calm)?;
    println!("undisturbed: {:.2} s, {} emails", undisturbed.as_secs_f64(), expected.mails.len());

    let stormy = home.path().join("stormy");
    let mut random = Random(options.seed);
    let (mut kills, mut finished) = (0, 0);
    let mut fresh = false;
    while kills < options.kills {
        let delay = random.delay(undisturbed);
        let child = start(&program, &stormy, fresh)?;
        if kill_after(child, delay)? {
            kills += 1;
            // Not with --fresh: the next run has to go on from here, whatever here is.
            fresh = false;
            let mails = lines(&stormy.join("outbox.ndjson"));
            println!("kill {kills:>3} after {:>5} ms, {mails:>6} emails out", delay.as_millis());
        } else {
            finished += 1;
            compare(&expected, &stormy)?;
            println!("         a run came to its end: the same report, the same emails");
            fresh = true;
        }
    }
    finish(start(&program, &stormy, false)?)?;
    compare(&expected, &stormy)?;
    finished += 1;
    println!("{kills} kills, {finished} finished runs, each with the same report and emails");
    Ok(())
}

fn options() -> Result<Options, Box<dyn Error>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut options = Options { kills: 20, seed: u64::from(now.subsec_nanos()) };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let known = ["--kills", "--seed"].contains(&argument.as_str());
        let value = known.then(|| arguments.next()).flatten();
        let value =
            value.ok_or_else(|| format!("{argument} is no option with a number; see --help"))?;
        match argument.as_str() {
            "--kills" => options.kills = value.parse()?,
            _ => options.seed = value.parse()?,
        }
    }
    Ok(options)
}

fn beside_this_program(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    let program = std::env::current_exe()?.with_file_name(name);
    if !program.exists() {
        let program = program.display();
        return Err(format!("{program} is missing; cargo build --release --examples").into());
    }
    Ok(program)
}

fn start(program: &Path, dir: &Path, fresh: bool) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg("--dir").arg(dir).args(fresh.then_some("--fresh"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
}

/// Lets a run come to its end, which must be a good one.
fn finish(child: Child) -> Result<(), Box<dyn Error>> {
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("a run ended with {}:\n{said}", output.status).into())
}

/// Kills a run, and returns `false` if it was quicker.
fn kill_after(mut child: Child, delay: Duration) -> Result<bool, Box<dyn Error>> {
    let end = Instant::now() + delay;
    while Instant::now() < end && child.try_wait()?.is_none() {
        thread::sleep(GLANCE);
    }
    // On Unix that is SIGKILL, and nothing to a process that has ended.
    child.kill()?;
    match child.wait()?.code() {
        // Only a signal leaves no code.
        None => Ok(true),
        Some(_) => finish(child).map(|()| false),
    }
}

fn outcome(dir: &Path) -> Result<Outcome, Box<dyn Error>> {
    let report = fs::read_to_string(dir.join("report.txt"))?;
    let (mut mails, mut keys) = (Vec::new(), HashSet::new());
    for line in BufReader::new(fs::File::open(dir.join("outbox.ndjson"))?).lines() {
        let mut mail: Map<String, Value> = serde_json::from_str(&line?)?;
        let key = mail.remove("key").ok_or("a mail has no key")?.to_string();
        if let Some(twice) = keys.replace(key) {
            return Err(format!("the key {twice} is in the outbox twice").into());
        }
        mails.push(Value::Object(mail).to_string());
    }
    mails.sort_unstable();
    Ok(Outcome { report, mails })
}

fn compare(expected: &Outcome, dir: &Path) -> Result<(), Box<dyn Error>> {
    let found = outcome(dir)?;
    if found == *expected {
        return Ok(());
    }
    // The directory is temporary, so what it held is shown here.
    println!("expected:\n{}\nfound:\n{}", expected.report, found.report);
    let wanted: HashSet<&String> = expected.mails.iter().collect();
    let got: HashSet<&String> = found.mails.iter().collect();
    wanted.difference(&got).take(5).for_each(|mail| println!("missing: {mail}"));
    got.difference(&wanted).take(5).for_each(|mail| println!("not wanted: {mail}"));
    Err("the run that was killed ended otherwise than the undisturbed one".into())
}

fn lines(path: &Path) -> usize {
    fs::read(path).map_or(0, |text| text.split(|&byte| byte == b'\n').count().saturating_sub(1))
}

/// `SplitMix64`: small, seeded, and good enough to pick moments.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Picks a moment of a run. The smaller of two picks, because a run that was killed has less
    /// left to do, and its kills should find it at work.
    fn delay(&mut self, undisturbed: Duration) -> Duration {
        let range = undisturbed.saturating_sub(DELAY_MIN).as_micros().max(1);
        let pick = u128::from(self.next()).min(u128::from(self.next()));
        let micros = (pick * range) >> 64;
        DELAY_MIN + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}
