use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use headwater_core::{
    Bincode, Decider, Event, EventKind, ExecuteOptions, Json, MemoryLog, SnapshotPolicy, Snapshots,
    Snapshotted, StreamId,
};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::file::{APPLICATION_ID, WAL_BYTES, remove, shrink};
use super::*;

const MIB: u64 = 1024 * 1024;

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshots.sqlite");
    (dir, path)
}

fn key(n: u64) -> SnapshotKey {
    // As scattered as digests are.
    let scattered = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    SnapshotKey::from_bytes((u128::from(scattered) << 64 | u128::from(n)).to_be_bytes())
}

/// A snapshot that says whose it is.
fn snapshot(n: u64, length: usize) -> Bytes {
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.resize(length.max(8), b'x');
    bytes.into()
}

async fn save(store: &SqliteSnapshots, n: u64, length: usize) {
    store.save(key(n), snapshot(n, length)).await.unwrap();
    store.flush().await.unwrap();
}

async fn load(store: &SqliteSnapshots, n: u64) -> Option<usize> {
    let found = store.load(key(n)).await.unwrap()?;
    assert!(found.starts_with(&n.to_le_bytes()), "another one's");
    Some(found.len())
}

fn size(path: &Path, end: &str) -> u64 {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    fs::metadata(name).map_or(0, |metadata| metadata.len())
}

#[tokio::test]
async fn snapshots_in_a_file_come_back_after_it_was_opened_again() {
    let (_dir, path) = place();
    let store = SqliteSnapshots::open(&path, MIB).unwrap();
    assert_eq!(load(&store, 1).await, None);
    save(&store, 1, 100).await;
    save(&store, 2, 20_000).await;
    save(&store, 1, 200).await;
    for store in [store.clone(), SqliteSnapshots::open(&path, MIB).unwrap()] {
        assert_eq!((load(&store, 1).await, load(&store, 2).await), (Some(200), Some(20_000)));
    }
}

#[tokio::test]
async fn a_file_of_snapshots_never_takes_more_than_it_is_allowed() {
    let (_dir, path) = place();
    for bytes_max in [SqliteSnapshots::BYTES_MIN, MIB] {
        let store = SqliteSnapshots::open(&path, bytes_max).unwrap();
        for n in 0..1_500_u64 {
            let length = usize::try_from(n * 7_919 % 60_000).unwrap() >> (n % 12);
            store.save(key(n % 700), snapshot(n % 700, length)).await.unwrap();
            if n % 20 == 0 {
                store.flush().await.unwrap();
                assert!(size(&path, "") <= bytes_max, "{} after {n}", size(&path, ""));
                assert!(size(&path, "-wal") <= 2 * WAL_BYTES, "{} after {n}", size(&path, "-wal"));
            }
        }
        store.flush().await.unwrap();
        assert!(size(&path, "") > bytes_max / 2, "{} of {bytes_max}", size(&path, ""));
        let last = 1_499 % 700;
        assert!(load(&store, last).await.is_some());
        assert!(load(&store, last + 1).await.is_none(), "it was written the longest time ago");
    }
    // Less is allowed from now on.
    let store = SqliteSnapshots::open(&path, 2 * SqliteSnapshots::BYTES_MIN).unwrap();
    assert!(size(&path, "") <= 2 * SqliteSnapshots::BYTES_MIN, "{}", size(&path, ""));
    assert!(load(&store, 1_499 % 700).await.is_some());
}

#[tokio::test]
async fn many_small_snapshots_fill_what_is_allowed() {
    let (_dir, path) = place();
    let store = SqliteSnapshots::open(&path, SqliteSnapshots::BYTES_MIN).unwrap();
    for n in 0..4_000 {
        store.save(key(n), snapshot(n, 40)).await.unwrap();
        if n % 32 == 0 {
            store.flush().await.unwrap();
        }
    }
    store.flush().await.unwrap();
    assert!(size(&path, "") <= SqliteSnapshots::BYTES_MIN, "{}", size(&path, ""));
    let mut kept = 0;
    for n in 0..4_000 {
        kept += u64::from(load(&store, n).await.is_some());
    }
    assert!(kept > 500, "{kept} are kept");
}

