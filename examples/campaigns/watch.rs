//! The other end of the pipe: starts the child process, kills it, and keeps what it was told.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{self, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use headwater::{Durability, Position};

use crate::child::Life;
use crate::options::durability_name;
use crate::plan::{Name, Plan};

/// The lines that a child said, and when.
pub(crate) type Heard = Vec<(u64, String)>;

/// A child process at work. It is killed when this goes.
pub(crate) struct Child {
    life: Life,
    process: process::Child,
    reader: Option<JoinHandle<io::Result<Heard>>>,
}

/// An append that was acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Ack {
    pub(crate) plan: Plan,
    pub(crate) first: Position,
    pub(crate) last: Position,
    /// When it was heard of, by the clock that [`Child::start`] was given.
    pub(crate) at: u64,
}

/// What a child process was told in its life.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) life: Life,
    /// Whether the store had been opened before the end.
    pub(crate) opened: bool,
    /// Whether the store was closed before the end.
    pub(crate) closed: bool,
    pub(crate) acks: Vec<Ack>,
    /// Appends that have surely not happened.
    pub(crate) refused: HashSet<Name>,
    /// The newest append of each thread that was answered.
    pub(crate) answered: HashMap<u32, u32>,
    /// How far a flush or the closing made everything durable.
    pub(crate) flushed: Position,
    /// What the group was to commit, and the last of it that was acknowledged.
    pub(crate) committing: Vec<Position>,
    pub(crate) committed: Option<Position>,
    /// How far a removal was to go at most, and how far one went.
    pub(crate) removing: Position,
    pub(crate) removed: Position,
    /// Why threads ended early, and what the child saw that must not be.
    pub(crate) failed: Vec<String>,
    pub(crate) wrong: Vec<String>,
}

impl Child {
    /// Starts this program again as the child of a store. `clock` stamps what is heard.
    pub(crate) fn start(
        dir: &Path,
        life: Life,
        clock: impl Fn() -> u64 + Send + 'static,
    ) -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("child")
            .arg("--dir")
            .arg(dir)
            .args(["--seed", &life.seed.to_string(), "--life", &life.number.to_string()])
            .args(["--appends", &life.appends.to_string()])
            .args(["--durability", durability_name(life.durability)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It says the same through the pipe.
            .stderr(Stdio::null())
            .spawn()?;
        let mut pipe = BufReader::new(process.stdout.take().expect("it was asked for"));
        let reader = thread::spawn(move || {
            let mut heard = Vec::new();
            let mut text = String::new();
            // A line without its end was cut off by the kill.
            while pipe.read_line(&mut text)? > 0 && text.ends_with('\n') {
                heard.push((clock(), text.trim_end().to_owned()));
                text.clear();
            }
            Ok(heard)
        });
        Ok(Self { life, process, reader: Some(reader) })
    }

    /// Returns whether it has come to its end.
    pub(crate) fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// Ends it as `kill -9` does, and returns how it ended and what it was told before.
    pub(crate) fn kill(self) -> Result<(ExitStatus, Told), Box<dyn Error>> {
        let life = self.life;
        let (status, heard) = self.kill_and_listen()?;
        Ok((status, Told::of(life, &heard, u64::MAX)?))
    }

    /// Ends it as `kill -9` does, and returns how it ended and what it said before.
    pub(crate) fn kill_and_listen(mut self) -> Result<(ExitStatus, Heard), Box<dyn Error>> {
        self.process.kill()?;
        let status = self.process.wait()?;
        let reader = self.reader.take().expect("it is taken here alone");
        let heard = reader.join().map_err(|_| "the reader of the pipe panicked")??;
        Ok((status, heard))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may be dead already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Told {
    /// What a life is told that was over before it began.
    pub(crate) fn nothing(life: Life) -> Self {
        Self {
            life,
            opened: false,
            closed: false,
            acks: Vec::new(),
            refused: HashSet::new(),
            answered: HashMap::new(),
            flushed: Position::START,
            committing: Vec::new(),
            committed: None,
            removing: Position::START,
            removed: Position::START,
            failed: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// Makes sense of what a child said. What it was told after `until` counts as asked, and not
    /// as answered.
    pub(crate) fn of(life: Life, heard: &Heard, until: u64) -> Result<Self, String> {
        let mut told = Self::nothing(life);
        for (at, line) in heard {
            told.hear(*at, line, until).ok_or_else(|| format!("the child said {line:?}"))?;
        }
        Ok(told)
    }

    /// Takes a line of the child's. `None` if it means nothing.
    fn hear(&mut self, at: u64, line: &str, until: u64) -> Option<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let position = || rest.parse().ok().map(Position::new);
        let is_promise = ["flushed", "closed", "committed", "removed"].contains(&word);
        match word {
            "opening" => {}
            _ if is_promise && at > until => {}
            "opened" => self.opened = true,
            "ack" => {
                let mut words = rest.split(' ');
                let name: Name = words.next()?.parse().ok()?;
                let first = Position::new(words.next()?.parse().ok()?);
                let last = Position::new(words.next()?.parse().ok()?);
                self.answer(name);
                if at <= until {
                    self.acks.push(Ack { plan: Plan::of(self.life.seed, name), first, last, at });
                }
            }
            "no" | "maybe" => {
                let name = rest.parse().ok()?;
                self.answer(name);
                if word == "no" {
                    self.refused.insert(name);
                }
            }
            "flushed" => self.flushed = self.flushed.max(position()?),
            "closed" => {
                self.flushed = self.flushed.max(position()?);
                self.closed = true;
            }
            "committing" => self.committing.push(position()?),
            "committed" => self.committed = Some(position()?),
            "removing" => self.removing = self.removing.max(position()?),
            "removed" => self.removed = self.removed.max(position()?),
            "failed" => self.failed.push(rest.to_owned()),
            "wrong" => self.wrong.push(rest.to_owned()),
            _ => return None,
        }
        Some(())
    }

    fn answer(&mut self, name: Name) {
        let newest = self.answered.entry(name.thread).or_default();
        *newest = (*newest).max(name.n);
    }

    /// Everything up to here was promised to survive the loss of power.
    pub(crate) fn durable(&self) -> Position {
        let all = self.life.durability == Durability::Sync;
        let synced = self.acks.iter().filter(|ack| all || ack.plan.sync).map(|ack| ack.last).max();
        synced.unwrap_or_default().max(self.flushed)
    }

    /// Everything up to here was promised to survive the death of the process.
    pub(crate) fn acknowledged(&self) -> Position {
        let newest = self.acks.iter().map(|ack| ack.last).max();
        newest.unwrap_or_default().max(self.flushed)
    }
}
