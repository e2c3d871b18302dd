//! Every bug that can be planted, and the test that turns red where it is.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::planted::{ALL, Bug};

const VARIABLE: &str = "HEADWATER_BUG";
/// A planted bug that keeps a test from ending counts as one that nobody caught.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each bug with the test of this package that must catch it.
const CATCHERS: &[(Bug, &str)] = &[
    (Bug::AckBeforeSync, "tests::flushes::a_durable_append_is_one_write_and_one_sync"),
    (
        Bug::GoOnAfterFailedSync,
        "tests::faults::after_a_failed_sync_nothing_is_acknowledged_until_the_store_is_reopened",
    ),
    (
        Bug::ShowAfterFailedSync,
        "tests::faults::after_a_failed_sync_nothing_is_acknowledged_until_the_store_is_reopened",
    ),
    (Bug::ForgetStaged, "tests::staged::an_expected_revision_sees_what_is_staged_before_it"),
    (
        Bug::CountRefused,
        "tests::incidents::a_disk_that_fills_up_anywhere_loses_nothing_and_goes_on_with_more_space",
    ),
    (Bug::ForgetAppendIds, "tests::crash::a_store_keeps_its_promises_wherever_the_power_goes"),
    (Bug::EndBatchesEarly, "tests::crash::a_store_keeps_its_promises_wherever_the_power_goes"),
    (
        Bug::PromiseTooMuch,
        "tests::pinned::a_frame_promises_nothing_of_what_was_not_synced_before_it",
    ),
    (
        Bug::RollWithoutSync,
        "tests::flushes::without_sync_a_segment_is_synced_once_when_the_next_one_begins",
    ),
    (
        Bug::NameBeforeHeader,
        "tests::flushes::a_segment_is_established_in_the_order_that_a_crash_cannot_break",
    ),
    (
        Bug::ForgetDirSync,
        "tests::flushes::a_segment_is_established_in_the_order_that_a_crash_cannot_break",
    ),
    (Bug::NameBeforeContent, "tests::crash::a_store_keeps_its_promises_wherever_the_power_goes"),
    (
        Bug::ForgetFileName,
        "tests::incidents::where_streams_ended_outlives_their_removal_and_the_power",
    ),
    (Bug::CatalogWithoutSync, "tests::crash::a_store_keeps_its_promises_wherever_the_power_goes"),
    (
        Bug::CatalogInPlace,
        "tests::incidents::a_catalog_that_lost_its_newest_block_is_the_one_before",
    ),
    (
        Bug::RemoveBeforeCatalog,
        "tests::incidents::where_streams_ended_outlives_their_removal_and_the_power",
    ),
    (
        Bug::LedgerWithoutSync,
        "tests::pinned::a_removal_that_was_reported_is_noted_and_stays_when_the_power_goes",
    ),
    (
        Bug::ForgetTails,
        "tests::incidents::where_streams_ended_outlives_their_removal_and_the_power",
    ),
    (
        Bug::IgnoreGroup,
        "tests::pinned::a_removal_that_was_reported_is_noted_and_stays_when_the_power_goes",
    ),
    (
        Bug::TrustBodies,
        "recovery::tests::a_flipped_bit_never_passes_and_never_cuts_what_was_acknowledged",
    ),
    (
        Bug::TrustHeaders,
        "recovery::tests::a_flipped_bit_never_passes_and_never_cuts_what_was_acknowledged",
    ),
    (Bug::TrustChain, "recovery::tests::a_frame_that_was_written_elsewhere_does_not_pass"),
    (
        Bug::CutAcknowledged,
        "recovery::tests::a_flipped_bit_never_passes_and_never_cuts_what_was_acknowledged",
    ),
    (
        Bug::IgnoreLaterFrames,
        "recovery::tests::a_flipped_bit_never_passes_and_never_cuts_what_was_acknowledged",
    ),
    (
        Bug::ExplainAnything,
        "recovery::tests::sectors_that_were_zero_as_written_explain_nothing_and_others_do",
    ),
    (Bug::KeepTornEnd, "tests::crash::a_store_keeps_its_promises_wherever_the_power_goes"),
    (
        Bug::BelieveCache,
        "tests::flushes::opening_looks_at_the_device_and_makes_durable_what_it_finds",
    ),
    (Bug::LeaveUnproven, "tests::incidents::what_recovery_showed_outlives_the_power"),
    (Bug::IgnoreMissing, "tests::incidents::a_log_that_lost_a_segment_is_refused"),
    (
        Bug::RemoveForeign,
        "tests::incidents::what_is_not_ours_stays_and_what_is_damaged_is_not_removed",
    ),
    (Bug::LeaveCleanMark, "tests::pinned::an_end_is_looked_at_unless_its_writer_closed_it"),
    (
        Bug::AlwaysClean,
        "tests::faults::after_a_failed_sync_nothing_is_acknowledged_until_the_store_is_reopened",
    ),
    (Bug::ShareEpoch, "tests::incidents::each_opening_has_a_newer_epoch"),
    (
        Bug::ShowUnsynced,
        "tests::pinned::who_asks_for_durable_events_sees_none_that_the_power_takes",
    ),
    (Bug::SkipBetweenPages, "tests::crash::a_store_keeps_its_promises_wherever_the_power_goes"),
    (Bug::RepeatBetweenPages, "tests::crash::a_store_keeps_its_promises_wherever_the_power_goes"),
    (
        Bug::MissSegmentEnd,
        "tests::incidents::where_streams_ended_outlives_their_removal_and_the_power",
    ),
    (
        Bug::TrustEmptySegment,
        "tests::faults::a_segment_without_events_hides_no_moment_and_nothing_younger_goes",
    ),
    (
        Bug::JumpToStart,
        "tests::pinned::a_removal_that_was_reported_is_noted_and_stays_when_the_power_goes",
    ),
    (Bug::UnboundIndex, "tests::incidents::an_index_of_another_future_is_not_believed"),
    (Bug::TrustIndex, "tests::incidents::a_changed_byte_of_an_index_changes_no_answer"),
    (
        Bug::IndexBeforeSync,
        "tests::incidents::an_index_file_that_outlived_its_events_is_not_believed",
    ),
    (Bug::ForgetFencing, "tests::crash::a_store_keeps_its_promises_wherever_the_power_goes"),
    (
        Bug::OffsetsWithoutSync,
        "tests::crash::progress::progress_survives_a_crash_at_each_step_of_going_over_to_another_segment",
    ),
    (
        Bug::ForgetGroup,
        "tests::crash::progress::progress_survives_a_crash_at_each_step_of_going_over_to_another_segment",
    ),
    (
        Bug::DiskSyncsAgain,
        "fs::sim::tests::a_failed_sync_is_forgotten_and_the_next_one_means_nothing",
    ),
    (Bug::DiskKeepsUnsynced, "fs::sim::tests::a_name_and_its_bytes_are_kept_apart"),
    (Bug::DiskNamesAreDurable, "fs::sim::tests::a_name_and_its_bytes_are_kept_apart"),
    (
        Bug::DiskDiesWithProcess,
        "fs::sim::tests::the_death_of_a_process_keeps_what_it_wrote_and_power_may_still_take_it",
    ),
    (Bug::DiskKeepsLocks, "fs::sim::tests::nothing_works_without_power_and_old_handles_stay_dead"),
    (
        Bug::DiskNeverFull,
        "fs::sim::tests::a_full_disk_takes_what_fits_and_has_room_again_when_a_file_goes",
    ),
    (Bug::DiskForgetsSeed, "fs::sim::tests::one_seed_gives_one_outcome"),
];

