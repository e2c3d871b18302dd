//! Running the program and looking at what it did.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use headwater::{Options, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Options of a store that takes little space.
pub(crate) fn small() -> Options {
    Options { segment_bytes: 64 * 1024, ..Options::default() }
}

/// A directory for a store, which is not there yet.
pub(crate) struct Place {
    _dir: TempDir,
    path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        Self { _dir: dir, path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// Creates a store with these lines.
    pub(crate) fn with(lines: &str) -> Self {
        let place = Self::new();
        let run = place.create(lines);
        assert_eq!(run.code, 0, "{run:?}");
        place
    }

    /// Creates a store from lines, whatever comes of it.
    pub(crate) fn create(&self, lines: &str) -> Run {
        run(&["append", self.text(), "--create", "--segment-bytes", "64KiB"], lines)
    }

    /// Appends lines.
    pub(crate) fn append(&self, lines: &str) -> Run {
        run(&["append", self.text()], lines)
    }

    /// Opens the store in this process.
    pub(crate) fn open(&self) -> Store {
        Store::open(&self.path, small()).unwrap()
    }

    /// Runs a command that reads the store.
    pub(crate) fn look(&self, command: &str, more: &[&str]) -> Run {
        let mut args = vec![command, self.text()];
        args.extend(more);
        run(&args, "")
    }

    /// Returns every event as JSON.
    pub(crate) fn events(&self) -> Vec<Value> {
        let read = self.look("read", &["--json"]);
        assert_eq!(read.code, 0, "{read:?}");
        read.json()
    }

    /// Returns every file of the store with its bytes.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files(&self.path)
    }

    /// Returns every file but the one that locks, also where there is no directory.
    pub(crate) fn files_if_any(&self) -> Vec<PathBuf> {
        if !self.path.exists() {
            return Vec::new();
        }
        self.files().into_keys().filter(|path| !path.ends_with("LOCK")).collect()
    }

    /// Returns the one segment of the log of events.
    pub(crate) fn segment(&self) -> PathBuf {
        let stat = &self.look("stat", &["--json"]).json()[0];
        let name = stat["segments"][0]["file"].as_str().unwrap().to_owned();
        let mut found = self.files().into_keys().filter(|path| path.ends_with(&name));
        found.next().unwrap()
    }
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// A finished run of the program.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Returns the lines of the output as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        self.out.lines().map(parse).collect()
    }

    /// Returns id and position of each acknowledgement.
    pub(crate) fn acks(&self) -> Vec<(String, u64)> {
        self.out.lines().map(ack).collect()
    }

    /// Makes sure of the exit code, and that standard error holds these words and nothing that a
    /// program should not say.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.starts_with("error: "), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in {}", self.err);
        }
        assert_clean(&self.err);
    }
}

/// Makes sure that a text shows no panic and no debug output.
#[track_caller]
pub(crate) fn assert_clean(err: &str) {
    for word in ["panicked", "RUST_BACKTRACE", "Error {", "Some(", "Custom {", "Os {"] {
        assert!(!err.contains(word), "{word:?} is in {err}");
    }
}

/// Reads an acknowledgement.
pub(crate) fn ack(line: &str) -> (String, u64) {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["ACK", id, position] => (id.to_owned(), position.parse().unwrap()),
        _ => panic!("{line:?} is no acknowledgement"),
    }
}

/// Prepares a run of the program.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.args(args);
    command
}

/// Runs the program on some input.
pub(crate) fn run(args: &[&str], input: &str) -> Run {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        // A program that stops early closes its input.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output().unwrap()
    });
    Run {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the program with a standard output that nobody reads.
pub(crate) fn run_unread(args: &[&str], input: &str) -> (i32, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child =
        command(args).stdin(Stdio::piped()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

/// A run that goes on, line by line. It is killed when this goes.
pub(crate) struct Live {
    pub(crate) child: Child,
    lines: Receiver<String>,
}

impl Live {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            // A line without its end was cut off by a kill, and does not count.
            while reader.read_line(&mut line).is_ok_and(|read| read > 0) && line.ends_with('\n') {
                if sender.send(line.trim_end().to_owned()).is_err() {
                    break;
                }
                line.clear();
            }
            let _ = reader.read_to_end(&mut Vec::new());
        });
        Self { child, lines }
    }

    /// Waits for the next line. The limit only ends a test that has failed.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(60)).expect("the program prints another line")
    }

    /// Waits until the program ends without another line, and returns its exit code. The limit
    /// only ends a test that has failed.
    pub(crate) fn end(mut self) -> i32 {
        let nothing = self.lines.recv_timeout(Duration::from_secs(60));
        assert_eq!(nothing, Err(RecvTimeoutError::Disconnected), "the program ends");
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Kills the program as `kill -9` does, and returns the lines it had printed beyond.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.lines.recv_timeout(Duration::from_secs(60)).ok()).collect()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An event id that is the same in each run.
pub(crate) fn id(number: u64) -> String {
    format!("00000000-0000-7000-8000-{number:012x}")
}

/// A line of input with an id.
pub(crate) fn event(number: u64, stream: &str) -> String {
    let line = json!({"stream": stream, "type": "counted", "data": number, "id": id(number)});
    format!("{line}\n")
}

/// Lines of input for events `from` through `through`, over five streams.
pub(crate) fn events(from: u64, through: u64) -> String {
    (from..=through).map(|number| event(number, &format!("s-{}", number % 5))).collect()
}
