//! The documents name tests, and the tests exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every source file of the workspace.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> =
        ["core", "macros", "store", "projections", "testkit", "src", "tests", "examples"]
            .map(|dir| root().join(dir))
            .into();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Rows of tables with a number, such as `L7`, and their last column.
fn rows(document: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("docs").join(document)).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let number = cells.first()?;
        let is_number = number.starts_with(char::is_uppercase)
            && number.len() > 1
            && number[1..].chars().all(|c| c.is_ascii_digit());
        is_number.then(|| ((*number).to_owned(), (*cells.last().unwrap()).to_owned()))
    });
    rows.collect()
}

#[test]
fn every_promise_and_every_incident_names_tests_that_exist() {
    let sources = sources();
    let texts: Vec<String> = sources.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let is_function = |name: &str| {
        let declared = format!("fn {name}(");
        texts.iter().any(|text| text.contains(&declared))
    };
    let is_path = |name: &str| {
        let in_package = |dir: &str| root().join(dir).join(name).exists();
        sources.iter().any(|path| path.ends_with(name)) || ["", "store"].into_iter().any(in_package)
    };
    for (document, least) in [("guarantees.md", 40), ("incidents.md", 34)] {
        let rows = rows(document);
        assert!(rows.len() >= least, "{document} has {} rows", rows.len());
        let numbers: BTreeSet<&String> = rows.iter().map(|(number, _)| number).collect();
        assert_eq!(numbers.len(), rows.len(), "a number in {document} stands twice");
        for (number, tests) in &rows {
            let mut named = 0;
            for name in quoted(tests) {
                let snake =
                    name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                if name.contains('/') || name.contains(".rs") {
                    assert!(is_path(name), "{document} {number}: there is no {name}");
                    named += 1;
                } else if snake && name.matches('_').count() > 1 {
                    assert!(is_function(name), "{document} {number}: there is no test {name}");
                    named += 1;
                }
            }
            let excused = ["not a test here", "the same", "the example", "`it`"];
            let excused = excused.iter().any(|excuse| tests.contains(excuse));
            assert!(named > 0 || excused, "{document} {number} names no test");
        }
    }
}

#[test]
fn what_stands_for_a_feature_of_others_names_tests_that_exist() {
    let texts: Vec<String> =
        sources().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let text = fs::read_to_string(root().join("docs/queues.md")).unwrap();
    let mut named = 0;
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let shown = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for name in quoted(shown).filter(|name| name.matches('_').count() > 1) {
            let declared = format!("fn {name}(");
            assert!(texts.iter().any(|text| text.contains(&declared)), "there is no test {name}");
            named += 1;
        }
    }
    assert!(named > 30, "{named} tests are named");
}
