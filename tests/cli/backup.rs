//! `headwater backup` and `headwater restore`.

use std::fs;

use crate::support::{Live, Place, ack, events, run};

#[test]
fn a_backup_is_read_and_restored_and_a_full_destination_is_refused() {
    let place = Place::with(&events(1, 500));
    let elsewhere = Place::new();
    let into = elsewhere.path().join("backup");
    let to = elsewhere.path().join("restored");
    let (into, to) = (into.to_str().unwrap(), to.to_str().unwrap());
    let made = place.look("backup", &[into, "--json"]);
    assert_eq!(made.code, 0, "{made:?}");
    let made = &made.json()[0];
    assert_eq!((&made["start"], &made["head"]), (&0.into(), &500.into()));
    let all = place.events();
    let read = |dir: &str| run(&["read", dir, "--json"], "").json();
    assert_eq!(read(into), all);

    let restored = run(&["restore", into, to], "");
    assert_eq!(restored.code, 0, "{restored:?}");
    assert!(restored.out.starts_with("restored positions 1 through 500: "), "{restored:?}");
    assert_eq!(run(&["append", to], &events(501, 510)).acks().len(), 10);
    assert_eq!(read(to).len(), 510);
    assert_eq!(run(&["verify", to], "").code, 0);
    assert_eq!(read(into), all, "the backup is as it was");

    run(&["backup", place.text(), into], "").fails(2, &["is not empty", "choose a new"]);
    run(&["restore", into, to], "").fails(2, &["is not empty"]);
    fs::rename(format!("{into}/STORE"), format!("{into}/UNFINISHED")).unwrap();
    run(&["restore", into, "other"], "").fails(1, &["not finished", "remove the directory"]);
    run(&["backup", "/nowhere", "other"], "").fails(1, &["holds no store"]);
}

#[test]
fn a_store_is_backed_up_while_another_program_writes_to_it() {
    use std::io::Write;
    let place = Place::with(&events(1, 100));
    let mut writer = Live::start(&["append", place.text()]);
    let stdin = writer.child.stdin.as_mut().unwrap();
    stdin.write_all(events(101, 200).as_bytes()).unwrap();
    stdin.flush().unwrap();
    let acks: Vec<u64> = (0..100).map(|_| ack(&writer.line()).1).collect();
    let elsewhere = Place::new();
    let made = place.look("backup", &[elsewhere.text()]);
    assert_eq!(made.code, 0, "{made:?}");
    assert_eq!(elsewhere.events().len() as u64, acks[99]);
}
