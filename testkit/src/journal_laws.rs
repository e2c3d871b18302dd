//! What every journal must do that processes run groups by.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_core::{Journal, JournalError, JournalRead, Version};

/// How long something may take that should happen at once, on the slowest machine.
const SOON: Duration = Duration::from_secs(60);
/// How many race, and how many entries each of them adds.
const RACERS: u64 = 4;
const ENTRIES: u64 = 50;

/// Checks the laws of [`Journal`] on a journal that must be new and empty. `open` opens it again
/// and again, as several processes do; where they share more than the journal, such as a
/// connection, that is not put to the test.
///
/// # Panics
///
/// Panics with the law that is broken.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use headwater_core::MemoryJournal;
///
/// let journal = MemoryJournal::new();
/// headwater_testkit::journal_laws(|| journal.clone()).await;
/// # }
/// ```
pub async fn journal_laws<J: Journal>(open: impl Fn() -> J) {
    one_of_two_is_added(&open(), &open()).await;
    whoever_waits_is_told(Arc::new(open()), &open()).await;
    racers_make_one_list(&open).await;
    a_snapshot_stands_for_what_came_before(&open(), &open()).await;
    a_journal_that_is_opened_again_is_the_same(&open).await;
}

async fn one_of_two_is_added(one: &impl Journal, two: &impl Journal) {
    let law = "of two entries behind one version one is added, and the other changes nothing";
    let nothing = one.read(Version::NONE).await.expect("a new journal is read");
    assert_eq!(nothing, JournalRead::default(), "the journal must be new and empty");
    let first = one.append(Version::NONE, entry(1)).await.expect("a first entry is added");
    assert_eq!(first, Version::new(1), "versions count entries");
    for journal in [one as &dyn Journal, two] {
        for expected in [Version::NONE, Version::new(2), Version::new(9)] {
            let moved = journal.append(expected, entry(9)).await;
            assert!(matches!(moved, Err(JournalError::Moved { .. })), "{law}: {moved:?}");
        }
        let read = journal.read(Version::NONE).await.expect("an entry is read");
        assert_eq!(read.entries, [entry(1)], "{law}");
    }
    let second = two.append(first, entry(2)).await.expect("an entry is added by another");
    let read = one.read(first).await.expect("an entry is read");
    assert_eq!(read.entries, [entry(2)], "a read returns what was added before it in any process");
    let end = one.read(second).await.expect("the end is read");
    assert_eq!(end, JournalRead::default(), "behind the last entry is nothing");
    let beyond = one.read(second.next()).await;
    let law = "a version that the journal does not reach is damage";
    assert!(matches!(beyond, Err(JournalError::Damaged(_))), "{law}: {beyond:?}");
}

async fn whoever_waits_is_told(one: Arc<impl Journal>, two: &impl Journal) {
    let last = end(two).await;
    soon("whoever waits for what is there already is told", one.changed(Version::NONE)).await;
    let waits = Arc::clone(&one);
    let waiting = tokio::spawn(async move {
        // It may be told too early, and looks.
        while waits.read(last).await.expect("the end is read").entries.is_empty() {
            waits.changed(last).await.expect("changes are waited for");
        }
    });
    tokio::task::yield_now().await;
    two.append(last, entry(3)).await.expect("an entry is added");
    let told = tokio::time::timeout(SOON, waiting).await;
    assert!(matches!(told, Ok(Ok(()))), "whoever waits is told of what another process added");
}

async fn racers_make_one_list<J: Journal>(open: &impl Fn() -> J) {
    let judge = open();
    let begin = end(&judge).await;
    let race = |racer: u64| {
        let journal = open();
        tokio::spawn(async move {
            let mut last = begin;
            let mut added = Vec::new();
            for number in racer * ENTRIES..(racer + 1) * ENTRIES {
                loop {
                    match journal.append(last, entry(number)).await {
                        Ok(version) => break last = version,
                        Err(JournalError::Moved { .. }) => last = end(&journal).await,
                        Err(error) => panic!("who comes second is told so: {error}"),
                    }
                }
                added.push((last, entry(number)));
            }
            added
        })
    };
    let mut expected = Vec::new();
    for racer in (0..RACERS).map(race).collect::<Vec<_>>() {
        expected.extend(racer.await.expect("a racer ends well"));
    }
    expected.sort();
    let read = judge.read(begin).await.expect("what the racers added is read");
    let versions = (begin.get() + 1..).map(Version::new);
    let found: Vec<(Version, Bytes)> = versions.zip(read.entries).collect();
    let law = "every entry that was added is there once, at its version";
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected, "{law}");
    }
    assert_eq!(found.len(), expected.len(), "{law}");
}

async fn a_snapshot_stands_for_what_came_before(one: &impl Journal, two: &impl Journal) {
    let law = "a snapshot stands for the entries up to its version";
    let last = end(one).await;
    let through = Version::new(last.get() - 3);
    let rest = one.read(through).await.expect("the rest is read").entries;
    let snapshot = |number| Bytes::from(format!("snapshot {number}"));
    one.compact(through, snapshot(2)).await.expect("a journal is compacted");
    let earlier = Version::new(through.get() - 1);
    two.compact(earlier, snapshot(1)).await.expect("an earlier snapshot is left out");
    two.compact(last.next(), snapshot(9)).await.expect("one beyond the end is left out");
    for after in [Version::NONE, earlier] {
        let read = two.read(after).await.expect("a compacted journal is read");
        let expected =
            JournalRead { snapshot: Some((through, snapshot(2))), entries: rest.clone() };
        assert_eq!(read, expected, "{law}");
    }
    let read = two.read(through).await.expect("the rest is read");
    assert_eq!(read, JournalRead { snapshot: None, entries: rest }, "{law}");
    let next = two.append(last, entry(4)).await.expect("a compacted journal goes on");
    assert_eq!(next, last.next(), "versions go on behind a snapshot");
    one.compact(next, snapshot(3)).await.expect("everything is compacted");
    assert_eq!(end(two).await, next, "a journal of nothing but a snapshot has its version");
    let moved = two.append(last, entry(9)).await;
    assert!(matches!(moved, Err(JournalError::Moved { .. })), "{law}: {moved:?}");
}

async fn a_journal_that_is_opened_again_is_the_same<J: Journal>(open: &impl Fn() -> J) {
    let journal = open();
    let last = end(&journal).await;
    journal.append(last, entry(5)).await.expect("an entry is added");
    let before = journal.read(Version::NONE).await.expect("everything is read");
    drop(journal);
    let after = open().read(Version::NONE).await.expect("everything is read again");
    assert_eq!(after, before, "what was added outlives the one who added it");
}

/// Returns the last version.
async fn end(journal: &impl Journal) -> Version {
    let read = journal.read(Version::NONE).await.expect("the journal is read");
    let base = read.snapshot.map_or(Version::NONE, |(version, _)| version);
    Version::new(base.get() + read.entries.len() as u64)
}

fn entry(number: u64) -> Bytes {
    number.to_le_bytes().to_vec().into()
}

async fn soon<T, E: std::fmt::Debug>(law: &str, wait: impl Future<Output = Result<T, E>>) -> T {
    tokio::time::timeout(SOON, wait).await.expect(law).expect(law)
}
