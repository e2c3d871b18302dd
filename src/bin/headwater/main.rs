//! The command `headwater`: looks into stores, checks them, and appends to them from a pipe.
//!
//! One file per command. What they share: [`exit`] (failures and exit codes), [`output`] (what
//! people read), [`event`] and [`input`] (events as JSON lines, out and in), [`selection`].
//! Invariants: only `append`, and `retention` and `repair` with `--apply`, take the lock of a store that is there or change a byte of it; `import`, `backup`,
//! `restore` and `bench` write stores of their own; nothing panics on what it reads; standard output holds results and nothing else.

mod append;
mod backup;
mod base64;
mod bench;
mod damage;
mod dump;
mod event;
mod exit;
mod export;
mod groups;
mod import;
mod input;
mod interrupt;
mod json;
mod output;
mod parked;
mod pipeline;
mod read;
mod repair;
mod retention;
mod selection;
mod stat;
mod streams;
mod tail;
mod trace;
mod transfer;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::{EXIT_CODES, Exit};

/// Looks into, checks and feeds Headwater event stores.
///
/// `append`, `parked` with `--redrive` or `--discard`, and `retention` and `repair` with `--apply`, take a store's lock and change it.
/// `import`, `backup`, `restore` and `bench` make a store of their own, where none is. Every other
/// command changes nothing. Whatever a command only reads, it opens without a lock, also while
/// another program writes to it.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    Stat(stat::Args),
    Append(append::Args),
    Tail(tail::Args),
    Read(read::Args),
    Streams(streams::Args),
    Trace(trace::Args),
    Groups(groups::Args),
    Parked(parked::Args),
    Backup(backup::Args),
    Restore(backup::RestoreArgs),
    Export(export::Args),
    Import(import::Args),
    Retention(retention::Args),
    Repair(repair::Args),
    Dump(dump::Args),
    Bench(bench::Args),
    Verify(verify::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Stat(args) => stat::run(&args),
        Command::Append(args) => append::run(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Read(args) => read::run(&args),
        Command::Streams(args) => streams::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Groups(args) => groups::run(&args),
        Command::Parked(args) => parked::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Export(args) => export::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Retention(args) => retention::run(&args),
        Command::Repair(args) => repair::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Verify(args) => verify::run(&args),
    };
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => failure.report().into(),
    }
}
