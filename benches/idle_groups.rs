//! What a thousand groups cost that have nothing to do: memory of their own, and time of the processor.
//!
//! ```text
//! cargo bench --bench idle_groups
//! ```
//!
//! Linux only: the figures are those of `/proc/self`.

mod common;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use headwater::projections::{ConsumerGroup, GroupOptions};
use headwater::{Durability, GroupLog, GroupName, Start};

const GROUPS: u64 = 1_000;
const IDLE_SECONDS: u64 = 10;

#[tokio::main(worker_threads = 2)]
async fn main() {
    // Cargo asks test runners of benches to list themselves.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let (_dir, store) = common::open(Durability::Os);
    for n in 0..100 {
        store.append_blocking(common::batch(n, 1_000)).expect("an append");
    }
    let log: Arc<dyn GroupLog> = Arc::new(store);
    let before = anonymous_bytes();
    let mut groups = Vec::new();
    for n in 0..GROUPS {
        let name = GroupName::new(format!("g{n}")).expect("a name");
        let options = GroupOptions { start: Start::End, ..GroupOptions::new(name) };
        groups.push(ConsumerGroup::open(Arc::clone(&log), options).await.expect("a group"));
    }
    println!(
        "a group that is open:          {:>4} KiB",
        (anonymous_bytes() - before) / GROUPS / 1024
    );
    let mut members = Vec::new();
    for group in &groups {
        members.push(group.join("m").await.expect("a member"));
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!(
        "a group with one idle member:  {:>4} KiB",
        (anonymous_bytes() - before) / GROUPS / 1024
    );
    let begun = processor_ticks();
    tokio::time::sleep(Duration::from_secs(IDLE_SECONDS)).await;
    let ticks = processor_ticks() - begun;
    // A tick is a hundredth of a second.
    println!("all of them, idle, of one core: {:>4} per mille", 10 * ticks / IDLE_SECONDS);
}

/// Returns the anonymous memory of this process.
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("RssAnon")).expect("a line");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") * 1024
}

/// Returns how long this process has had a processor, in ticks of 10 ms.
fn processor_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit(')').next().expect("the name comes first").split_whitespace();
    // The 14th and 15th field; two are gone with the name.
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}