/// Runs a test, or all of them, with a bug planted. Returns the first test that turned red.
fn first_red(bug: Bug, test: &str) -> Option<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(VARIABLE, format!("{bug:?}")).stdout(Stdio::piped()).stderr(Stdio::null());
    if !test.is_empty() {
        command.args(["--exact", test]);
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let name = |line: String| {
            Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned())
        };
        // Whoever asked may have lost patience.
        let _ = send.send(lines.find_map(name));
    });
    let red = receive.recv_timeout(PATIENCE).unwrap_or_default();
    // It has failed, ended, or hangs.
    let _ = child.kill();
    let status = child.wait().unwrap();
    // Our own signal is 9.
    let died = status.signal().is_some_and(|signal| signal != 9);
    red.or_else(|| died.then(|| format!("the end of the process ({status})")))
}

/// Plants each bug in turn and demands that its test turns red. `HEADWATER_BUG_SEARCH=1` looks
/// through all tests instead.
#[test]
#[ignore = "runs this program once for each bug"]
fn every_planted_bug_turns_a_test_red() {
    let search = std::env::var_os("HEADWATER_BUG_SEARCH").is_some();
    let named: Vec<Bug> = CATCHERS.iter().map(|&(bug, _)| bug).collect();
    assert_eq!(named, ALL, "each bug has a test, in their order");
    let mut survived = Vec::new();
    println!("{:<22} {:<78} seconds", "bug", "caught by");
    for (bug, test) in CATCHERS {
        let began = Instant::now();
        let red = first_red(*bug, if search { "" } else { test });
        let seconds = began.elapsed().as_secs_f64();
        let by = red.as_deref().unwrap_or("NOBODY");
        println!("{:<22} {by:<78} {seconds:.1}", format!("{bug:?}"));
        if red.is_none() {
            survived.push(bug);
        }
    }
    println!("{} of {} bugs were caught", CATCHERS.len() - survived.len(), CATCHERS.len());
    assert!(survived.is_empty(), "nobody caught {survived:?}");
}
