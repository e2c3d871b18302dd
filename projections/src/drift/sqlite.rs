//! Databases of SQLite, compared table by table.

use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::{Audit, Differences, Extent};
use crate::checkpoint::Checkpoint;
use crate::sink::{SinkError, SqliteSink};

/// Compares the tables of a [`SqliteSink`] that holds one projection. The copy and the shadow are
/// files in a directory for that, which are removed at the end; they need room for two more
/// databases of that size.
///
/// Rows are compared as a whole, by the collations of their columns, and how often each is there; their order and the contents of
/// indexes are not. Tables whose names begin with `sqlite_` or `headwater_` are left aside.
#[derive(Debug)]
pub struct SqliteAudit {
    model: PathBuf,
    copy: PathBuf,
    shadow: PathBuf,
}

impl SqliteAudit {
    /// Takes the file of the read model that is to be checked, and a directory for the copies, with
    /// nothing else in it.
    pub fn new(model: impl Into<PathBuf>, scratch: impl AsRef<Path>) -> Self {
        let scratch = scratch.as_ref();
        Self {
            model: model.into(),
            copy: scratch.join("copy.sqlite"),
            shadow: scratch.join("shadow.sqlite"),
        }
    }

    fn clear(&self) {
        for file in [&self.copy, &self.shadow] {
            for ending in ["", "-wal", "-shm", "-journal"] {
                let mut path = file.clone().into_os_string();
                path.push(ending);
                // What is not there need not go; what cannot go is met when the file is made.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl Drop for SqliteAudit {
    fn drop(&mut self) {
        self.clear();
    }
}

fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> SinkError {
    move |error| SinkError::engine(action, error)
}

impl Audit for SqliteAudit {
    type Sink = SqliteSink;

    fn copy(&mut self, projection: &str) -> Result<Option<Checkpoint>, SinkError> {
        self.clear();
        let model = SqliteSink::reader_at(&self.model)?;
        // One transaction of a reader, so the projection goes on.
        let copied = model.execute("VACUUM INTO ?1", [self.copy.to_string_lossy()]);
        copied.map_err(failed("copying the database"))?;
        SqliteSink::stored_at(&self.copy, projection)
    }

    fn shadow(&mut self) -> Result<SqliteSink, SinkError> {
        SqliteSink::open(&self.shadow)
    }

    fn compare(
        &mut self,
        shadow: SqliteSink,
        extent: Extent,
        differences: &mut Differences,
    ) -> Result<(), SinkError> {
        drop(shadow);
        let mut compare = || {
            let connection = Connection::open(&self.copy)?;
            let attach = "ATTACH DATABASE ?1 AS shadow";
            connection.execute(attach, [self.shadow.to_string_lossy()])?;
            let (found, expected) = (tables(&connection, "main")?, tables(&connection, "shadow")?);
            let whole = extent == Extent::Whole;
            for table in &expected {
                let place = || format!("a row of {table}");
                if found.contains(table) {
                    only_in(&connection, ["shadow", "main"], table, |row| {
                        differences.note(place(), None, Some(row));
                    })?;
                    if whole {
                        only_in(&connection, ["main", "shadow"], table, |row| {
                            differences.note(place(), Some(row), None);
                        })?;
                    }
                } else {
                    differences.note(format!("table {table}"), None, Some("a table".to_owned()));
                }
            }
            for table in found.iter().filter(|table| whole && !expected.contains(table)) {
                differences.note(format!("table {table}"), Some("a table".to_owned()), None);
            }
            Ok(())
        };
        compare().map_err(failed("comparing the databases"))
    }
}

fn tables(connection: &Connection, schema: &str) -> rusqlite::Result<Vec<String>> {
    let names = format!(
        "SELECT name FROM {schema}.sqlite_schema WHERE type = 'table'
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'headwater\\_%' ESCAPE '\\'
         ORDER BY name"
    );
    connection.prepare(&names)?.query_map([], |row| row.get(0))?.collect()
}

/// Tells the rows that one database has and the other has not, or not as often.
fn only_in(
    connection: &Connection,
    [schema, other]: [&str; 2],
    table: &str,
    mut found: impl FnMut(String),
) -> rusqlite::Result<()> {
    let columns: Vec<String> = connection
        .prepare("SELECT name FROM pragma_table_info(?1, ?2)")?
        .query_map([table, schema], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let table = quoted(table);
    let names = columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let counted =
        |schema| format!("SELECT {names}, count(*) FROM {schema}.{table} GROUP BY {names}");
    let query = format!("{} EXCEPT {}", counted(schema), counted(other));
    let mut statement = connection.prepare(&query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        found(describe(row, &columns)?);
    }
    Ok(())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn describe(row: &Row<'_>, columns: &[String]) -> rusqlite::Result<String> {
    let mut values = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let value = match row.get_ref(index)? {
            ValueRef::Null => "null".to_owned(),
            ValueRef::Integer(number) => number.to_string(),
            ValueRef::Real(number) => number.to_string(),
            ValueRef::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
            ValueRef::Blob(bytes) => format!("{} bytes", bytes.len()),
        };
        values.push(format!("{column} = {value}"));
    }
    let text = values.join(", ");
    let times: i64 = row.get(columns.len())?;
    Ok(if times > 1 { format!("{text} ({times} times)") } else { text })
}
