#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the numbers of these tests are small"
)]

use super::*;
use crate::format::BLOCK_BYTES;
use crate::format::frame::{FrameFields, seal};
use headwater_core::Timestamp;

const SALT: u64 = 0x5EED;
const FILE_BYTES: usize = 16 * BLOCK_BYTES;

/// A segment with frames of these body sizes, and where each frame begins and ends. Each frame
/// says that everything before it was durable, as in `Durability::Sync`, unless `lag` frames were
/// not.
fn segment(bodies: &[usize], lag: usize) -> (Vec<u8>, Vec<(usize, usize)>) {
    let mut file = vec![0; FILE_BYTES];
    let mut places: Vec<(usize, usize)> = Vec::new();
    let (mut offset, mut word) = (BLOCK_BYTES, 0);
    for (n, &body) in bodies.iter().enumerate() {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend((0..body).map(|at| (at * 7 + n) as u8 | 1));
        let fields = FrameFields {
            offset: offset as u64,
            first: Position::new(n as u64 + 1),
            commit_seq: n as u64 + 1,
            commit_time: Timestamp::from_nanos(n as i64),
            durable: Position::new(n.saturating_sub(lag) as u64),
            records: 1,
            epoch: 1,
            previous_word: word,
        };
        let header = seal(&mut frame, &fields, &Seed::new(SALT));
        file[offset..offset + frame.len()].copy_from_slice(&frame);
        places.push((offset, offset + frame.len()));
        offset += frame.len();
        word = header.word();
    }
    (file, places)
}

fn walk_with(file: &[u8], durable: u64) -> Result<(Walked, Tail, usize), Damage> {
    let before = Walked { durable: Position::new(durable), ..Walked::START };
    let mut frames = 0;
    let (walked, tail) = walk(file, &Seed::new(SALT), before, Rest::Look, |_, _, _| {
        frames += 1;
        Ok(())
    });
    tail.map(|tail| (walked, tail, frames))
}

const BODIES: [usize; 5] = [100, 700, 8, 1300, 600];

#[test]
fn a_whole_segment_ends_clean() {
    let (file, places) = segment(&BODIES, 0);
    let (walked, tail, frames) = walk_with(&file, 0).unwrap();
    assert_eq!((frames, tail), (5, Tail::Clean));
    // Nothing came after the last frame, so nobody called it durable.
    assert_eq!(walked.unproven, places[4].0 as u64);
    assert_eq!(walk_with(&file, 5).unwrap().0.unproven, walked.end);
    assert_eq!(walked.end, places[4].1 as u64);
    assert_eq!(walked.next, Position::new(6));
    assert_eq!(walk_with(&vec![0; FILE_BYTES], 0).unwrap().2, 0);
}

#[test]
fn a_flipped_bit_never_passes_and_never_cuts_what_was_acknowledged() {
    let (file, places) = segment(&BODIES, 0);
    let end = places[4].1;
    for bit in BLOCK_BYTES * 8..(end + 64) * 8 {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match walk_with(&flipped, 0) {
            // Behind the end it can only look like the beginning of a torn frame.
            Ok((walked, _, frames)) => {
                assert!(
                    frames == 5 && bit / 8 >= end,
                    "bit {bit} gave {frames} frames, {walked:?}"
                );
            }
            Err(Damage::Acknowledged { position, .. }) => {
                assert!(bit / 8 < places[4].0, "bit {bit} blamed position {position}");
            }
            Err(Damage::Unexplained { .. }) => assert!(bit / 8 >= places[4].0, "bit {bit}"),
            Err(damage) => panic!("bit {bit} gave {damage}"),
        }
    }
}

#[test]
fn zeros_from_any_byte_on_lose_at_most_the_last_frame() {
    let (file, places) = segment(&BODIES, 0);
    for from in BLOCK_BYTES..places[4].1 {
        let mut cut = file.clone();
        cut[from..].fill(0);
        // Zeros where zeros were change nothing.
        let same = |&&(begin, end): &&(usize, usize)| cut[begin..end] == file[begin..end];
        let complete = places.iter().filter(same).count();
        match walk_with(&cut, 0) {
            Ok((walked, tail, frames)) => {
                assert_eq!(frames, complete, "from {from}");
                let rest_is_zero = is_zero(&cut[walked.end as usize..]);
                assert_eq!(tail == Tail::Clean, rest_is_zero, "from {from}");
            }
            // The cut does not leave a whole sector empty, as a crash would.
            Err(Damage::Unexplained { position, .. }) => {
                assert_eq!(position.get() as usize, complete + 1, "from {from}");
            }
            Err(damage) => panic!("from {from}: {damage}"),
        }
        // The catalog knows better, so nothing may be cut.
        assert!(walk_with(&cut, 5).is_err(), "from {from}");
    }
}