#[tokio::test]
async fn a_snapshot_that_can_never_fit_drives_nobody_out() {
    let (_dir, path) = place();
    let store = SqliteSnapshots::open(&path, SqliteSnapshots::BYTES_MIN).unwrap();
    save(&store, 1, 100).await;
    save(&store, 2, 200_000).await;
    assert_eq!((load(&store, 1).await, load(&store, 2).await), (Some(100), None));
    let error = SqliteSnapshots::open(&path, SqliteSnapshots::BYTES_MIN - 1).unwrap_err();
    assert!(matches!(error, SnapshotFileError::TooSmall { .. }), "{error}");
}

#[tokio::test]
async fn of_snapshots_that_were_cleared_no_bytes_stay() {
    let (_dir, path) = place();
    let store = SqliteSnapshots::open(&path, SqliteSnapshots::BYTES_MIN).unwrap();
    for n in 0..50 {
        store.save(key(n), "a secret of somebody ".repeat(400).into()).await.unwrap();
    }
    store.flush().await.unwrap();
    let holds = || {
        let mut name = path.as_os_str().to_owned();
        name.push("-wal");
        [&path, Path::new(&name)].into_iter().any(|path| {
            let bytes = fs::read(path).unwrap();
            bytes.windows(8).any(|window| window == b"a secret")
        })
    };
    assert!(holds());
    // What was handed over before goes too.
    store.save(key(50), "a secret".into()).await.unwrap();
    store.clear().await.unwrap();
    assert!(!holds());
    assert_eq!(store.load(key(50)).await.unwrap(), None);
    save(&store, 1, 100).await;
    assert_eq!(load(&store, 1).await, Some(100));
}

#[tokio::test]
async fn saving_never_waits_for_who_has_the_file() {
    let (_dir, path) = place();
    let store = SqliteSnapshots::open(&path, MIB).unwrap();
    let holder = Connection::open(&path).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    for n in 0..300 {
        store.save(key(n), snapshot(n, 100)).await.unwrap();
        assert_eq!(load(&store, n).await, None);
    }
    holder.execute_batch("COMMIT").unwrap();
    store.flush().await.unwrap();
    let mut kept = 0;
    for n in 0..300 {
        kept += usize::from(load(&store, n).await.is_some());
    }
    assert!((1..=2 * WAITING_MAX).contains(&kept), "{kept} are kept");
}

#[tokio::test]
async fn a_file_of_something_else_is_no_place_for_snapshots() {
    let (dir, path) = place();
    let foreign = dir.path().join("foreign.sqlite");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
    let newer = dir.path().join("newer.sqlite");
    let connection = Connection::open(&newer).unwrap();
    connection.pragma_update(None, "application_id", APPLICATION_ID + 1).unwrap();
    let text = dir.path().join("text");
    fs::write(&text, "not a database, and longer than the header of one ".repeat(30)).unwrap();
    for path in [foreign, newer, text] {
        let before = fs::read(&path).unwrap();
        let error = SqliteSnapshots::open(&path, MIB).unwrap_err();
        assert!(matches!(error, SnapshotFileError::Foreign { .. }), "{}: {error}", path.display());
        assert!(fs::read(&path).unwrap() == before, "{} was changed", path.display());
    }
    let error = SqliteSnapshots::open(path.join("no").join("where"), MIB).unwrap_err();
    assert!(matches!(error, SnapshotFileError::Open { .. }), "{error}");
}

#[test]
fn who_opens_a_new_file_of_snapshots_at_once_opens_one() {
    for _ in 0..10 {
        let (_dir, path) = place();
        let open = || drop(SqliteSnapshots::open(&path, MIB).unwrap());
        thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(open))));
    }
}

#[tokio::test]
async fn a_file_that_is_deleted_costs_its_snapshots_and_nothing_else() {
    let (_dir, path) = place();
    let store = SqliteSnapshots::open(&path, MIB).unwrap();
    save(&store, 1, 100).await;
    remove(&path).unwrap();
    // It may go on with what is deleted, or notice.
    let _ = store.load(key(1)).await;
    save(&store, 2, 100).await;
    let _ = store.load(key(1)).await;
    let again = SqliteSnapshots::open(&path, MIB).unwrap();
    assert_eq!(load(&again, 1).await, None);
    save(&again, 3, 100).await;
    save(&store, 4, 100).await;
    assert_eq!(load(&again, 3).await, Some(100));
    let _ = store.load(key(4)).await;
    store.flush().await.unwrap();
    save(&store, 4, 100).await;
    assert_eq!(load(&store, 4).await, Some(100));
}

