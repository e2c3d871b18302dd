//! Rules that no single stream can keep: the classic examples of dynamic consistency boundaries.
//!
//! Each decision says what it has to know ([`View`](headwater::View)s over tags), and its append
//! goes through if nothing of exactly that has changed. In each story many people try at once, over
//! a store; what came of it is read back from the log and checked, so a run that ends is one in
//! which every rule held.
//!
//! ```text
//! cargo run --release --example decisions
//! ```

mod bookings;
mod courses;
mod invoices;
mod names;
mod tokens;

use std::error::Error;

use headwater::{
    Decision, Event, EventLog, ExecuteError, ExecuteOptions, Options, Position, Query, Read, Store,
    decide, decode_event,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What came of one story.
#[derive(Debug)]
struct Report {
    rule: &'static str,
    tried: usize,
    done: usize,
    /// How often somebody else was faster, and it was decided again.
    again: u32,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    println!("{:52} {:>6} {:>6} {:>8} {:>6}", "rule", "tried", "done", "refused", "again");
    for report in [
        courses::story().await?,
        names::story().await?,
        invoices::story().await?,
        bookings::story().await?,
        tokens::story().await?,
    ] {
        let Report { rule, tried, done, again } = report;
        println!("{rule:52} {tried:>6} {done:>6} {:>8} {again:>6}", tried - done);
    }
    Ok(())
}

/// A store that is gone with the directory.
fn open() -> Outcome<(tempfile::TempDir, Store)> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options::default())?;
    Ok((dir, store))
}

/// Lets everybody try at once. A refusal is no error; everything else is.
async fn race<D>(
    rule: &'static str,
    store: &Store,
    decisions: impl IntoIterator<Item = D>,
) -> Outcome<Report>
where
    D: Decision + Send + Sync + 'static,
    D::Views: Sync,
    D::Event: Send + Sync,
    D::Error: Error + Send + Sync + 'static,
{
    // Whoever loses knows the winner's event when it tries again, so this is often enough.
    let options = ExecuteOptions { attempts_max: 1_000, ..ExecuteOptions::default() };
    let attempt = |decision: D| {
        let (store, options) = (store.clone(), options.clone());
        tokio::spawn(async move { decide(&store, &decision, &options).await })
    };
    let attempts: Vec<_> = decisions.into_iter().map(attempt).collect();
    let mut report = Report { rule, tried: attempts.len(), done: 0, again: 0 };
    for attempt in attempts {
        match attempt.await? {
            Ok(decided) => {
                report.done += 1;
                report.again += decided.attempts - 1;
            }
            Err(ExecuteError::Rejected(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(report)
}

/// Returns everything that has happened.
async fn history<E: Event>(store: &Store) -> Outcome<Vec<E>> {
    let mut events = Vec::new();
    let mut after = Position::START;
    loop {
        let page = store.read(Read::forward(Query::all(), after)).await?;
        for event in &page.events {
            events.push(decode_event(event)?);
        }
        if page.done {
            return Ok(events);
        }
        after = page.scanned;
    }
}

/// Fails the story if a rule was broken.
fn holds(rule: bool, what: impl FnOnce() -> String) -> Outcome<()> {
    if rule { Ok(()) } else { Err(what().into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_course_has_too_many_students_and_no_student_too_many_courses() {
        let report = courses::story().await.unwrap();
        assert_eq!((report.tried, report.done), (120, 40));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_name_has_one_owner() {
        let report = names::story().await.unwrap();
        // Six accounts have a name, and some of them another one then.
        assert!(report.tried == 60 && (7..=12).contains(&report.done), "{report:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn invoices_are_numbered_without_gaps() {
        let report = invoices::story().await.unwrap();
        assert_eq!((report.tried, report.done), (50, 50));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_room_has_one_guest_a_night() {
        let report = bookings::story().await.unwrap();
        // Whatever comes first, each room has a guest.
        assert!(report.done >= 3, "{report:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_token_is_good_for_once() {
        let report = tokens::story().await.unwrap();
        assert_eq!((report.tried, report.done), (45, 5));
    }
}
