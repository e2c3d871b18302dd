//! Breaks processes, disks and system calls under a store, and sees that it keeps its promises.
//!
//! ```text
//! cargo build --release --example campaigns
//! cargo run --release --example campaigns -- kill --seconds 600 --seed 7
//! ```
//!
//! Every campaign ends with one line of JSON that says what it did. What this machine cannot do is
//! skipped with a line that begins with SKIPPED.

mod calls;
mod child;
mod device;
mod full;
mod history;
mod kill;
mod options;
mod plan;
mod power;
mod record;
mod tape;
mod watch;
mod workers;

use std::error::Error;
use std::process::ExitCode;

use crate::child::Life;
use crate::options::Options;

const HELP: &str = "\
Breaks processes, disks and system calls under a store, and sees that it keeps its promises.

Usage: campaigns CAMPAIGN [--seconds N | --events N] [--seed N]

Campaigns:
  kill    kills a writing process at random moments, also while it recovers
  power   cuts the power of ext4 and XFS on a loop device under it (root)
  calls   fails and kills `headwater append` at every system call it makes (strace)
  full    fills a tmpfs and an ext4 to the last page, at any point of the work (root)
  device  lets write-backs and reads of a loop device fail under it (root)
  record  records every write and flush of a device under it, and mounts the disk as it was at many
          moments, with any sectors of what was not flushed (root, FUSE)
  workers kills, stops and ends four processes that run one group together, until they have worked
          off all events, and accounts for every effect

  --seconds N   how long, about (default 60); not for workers
  --events N    how many events, for workers (default 1000000)
  --seed N      where everything random comes from (default: the clock)

Exit code: 0 if every promise was kept, 1 otherwise.
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("campaigns: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let campaign = arguments.next().unwrap_or_default();
    if ["", "-h", "--help"].contains(&campaign.as_str()) {
        print!("{HELP}");
        return Ok(());
    }
    let options = Options::read(arguments)?;
    match campaign.as_str() {
        "kill" => kill::run(&options),
        "calls" => calls::run(&options),
        "device" => device::run(&options),
        "record" => record::run(&options),
        "full" => full::run(&options),
        "power" => power::run(&options),
        "workers" => workers::run(&options),
        // What the campaigns start as the processes to break.
        "member" => workers::run_member(&options),
        "child" => {
            let Options { seed, life: number, durability, appends, .. } = options;
            child::run(&options.dir, Life { seed, number, durability, appends })
        }
        _ => Err(format!("{campaign} is no campaign; see --help").into()),
    }
}