#[tokio::test]
async fn a_file_that_no_longer_takes_snapshots_is_replaced_once() {
    let (_dir, path) = place();
    let store = SqliteSnapshots::open(&path, MIB).unwrap();
    save(&store, 1, 100).await;
    let refuse = "CREATE TRIGGER t BEFORE INSERT ON snapshots BEGIN SELECT RAISE(ABORT, 'no'); END";
    Connection::open(&path).unwrap().execute_batch(refuse).unwrap();
    save(&store, 2, 100).await;
    save(&store, 3, 100).await;
    assert_eq!((load(&store, 2).await, load(&store, 3).await), (None, Some(100)));
    // Somebody met the file as it was before, and says so late.
    store.work.send(Work::Renew(0)).await.unwrap();
    store.flush().await.unwrap();
    assert_eq!(load(&store, 3).await, Some(100));
}

#[tokio::test]
async fn what_was_handed_over_is_written_when_the_last_one_goes() {
    let (_dir, path) = place();
    let store = SqliteSnapshots::open(&path, MIB).unwrap();
    store.save(key(1), snapshot(1, 100)).await.unwrap();
    let writing = Arc::downgrade(&store.file);
    drop(store);
    while writing.strong_count() > 0 {
        thread::yield_now();
    }
    assert_eq!(load(&SqliteSnapshots::open(&path, MIB).unwrap(), 1).await, Some(100));
}

#[derive(Debug, Serialize, Deserialize)]
struct Added(u32);

impl Event for Added {
    type Codec = Json;
    const KINDS: &'static [EventKind] = &[EventKind::new("added", 1)];

    fn kind(&self) -> EventKind {
        Self::KINDS[0]
    }
}

/// Keeps all that was added.
struct Adding;

impl Decider for Adding {
    type Command = u32;
    type Event = Added;
    type State = Vec<u32>;
    type Error = std::convert::Infallible;

    fn decide(&self, state: &Vec<u32>, value: u32) -> Result<Vec<Added>, Self::Error> {
        Ok(vec![Added(value + state.last().copied().unwrap_or(0))])
    }

    fn evolve(&self, mut state: Vec<u32>, event: &Added) -> Vec<u32> {
        state.push(event.0);
        state
    }
}

impl Snapshotted for Adding {
    type Codec = Bincode;
    const NAME: &'static str = "adding";
    const VERSION: u32 = 1;
}

/// In how many ways a file is damaged.
const DAMAGES: usize = 240;

/// A log with commands that were executed with snapshots in a file, and what they lead to.
struct Story {
    log: MemoryLog,
    states: Vec<Vec<u32>>,
}

impl Story {
    const STREAMS: u32 = 3;

    fn new() -> Self {
        Self { log: MemoryLog::new(), states: vec![Vec::new(); Self::STREAMS as usize] }
    }

    /// Goes on, and says of how many loads a snapshot was the beginning.
    async fn go_on(&mut self, store: &SqliteSnapshots) -> usize {
        let policy = SnapshotPolicy { every_events: 2, ..SnapshotPolicy::default() };
        let snapshots = Snapshots::with_policy(Arc::new(store.clone()), policy);
        let mut found = 0;
        for round in 0..3 {
            for (n, state) in (0..Self::STREAMS).zip(&mut self.states) {
                let stream = StreamId::new(format!("adding-{n}")).unwrap();
                let options = ExecuteOptions::default();
                let run = snapshots.execute(&self.log, &Adding, &stream, round + n, &options);
                state.push(round + n + state.last().copied().unwrap_or(0));
                assert_eq!(&run.await.unwrap().state, state);
                let (loaded, origin) = snapshots.load(&self.log, &Adding, &stream).await.unwrap();
                assert_eq!(&loaded.state, state);
                found += usize::from(origin.is_snapshot());
            }
            store.flush().await.unwrap();
        }
        found
    }
}

