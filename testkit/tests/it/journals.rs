//! Journals with a fault each: every law can be broken.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use headwater_core::{Journal, JournalError, JournalRead, MemoryJournal, Version};
use headwater_testkit::journal_laws;
use tokio::sync::watch;
use tokio::task::yield_now;

/// What is wrong with a journal.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// It compares with nothing.
    AddsAnyway,
    /// It says that others were faster, and adds all the same.
    AddsWhatItRefuses,
    /// Between comparing and adding there is time.
    ComparesEarly,
    /// Of a hundred entries one is not kept.
    LosesOne,
    /// A process sees what was there when it added something.
    ReadsWhatItKnows,
    /// Behind its end it is empty.
    ForgivesLostEnds,
    TellsNobody,
    /// Of the snapshots the last one that is given counts.
    TakesOldSnapshots,
    /// A snapshot that is asked for is not there.
    HidesSnapshots,
    /// Versions begin again with a snapshot.
    CountsFromSnapshots,
    /// Its last entry goes with the one who added it.
    ForgetsWhenClosed,
}

#[derive(Debug, Default)]
struct Kept {
    snapshot: Option<(Version, Bytes)>,
    entries: Vec<Bytes>,
    lost: bool,
}

impl Kept {
    fn base(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |(version, _)| version.get())
    }
}

#[derive(Debug)]
struct Faulty {
    fault: Fault,
    kept: Arc<Mutex<Kept>>,
    last: watch::Sender<Version>,
    known: Mutex<Option<usize>>,
}

impl Faulty {
    fn last(&self) -> Version {
        let kept = self.kept.lock().unwrap();
        let base = if self.fault == Fault::CountsFromSnapshots { 0 } else { kept.base() };
        Version::new(base + kept.entries.len() as u64)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        let mut kept = self.kept.lock().unwrap();
        if self.fault == Fault::ForgetsWhenClosed && kept.snapshot.is_some() {
            kept.entries.pop();
        }
    }
}

#[async_trait]
impl Journal for Faulty {
    async fn read(&self, after: Version) -> Result<JournalRead, JournalError> {
        if after > self.last() && self.fault != Fault::ForgivesLostEnds {
            return Err(JournalError::Damaged("it lost its end".to_owned()));
        }
        let kept = self.kept.lock().unwrap();
        let mut snapshot = kept.snapshot.clone().filter(|(version, _)| *version > after);
        if self.fault == Fault::HidesSnapshots {
            snapshot = None;
        }
        let skipped = usize::try_from(after.get().saturating_sub(kept.base())).unwrap();
        let known = *self.known.lock().unwrap();
        let known = known.filter(|_| self.fault == Fault::ReadsWhatItKnows).unwrap_or(usize::MAX);
        let entries = kept.entries.iter().take(known).skip(skipped).cloned().collect();
        Ok(JournalRead { snapshot, entries })
    }

    async fn append(&self, expected: Version, entry: Bytes) -> Result<Version, JournalError> {
        let moved = self.last() != expected && self.fault != Fault::AddsAnyway;
        if self.fault == Fault::ComparesEarly {
            yield_now().await;
        }
        let mut kept = self.kept.lock().unwrap();
        // The real ones compare under the lock.
        let last = Version::new(kept.base() + kept.entries.len() as u64);
        let compares = !matches!(
            self.fault,
            Fault::AddsAnyway | Fault::ComparesEarly | Fault::CountsFromSnapshots
        );
        let moved = moved || (compares && last != expected);
        if moved && self.fault != Fault::AddsWhatItRefuses {
            return Err(JournalError::Moved { expected });
        }
        if self.fault == Fault::LosesOne && kept.entries.len() == 100 && !kept.lost {
            kept.lost = true;
            return Ok(expected.next());
        }
        kept.entries.push(entry);
        *self.known.lock().unwrap() = Some(kept.entries.len());
        self.last.send_replace(expected.next());
        if moved { Err(JournalError::Moved { expected }) } else { Ok(expected.next()) }
    }

    async fn compact(&self, through: Version, snapshot: Bytes) -> Result<(), JournalError> {
        let last = self.last();
        let mut kept = self.kept.lock().unwrap();
        let base = kept.base();
        if through.get() <= base && self.fault == Fault::TakesOldSnapshots {
            kept.snapshot = Some((Version::new(base), snapshot));
        } else if through.get() > base && through <= last {
            kept.entries.drain(..usize::try_from(through.get() - base).unwrap());
            kept.snapshot = Some((through, snapshot));
        }
        Ok(())
    }

    async fn changed(&self, after: Version) -> Result<(), JournalError> {
        if self.fault == Fault::TellsNobody {
            std::future::pending::<()>().await;
        }
        let mut last = self.last.subscribe();
        last.wait_for(|last| *last > after).await.unwrap();
        Ok(())
    }
}

/// Returns the law that a journal with a fault breaks, if any.
async fn broken_law(fault: Fault) -> Option<String> {
    let (kept, last) = (Arc::default(), watch::Sender::new(Version::NONE));
    let open = move || Faulty {
        fault,
        kept: Arc::clone(&kept),
        last: last.clone(),
        known: Mutex::default(),
    };
    let broken = tokio::spawn(journal_laws(open)).await.err()?.into_panic();
    let text = broken.downcast_ref::<String>().map(String::as_str);
    Some(text.or(broken.downcast_ref::<&str>().copied()).unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_journal_in_memory_keeps_the_laws_of_journals() {
    let journal = MemoryJournal::new();
    journal_laws(|| journal.clone()).await;
}

#[tokio::test(start_paused = true)]
async fn each_law_of_journals_can_be_broken() {
    assert_eq!(broken_law(Fault::None).await, None);
    for (fault, law) in [
        (Fault::AddsAnyway, "of two entries behind one version one is added"),
        (Fault::AddsWhatItRefuses, "of two entries behind one version one is added"),
        (Fault::ComparesEarly, "every entry that was added is there once, at its version"),
        (Fault::LosesOne, "every entry that was added is there once, at its version"),
        (Fault::ReadsWhatItKnows, "a read returns what was added before it in any process"),
        (Fault::ForgivesLostEnds, "a version that the journal does not reach is damage"),
        (Fault::TellsNobody, "whoever waits for what is there already is told"),
        (Fault::TakesOldSnapshots, "a snapshot stands for the entries up to its version"),
        (Fault::HidesSnapshots, "a snapshot stands for the entries up to its version"),
        (Fault::CountsFromSnapshots, "a compacted journal is read"),
        (Fault::ForgetsWhenClosed, "what was added outlives the one who added it"),
    ] {
        let broken = broken_law(fault).await;
        assert!(broken.as_ref().is_some_and(|text| text.contains(law)), "{fault:?}: {broken:?}");
    }
}
