//! Each peer runs in a process of its own, so that its memory can be read and it can be killed.
//! The child obeys lines on its standard input and answers each with one line.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::peers::{self, Fallible, Mode, Peer};
use crate::workload::{self, Figures, Workload};

/// Obeys until the standard input ends.
pub fn serve(peer: &str, dir: &Path) -> Fallible<()> {
    let mut stores: HashMap<String, Arc<dyn Peer>> = HashMap::new();
    for line in std::io::stdin().lines() {
        let line = line?;
        let answer = match obey(peer, dir, &mut stores, &line) {
            Ok(Some(numbers)) => {
                let numbers: Vec<_> = numbers.iter().map(f64::to_string).collect();
                format!("ok {}", numbers.join(" "))
            }
            Ok(None) => "none".to_owned(),
            Err(error) => format!("error {peer}: {line}: {error}"),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn obey(
    peer: &str,
    dir: &Path,
    stores: &mut HashMap<String, Arc<dyn Peer>>,
    line: &str,
) -> Fallible<Option<Vec<f64>>> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["open", name, mode] => {
            let mode = if mode == "sync" { Mode::Sync } else { Mode::Os };
            let begun = Instant::now();
            let opened = peers::open(peer, &dir.join(name), mode)?;
            let seconds = begun.elapsed().as_secs_f64();
            Ok(opened.map(|store| {
                stores.insert(name.to_owned(), store);
                vec![seconds]
            }))
        }
        ["close", name] => {
            if let Some(store) = stores.remove(name) {
                store.close()?;
            }
            Ok(Some(Vec::new()))
        }
        ["anon"] => Ok(Some(vec![anonymous_bytes()?])),
        [command, name, ref rest @ ..] => {
            let Some(store) = stores.get(name) else { return Ok(None) };
            match (command, rest) {
                ("fill", [events]) => {
                    let begun = Instant::now();
                    workload::fill(store.as_ref(), events.parse()?)?;
                    Ok(Some(vec![begun.elapsed().as_secs_f64()]))
                }
                ("count", []) => Ok(store.count()?.map(|count| vec![count as f64])),
                ("round", [workload, ms, filled]) => {
                    let workload = Workload::parse(workload).ok_or("an unknown workload")?;
                    let round = Duration::from_millis(ms.parse()?);
                    let figures = workload.run(store.as_ref(), round, filled.parse()?)?;
                    Ok(figures.map(|Figures { rate, p50, p99 }| vec![rate, p50, p99]))
                }
                _ => Err("an unknown command".into()),
            }
        }
        _ => Err("an unknown command".into()),
    }
}

/// What this process holds of anonymous memory, by the kernel's account.
fn anonymous_bytes() -> Fallible<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).ok_or("no RssAnon")?;
    Ok(kilobytes.parse::<f64>()? * 1024.0)
}

/// A peer's process as its parent holds it.
pub struct Process {
    peer: String,
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(peer: &str, dir: PathBuf) -> Fallible<Self> {
        std::fs::create_dir_all(&dir)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--child", peer])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = child.stdin.take().ok_or("no pipe")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self { peer: peer.to_owned(), child, commands, answers })
    }

    /// Sends a command and waits for its answer. `None`: the peer has no notion of it.
    pub fn ask(&mut self, command: &str) -> Fallible<Option<Vec<f64>>> {
        writeln!(self.commands, "{command}")?;
        let mut answer = String::new();
        while self.answers.read_line(&mut answer)? > 0 {
            let mut words = answer.split_whitespace();
            match words.next() {
                Some("ok") => return Ok(Some(words.map(str::parse).collect::<Result<_, _>>()?)),
                Some("none") => return Ok(None),
                Some("error") => return Err(answer.trim().into()),
                // Some peers print a line of their own.
                _ => answer.clear(),
            }
        }
        Err(format!("the process of {} ended while at: {command}", self.peer).into())
    }

    /// The same for an answer of one number.
    pub fn number(&mut self, command: &str) -> Fallible<Option<f64>> {
        Ok(self.ask(command)?.and_then(|numbers| numbers.first().copied()))
    }

    /// Ends the process with SIGKILL.
    pub fn kill(mut self) -> Fallible<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Lets the process end by itself.
    pub fn end(self) -> Fallible<()> {
        let Self { mut child, commands, .. } = self;
        drop(commands);
        child.wait()?;
        Ok(())
    }
}