#[tokio::test]
async fn a_file_of_snapshots_that_was_damaged_anywhere_costs_them_and_no_result() {
    let (dir, path) = place();
    let mut all = Story::new();
    {
        let store = SqliteSnapshots::open(&path, MIB).unwrap();
        all.go_on(&store).await;
        shrink(&Connection::open(&path).unwrap()).unwrap();
    }
    let whole = fs::read(&path).unwrap();
    let damaged = dir.path().join("damaged.sqlite");
    let mut refused = 0;
    for n in 0..DAMAGES {
        let mut bytes = whole.clone();
        match n % 4 {
            0 => bytes.truncate(n * bytes.len() / DAMAGES),
            1 => bytes[n * whole.len() / DAMAGES..].iter_mut().for_each(|byte| *byte = 0xa5),
            2 => bytes[(n * 7_919) % whole.len()..].iter_mut().take(64).for_each(|b| *b ^= 0xff),
            _ => {
                let at = n * 104_729 % (whole.len() * 8);
                bytes[at / 8] ^= 1 << (at % 8);
            }
        }
        remove(&damaged).unwrap();
        fs::write(&damaged, &bytes).unwrap();
        let store = match SqliteSnapshots::open(&damaged, MIB) {
            Ok(store) => store,
            // It no longer says that it is ours, or of which format.
            Err(error) => {
                assert!(!matches!(error, SnapshotFileError::Io { .. }), "{n}: {error}");
                assert!(fs::read(&damaged).unwrap() == bytes, "{n}: {error}, and it was changed");
                refused += 1;
                continue;
            }
        };
        let mut again = Story { log: all.log.clone(), states: all.states.clone() };
        again.go_on(&store).await;
        all.states = again.states;
        let found = all.go_on(&store).await;
        assert!(found > 0, "{n}: there are no snapshots any more");
    }
    assert!(refused < DAMAGES / 20, "{refused} no longer say what they are");
}

#[tokio::test]
async fn a_file_of_snapshots_as_it_was_in_the_middle_of_writing_is_one_to_go_on_with() {
    let (dir, path) = place();
    let store = SqliteSnapshots::open(&path, MIB).unwrap();
    for n in 0..40 {
        // Whatever of it is in the files already.
        for k in 0..WAITING_MAX as u64 {
            store.save(key(k), snapshot(k, 30_000 - 100 * n)).await.unwrap();
        }
        let copy = dir.path().join(format!("copy-{n}.sqlite"));
        for end in ["", "-wal"] {
            let (mut from, mut to) = (path.as_os_str().to_owned(), copy.as_os_str().to_owned());
            from.push(end);
            to.push(end);
            fs::copy(from, to).unwrap();
        }
        let opened = SqliteSnapshots::open(&copy, MIB).unwrap();
        let mut found = 0;
        for k in 0..WAITING_MAX as u64 {
            if let Ok(Some(bytes)) = opened.load(key(k)).await {
                found += usize::from(bytes.starts_with(&k.to_le_bytes()));
            }
        }
        opened.flush().await.unwrap();
        save(&opened, 1_000, 100).await;
        assert_eq!(load(&opened, 1_000).await, Some(100), "{found} were found");
        assert!(size(&copy, "") <= MIB);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_share_a_file_of_snapshots_find_what_somebody_kept() {
    let (_dir, path) = place();
    let done = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for writer in 0..3_u64 {
        let (path, done) = (path.clone(), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            // Each has connections of its own, as a process has.
            let store = SqliteSnapshots::open(&path, MIB).unwrap();
            let mut found = 0;
            for n in 0..600 {
                let k = (n * 31 + writer) % 50;
                store.save(key(k), snapshot(k, 2_000)).await.unwrap();
                found += usize::from(load(&store, (k * 7) % 50).await.is_some());
                if n % 16 == 0 {
                    store.flush().await.unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
            found
        }));
    }
    for task in tasks {
        assert!(task.await.unwrap() > 0);
    }
    assert!(done.load(Ordering::Relaxed) && size(&path, "") <= MIB);
}