#[test]
fn a_last_frame_that_lost_any_of_its_sectors_is_cut() {
    let (file, places) = segment(&BODIES, 0);
    let (begin, end) = places[4];
    let sectors: Vec<(usize, usize)> = (begin / 512..end.div_ceil(512))
        .map(|s| ((s * 512).max(begin), ((s + 1) * 512).min(end)))
        .collect();
    for lost in 1..1_u32 << sectors.len() {
        let mut torn = file.clone();
        for (n, &(from, to)) in sectors.iter().enumerate() {
            if lost & (1 << n) != 0 {
                torn[from..to].fill(0);
            }
        }
        let (walked, tail, frames) = walk_with(&torn, 0).unwrap();
        assert_eq!(frames, 4, "lost {lost:b}");
        assert_eq!(walked.end, begin as u64);
        let all = lost + 1 == 1 << sectors.len();
        assert_eq!(tail == Tail::Clean, all, "lost {lost:b}");
        let damage = walk_with(&torn, 5).unwrap_err();
        assert!(!matches!(damage, Damage::Unexplained { .. }), "{damage}");
    }
}

#[test]
fn a_lost_sector_in_the_middle_is_damage_where_frames_were_synced_one_by_one() {
    let (file, places) = segment(&BODIES, 0);
    let (begin, end) = places[1];
    let mut lost = file.clone();
    lost[begin..end].fill(0);
    let damage = walk_with(&lost, 0).unwrap_err();
    let expected = (Position::new(2), begin as u64);
    assert!(matches!(damage, Damage::Acknowledged { .. }), "{damage}");
    assert_eq!(damage.place(), expected);
}

#[test]
fn unsynced_frames_may_go_in_any_order_and_are_cut_from_the_first_gap() {
    // Every frame says that nothing was durable yet, as in `Durability::Os`.
    let (file, places) = segment(&BODIES, 5);
    let mut lost = file.clone();
    lost[places[2].0..places[2].1].fill(0);
    let (_, tail, frames) = walk_with(&lost, 0).unwrap();
    let torn = Tail::Torn { from: places[2].0 as u64, to: places[4].1 as u64 };
    assert_eq!((frames, tail), (2, torn));
    assert!(matches!(walk_with(&lost, 3), Err(Damage::Acknowledged { .. })));
}

#[test]
fn a_frame_that_was_written_elsewhere_does_not_pass() {
    let (file, places) = segment(&BODIES, 0);
    let (other, _) = segment(&[100, 700, 8], 0);
    // Another chain, the same salt: the position fits and the chain does not.
    let (mut file_two, places_two) = segment(&[104, 700, 8], 0);
    let (begin, end) = places[2];
    file_two[places_two[2].0..places_two[2].1].copy_from_slice(&other[begin..end]);
    assert!(matches!(walk_with(&file_two, 0), Err(Damage::Acknowledged { .. })));
    // A frame again, behind the end.
    let mut repeated = file.clone();
    let end = places[4].1;
    let (begin, stop) = places[0];
    repeated.copy_within(begin..stop, end);
    assert!(matches!(walk_with(&repeated, 0), Err(Damage::Acknowledged { .. })));
}

#[test]
fn sectors_that_were_zero_as_written_explain_nothing_and_others_do() {
    let mut file = vec![0; FILE_BYTES];
    let mut frame = vec![0; HEADER_BYTES + 4000];
    frame[HEADER_BYTES + 2000] = 1;
    frame[HEADER_BYTES + 3000] = 1;
    let fields = FrameFields {
        offset: BLOCK_BYTES as u64,
        first: Position::FIRST,
        commit_seq: 1,
        commit_time: Timestamp::EPOCH,
        durable: Position::START,
        records: 1,
        epoch: 1,
        previous_word: 0,
    };
    let header = seal(&mut frame, &fields, &Seed::new(SALT));
    // The header, and the two bytes, keep three of eight sectors from being zeros.
    assert_eq!(header.zero_sectors, 5);
    file[BLOCK_BYTES..BLOCK_BYTES + frame.len()].copy_from_slice(&frame);
    assert_eq!(walk_with(&file, 0).unwrap().2, 1);
    // A flipped bit leaves as many sectors zeros as there were.
    let mut flipped = file.clone();
    flipped[BLOCK_BYTES + HEADER_BYTES + 2000] = 3;
    assert!(matches!(walk_with(&flipped, 0), Err(Damage::Unexplained { .. })));
    // A process that is killed while it writes leaves the first pages of a frame, or sectors.
    let mut torn = file.clone();
    torn[BLOCK_BYTES + HEADER_BYTES + 2900..].fill(0);
    let (walked, tail, frames) = walk_with(&torn, 0).unwrap();
    assert_eq!((walked.end, frames), (BLOCK_BYTES as u64, 0));
    assert!(matches!(tail, Tail::Torn { .. }));
}

#[test]
fn random_bytes_neither_pass_nor_panic() {
    let (file, places) = segment(&BODIES, 0);
    let mut state = 88_172_645_463_325_252_u64;
    for round in 0..2_000 {
        let mut noisy = file.clone();
        let from = BLOCK_BYTES + round % (FILE_BYTES - BLOCK_BYTES);
        for byte in &mut noisy[from..(from + 600).min(FILE_BYTES)] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        if let Ok((.., frames)) = walk_with(&noisy, 0) {
            assert!(places[frames.saturating_sub(1)].1 <= from, "round {round}");
        }
    }
}

#[test]
fn counts_at_the_end_of_their_range_do_not_overflow() {
    let (file, _) = segment(&BODIES, 0);
    let before = Walked { frames: u64::MAX, ..Walked::START };
    let damage = walk(&file, &Seed::new(SALT), before, Rest::Look, |_, _, _| Ok(())).1.unwrap_err();
    assert!(matches!(damage, Damage::Acknowledged { .. }), "{damage}");
}
