//! Builds in SQLite, through the whole of an upgrade.

use rusqlite::Connection;

use super::*;
use crate::sink::{SqliteSink, SqliteTx};

/// Notes the positions of events in a table.
struct Rows(u32);

impl Projection for Rows {
    type Sink = SqliteSink;

    fn name(&self) -> &'static str {
        "rows"
    }

    fn version(&self) -> u32 {
        self.0
    }

    fn selection(&self) -> Query {
        Query::all()
    }

    fn init(&mut self, tx: &mut SqliteTx<'_>) -> Result<(), ApplyError> {
        Ok(tx.execute_batch("CREATE TABLE rows (version INTEGER, position INTEGER)")?)
    }

    fn reset(&mut self, tx: &mut SqliteTx<'_>) -> Result<(), ApplyError> {
        Ok(tx.execute_batch("DROP TABLE IF EXISTS rows")?)
    }

    fn apply(&mut self, tx: &mut SqliteTx<'_>, event: &RecordedEvent) -> Result<(), ApplyError> {
        let row = [u64::from(self.0), event.position.get()];
        tx.execute("INSERT INTO rows VALUES (?1, ?2)", row)?;
        Ok(())
    }
}

fn rows(connection: &Connection) -> (u32, u64) {
    let query = "SELECT max(version), count(*) FROM rows";
    connection.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

#[tokio::test(start_paused = true)]
async fn whoever_opens_the_link_reads_the_live_build() {
    let dir = tempfile::tempdir().unwrap();
    let builds = Arc::new(SqliteBuilds::open(dir.path(), "rows").unwrap());
    assert!(builds.reader().unwrap().is_none());
    let log = Arc::new(MemoryLog::new());
    append(&*log, &["a-1"; 10]).await;
    let start = async |version| {
        let (log, builds) = (log.clone(), builds.clone());
        RunningBuild::start(log, Rows(version), builds, RunnerOptions::default()).await.unwrap()
    };
    let old = start(1).await;
    old.promote(SECOND).await.unwrap();
    let by_link = Connection::open(builds.path()).unwrap();
    assert_eq!(rows(&by_link), (1, 10));
    assert_eq!(builds.checkpoint(old.build()).unwrap().unwrap().position, Position::new(10));

    let new = start(2).await;
    assert_eq!(rows(&builds.reader().unwrap().unwrap()), (1, 10));
    new.take_over(old.handle(), SECOND).await.unwrap();
    append(&*log, &["a-1"]).await;
    new.handle().wait_for(Position::new(11), SECOND).await.unwrap();
    assert_eq!(rows(&builds.reader().unwrap().unwrap()), (2, 11));
    assert_eq!(rows(&Connection::open(builds.path()).unwrap()), (2, 11));
    // Who has a connection stays with what it opened.
    assert_eq!(rows(&by_link), (1, 10));

    // Back again, which catches up first.
    old.handle().resume().await.unwrap();
    assert_eq!(old.promote(SECOND).await.unwrap(), Some(id("2.1")));
    assert_eq!(rows(&builds.reader().unwrap().unwrap()), (1, 11));
    new.into_handle().shutdown().await.unwrap();
    builds.remove(id("2.1")).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    files.retain(|file| {
        let name = file.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with("rows-2.1")
    });
    assert!(files.is_empty(), "{files:?}");
    assert_eq!(builds.checkpoint(id("2.1")).unwrap(), None);
}
