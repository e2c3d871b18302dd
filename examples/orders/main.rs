//! An order service on real data: 69,659 orders that 23,570 customers placed with CDNOW.
//!
//! Every order of the file becomes a command to its customer's decider ([`shop`]), and what is
//! decided is appended durably ([`intake`]). Two services follow the log, independent of the
//! orders and of each other ([`services`]): one writes a confirmation for each order exactly
//! once ([`email`]), one keeps points, tiers and revenue in SQLite ([`loyalty`]). In the end a
//! [`report`] says what came of it, and whether that is what the file says ([`audit`]).
//!
//! Kill it whenever you like and start it again: it ends with the same report.
//!
//! ```text
//! cargo run --release --example orders
//! cargo run --release --example orders -- --rebuild
//! cargo run --release --example orders_kill_loop -- --kills 25
//! ```

mod audit;
mod email;
mod home;
mod intake;
mod ledger;
mod loyalty;
mod money;
mod options;
mod progress;
mod report;
mod rows;
mod services;
mod shop;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::{Durability, EventLog, Position, Store, Visibility};
use tokio::sync::watch;

use crate::home::Home;
use crate::intake::{Counter, Taken};
use crate::ledger::Ledger;
use crate::money::count;
use crate::options::{HELP, Options};
use crate::progress::{Screen, Standing, per_second};
use crate::rows::{OrderFile, Row};
use crate::services::Services;

/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How a run ended that did not fail.
enum Outcome {
    /// With a report, all of whose checks hold.
    Good,
    /// With a report, not all of whose checks hold.
    Bad,
    /// Early, because somebody wished so.
    Interrupted,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) if options.help => {
            show(HELP);
            return ExitCode::SUCCESS;
        }
        Ok(options) => options,
        Err(error) => {
            eprintln!("orders: {error}; see --help");
            return ExitCode::from(2);
        }
    };
    match run(&options).await {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprint!("orders: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<Outcome, Box<dyn Error + Send + Sync>> {
    let begun = Instant::now();
    let file = OrderFile::read(options.input.as_deref())?;
    let home = Home::open(&options.dir, options.fresh, &file)?;
    let store = Store::open(
        home.log(),
        headwater::Options {
            durability: Durability::Sync,
            segment_bytes: 16 * 1024 * 1024,
            ..headwater::Options::default()
        },
    )?;
    // A log with events that this program cannot read is not read halfway.
    shop::registry()?.check(&store).await?;
    let services = Services::start(&store, &home).await?;

    // No order waits for a service: each is answered as soon as it is on the device.
    let Some(taken) = take_orders(&store, &services, &file).await? else {
        services.stop().await?;
        store.close()?;
        eprintln!("stopped; run it again to go on");
        return Ok(Outcome::Interrupted);
    };
    let head = store.head(Visibility::Durable).await?;
    let model = loyalty::read(&services.stop().await?)?;

    let expected = Ledger::of_rows(&file.rows);
    let mut checks = audit::log(&store, &file.rows)?;
    checks.extend(audit::read_model(&model, &expected));
    checks.extend(audit::outbox(&email::read(&home.outbox())?, &file.rows));
    let report = report::write(&file, &model, &checks);
    home.write_report(&report)?;
    show(&report);
    let mut good = checks.iter().all(|check| check.holds);

    if options.rebuild {
        good &= rebuild(&store, &home, head, &model).await?;
    }
    store.close()?;
    eprintln!("{}", summary(&taken, head, begun.elapsed()));
    Ok(if good { Outcome::Good } else { Outcome::Bad })
}

/// Writes to standard output. Who closes that early has `report.txt`.
fn show(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Places every order, lets the services catch up, and shows how far all are. Returns `None` if
/// it was told to stop.
async fn take_orders(
    store: &Store,
    services: &Services,
    file: &OrderFile,
) -> Result<Option<Taken>, Box<dyn Error + Send + Sync>> {
    let mut stop = stop_on_ctrl_c();
    let placed = intake::placed_before(store)?;
    let rows: Vec<Row> =
        file.rows.iter().filter(|row| !placed.contains(&row.order)).cloned().collect();
    let counter = Arc::new(Counter::from(placed.len() as u64));
    let mut screen = Screen::new(file.rows.len() as u64, counter.get());
    let work = async {
        let counter = Arc::clone(&counter);
        let taken = intake::place_all(store.clone(), rows, counter, stop.clone()).await?;
        let head = store.head(Visibility::Durable).await?;
        tokio::select! {
            biased;
            _ = stop.wait_for(|&stop| stop) => Ok(None),
            there = services.wait_for(head) => there.map(|()| Some(taken)),
        }
    };
    tokio::pin!(work);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            done = &mut work => {
                screen.close();
                return done;
            }
            _ = tick.tick() => {
                let (email_lag, loyalty_lag) = services.lags().await?;
                let head = store.head(Visibility::Durable).await?.get();
                screen.show(Standing { orders: counter.get(), head, email_lag, loyalty_lag });
            }
        }
    }
}

/// Returns what becomes true at the first ctrl-c.
fn stop_on_ctrl_c() -> watch::Receiver<bool> {
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        match tokio::signal::ctrl_c().await {
            Ok(()) => stop.send_replace(true),
            // Then ctrl-c kills, which does no harm either.
            Err(_) => std::future::pending().await,
        }
    });
    stopping
}

/// Rebuilds the read model from the log and says whether it is the same as before.
async fn rebuild(
    store: &Store,
    home: &Home,
    head: Position,
    before: &Ledger,
) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let begun = Instant::now();
    let after = loyalty::read(&services::rebuild(store, home, head).await?)?;
    let same = after == *before;
    let verdict = if same { "the same, to the cent" } else { "it DIFFERS" };
    show(&format!("\nRead model rebuilt from {} events: {verdict}\n", count(head.get())));
    eprintln!("rebuilt in {:.2} s", begun.elapsed().as_secs_f64());
    Ok(same)
}

/// Says how long things took: not in the report, which is the same for every run.
fn summary(taken: &Taken, head: Position, elapsed: Duration) -> String {
    let answered = |percent: usize| {
        let at = taken.answers.len().saturating_sub(1) * percent / 100;
        taken.answers.get(at).map_or(0.0, |answer| answer.as_secs_f64() * 1e3)
    };
    let (placed, head) = (count(taken.placed), count(head.get()));
    let total = elapsed.as_secs_f64();
    let text = format!("{placed} orders placed; {head} events in the log; {total:.2} s in all");
    if taken.placed == 0 {
        return text;
    }
    let rate = count(per_second(taken.placed, taken.elapsed));
    let (half, most) = (answered(50), answered(99));
    format!(
        "{text}\n{rate} orders per second, each on the device when it was answered: \
         half within {half:.1} ms, 99 % within {most:.1} ms"
    )
}
