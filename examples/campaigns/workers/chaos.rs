//! The processes of the members, and what is done to them.

use std::error::Error;
use std::fs::{self, File};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Home, MEMBERS, WORKER_LEASE};

/// How often something may happen.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// How long a member may take to end when told to.
const ENDING: Duration = Duration::from_secs(60);

/// What was done.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) killed: u64,
    pub(super) stopped: u64,
    pub(super) ended: u64,
    /// How many processes each member was.
    pub(super) lives: Vec<u32>,
}

/// What a process does, as far as it is let.
enum State {
    Working,
    StoppedUntil(Instant),
    /// Told to end.
    Ending,
}

struct Process {
    number: u32,
    life: u32,
    child: Child,
    state: State,
}

pub(super) struct Chaos<'a> {
    home: &'a Home,
    dice: fastrand::Rng,
    processes: Vec<Process>,
    faults: Faults,
}

impl<'a> Chaos<'a> {
    /// Starts the members.
    pub(super) fn new(home: &'a Home, seed: u64) -> Result<Self, Box<dyn Error>> {
        let processes = (0..MEMBERS).map(|number| Process::start(home, number, 1));
        let processes = processes.collect::<Result<_, _>>()?;
        let faults = Faults { lives: vec![1; MEMBERS as usize], ..Faults::default() };
        Ok(Self { home, dice: fastrand::Rng::with_seed(!seed), processes, faults })
    }

    /// Does something to somebody, perhaps, and lets those go on whose time has come.
    pub(super) fn tick(&mut self) -> Result<(), Box<dyn Error>> {
        for process in &mut self.processes {
            match process.state {
                State::StoppedUntil(until) if until <= Instant::now() => {
                    process.signal(Signal::CONT)?;
                    process.state = State::Working;
                }
                State::StoppedUntil(_) => continue,
                State::Working | State::Ending => {}
            }
            if let Some(status) = process.child.try_wait()? {
                process.must_have_ended_well(self.home, status)?;
                let (number, life) = (process.number, process.life + 1);
                *process = Process::start(self.home, number, life)?;
                self.faults.lives[number as usize] = life;
            }
        }
        if self.dice.u8(..16) != 0 {
            return Ok(());
        }
        let victim = self.dice.usize(..self.processes.len());
        let process = &mut self.processes[victim];
        match self.dice.u8(..10) {
            // Also who is stopped, or ends.
            0..4 => {
                process.child.kill()?;
                process.child.wait()?;
                self.faults.killed += 1;
                let (number, life) = (process.number, process.life + 1);
                *process = Process::start(self.home, number, life)?;
                self.faults.lives[number as usize] = life;
            }
            4..8 if matches!(process.state, State::Working) => {
                process.signal(Signal::STOP)?;
                let time = WORKER_LEASE.mul_f64(self.dice.f64() * 3.0);
                process.state = State::StoppedUntil(Instant::now() + time);
                self.faults.stopped += 1;
            }
            8.. if matches!(process.state, State::Working) => {
                process.signal(Signal::TERM)?;
                process.state = State::Ending;
                self.faults.ended += 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends everybody well.
    pub(super) fn end(mut self) -> Result<Faults, Box<dyn Error>> {
        for process in &mut self.processes {
            process.signal(Signal::CONT)?;
            process.signal(Signal::TERM)?;
        }
        let begun = Instant::now();
        for process in &mut self.processes {
            let status = loop {
                if let Some(status) = process.child.try_wait()? {
                    break status;
                }
                if begun.elapsed() > ENDING {
                    return Err(format!("member {} does not end", process.number).into());
                }
                thread::sleep(TICK);
            };
            process.must_have_ended_well(self.home, status)?;
        }
        Ok(self.faults)
    }
}

impl Process {
    fn start(home: &Home, number: u32, life: u32) -> Result<Self, Box<dyn Error>> {
        let words = File::create_new(home.words(number, life))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("member")
            .arg("--dir")
            .arg(&home.0)
            .args(["--member", &number.to_string(), "--life", &life.to_string()])
            .stdin(Stdio::null())
            .stdout(words.try_clone()?)
            .stderr(words)
            .spawn()?;
        Ok(Self { number, life, child, state: State::Working })
    }

    fn signal(&self, signal: Signal) -> Result<(), Box<dyn Error>> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // Who has ended and was not waited for is still there.
        Ok(kill_process(pid.ok_or("a process without a number")?, signal)?)
    }

    /// Nobody but who was told to may end, and nobody badly.
    fn must_have_ended_well(&self, home: &Home, status: ExitStatus) -> Result<(), Box<dyn Error>> {
        let words = fs::read_to_string(home.words(self.number, self.life))?;
        let words = words.trim();
        // A signal that comes before it listens ends it at once.
        let told = matches!(self.state, State::Ending) && status.code().is_none();
        if (status.success() || told) && words.is_empty() {
            return Ok(());
        }
        let Self { number, life, .. } = self;
        Err(format!("member {number} ended in life {life} with {status}: {words}").into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
