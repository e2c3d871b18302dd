//! Databases that somebody has changed beside their projection.

use super::*;
use crate::sink::{SqliteSink, SqliteTx};

struct Rows;

impl Projection for Rows {
    type Sink = SqliteSink;

    fn name(&self) -> &'static str {
        "rows"
    }

    fn version(&self) -> u32 {
        1
    }

    fn selection(&self) -> Query {
        Query::all()
    }

    fn init(&mut self, tx: &mut SqliteTx<'_>) -> Result<(), ApplyError> {
        Ok(tx.execute_batch(
            r#"CREATE TABLE "or'ders""s" (stream TEXT, position INTEGER, half REAL, raw BLOB);
               CREATE TABLE totals (stream TEXT PRIMARY KEY, events INTEGER NOT NULL) WITHOUT ROWID"#,
        )?)
    }

    fn reset(&mut self, _: &mut SqliteTx<'_>) -> Result<(), ApplyError> {
        Ok(())
    }

    fn apply(&mut self, tx: &mut SqliteTx<'_>, event: &RecordedEvent) -> Result<(), ApplyError> {
        let stream = event.stream.as_str();
        tx.execute(
            r#"INSERT INTO "or'ders""s" VALUES (?1, ?2, 0.5, x'0102')"#,
            (stream, event.position.get()),
        )?;
        tx.execute(
            "INSERT INTO totals VALUES (?1, 1) ON CONFLICT DO UPDATE SET events = events + 1",
            [stream],
        )?;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_were_changed_lost_or_added_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let (path, scratch) = (dir.path().join("rows.sqlite"), dir.path().join("scratch"));
    std::fs::create_dir(&scratch).unwrap();
    let log = Arc::new(MemoryLog::new());
    let last = append(&*log, &["a-1", "b-1", "a-1", "a-1"]).await;
    let sink = SqliteSink::open(&path).unwrap();
    let options = RunnerOptions::default();
    let running = ProjectionRunner::start(log.clone(), Rows, sink, options).await.unwrap();
    running.wait_for(last, SECOND).await.unwrap();
    let check = async |options| {
        let audit = SqliteAudit::new(&path, &scratch);
        check_drift(log.clone(), Rows, audit, options, |_| {}).await.unwrap()
    };
    let report = check(DriftOptions::default()).await;
    assert!(report.is_clean() && report.applied == 4, "{report}");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);

    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute_batch(
            r#"UPDATE totals SET events = 5 WHERE stream = 'b-1';
               DELETE FROM "or'ders""s" WHERE position = 3;
               INSERT INTO "or'ders""s" SELECT * FROM "or'ders""s" WHERE position = 1;
               CREATE TABLE extra (x)"#,
        )
        .unwrap();
    let report = check(DriftOptions::default()).await;
    let rows = |table: &str, found: Option<&str>, expected: Option<&str>| {
        difference(&format!("a row of {table}"), found, expected)
    };
    let (first, third) = (
        r#"stream = "a-1", position = 1, half = 0.5, raw = 2 bytes"#,
        r#"stream = "a-1", position = 3, half = 0.5, raw = 2 bytes"#,
    );
    assert_eq!(
        report.differences,
        [
            rows("or'ders\"s", None, Some(first)),
            rows("or'ders\"s", None, Some(third)),
            rows("or'ders\"s", Some(&format!("{first} (2 times)")), None),
            rows("totals", None, Some(r#"stream = "b-1", events = 1"#)),
            rows("totals", Some(r#"stream = "b-1", events = 5"#), None),
            difference("table extra", Some("a table"), None),
        ]
    );
    let options = DriftOptions { sample: Some(SlotRange::all()), ..DriftOptions::default() };
    assert_eq!(check(options).await.count, 3);
    let options = DriftOptions { differences_max: 1, ..DriftOptions::default() };
    let report = check(options).await;
    assert_eq!((report.differences.len(), report.count), (1, 6));
    other.execute_batch("DROP TABLE totals").unwrap();
    let report = check(DriftOptions::default()).await;
    assert!(report.differences.contains(&difference("table totals", None, Some("a table"))));
}
