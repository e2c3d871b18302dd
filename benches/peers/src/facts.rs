//! What stands above and below the table.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::peers::Fallible;

/// What a reader must know to trust the numbers.
pub const NOTES: &str = "\
A cell is the peer's median, and in brackets how many times better Headwater was (the median of \
the ratios of rounds that ran side by side; below 1 the peer was better). A dash: the peer has no \
notion of it.

- An event has 256 bytes of payload, 18 of metadata, a stream name of 16 and a type of 14. It is \
built before the clock starts where the peer's interface takes events.
- Durable means that the append returns after the device has flushed. Not synced means that it \
survives the end of the process: Headwater `Os`, fjall `PersistMode::Buffer`, SQLite in WAL mode \
with `synchronous=OFF`. redb's `Durability::None` survives less: a kill loses what no durable \
commit followed. tephra, umadb and okaywal are always durable.
- tephra and umadb know tags and no streams; a stream is a tag, and its version the position of \
its newest event. fjall, redb and SQLite hold an event store of our making: events by position, \
positions by stream and revision. okaywal is a log without index, conditions or reading back. \
umadb's core, fjall, redb and SQLite have no subscriptions and no way to append without waiting.
- Bare is a loop of 4 KiB `pwrite`, with `fdatasync` where durable, over a file filled with zeros.
- The filled stores are read from the page cache. Half of their events lie in streams of 10, half \
in streams of 100, as far apart as can be. Disk is what is allocated, preallocated space included.
";

/// Returns the date, the machine and the command line as Markdown.
pub fn gather(dir: &Path, arguments: &[String]) -> Fallible<String> {
    let output = |command: &str, arguments: &[&str]| -> String {
        let output = Command::new(command).args(arguments).output();
        output.map_or_else(
            |_| "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    let cpus = std::thread::available_parallelism()?;
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':']));
    let system = file_system(dir)?;
    if system == "tmpfs" || system == "ramfs" {
        eprintln!("warning: {} is a {system}: syncs cost nothing there, and", dir.display());
        eprintln!("warning: no durable row means anything. Give --dir on a real disk.");
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    Ok(format!(
        "{} · {cpus} cores, {model} · Linux {} · {system} · {} · load {load} at the start · \
         `cargo run --release -- {}`\n",
        output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        output("uname", &["-r"]),
        output("rustc", &["--version"]),
        arguments.join(" "),
    ))
}

/// Returns the type of the file system that holds a directory.
fn file_system(dir: &Path) -> Fallible<String> {
    let dir = dir.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holding = fields.filter(|fields| fields.len() > 2 && dir.starts_with(fields[1]));
    let nearest = holding.max_by_key(|fields| fields[1].len());
    Ok(nearest.map_or("unknown", |fields| fields[2]).to_owned())
}

/// Returns what the files under a directory take on disk.
pub fn disk_bytes(dir: &Path) -> Fallible<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += disk_bytes(&entry.path())?;
        }
    }
    Ok(bytes)
}
