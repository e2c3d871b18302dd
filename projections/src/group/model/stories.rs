//! What chance rarely tells: short sequences that a bug once needed, or could.

use super::*;

/// Plays a story that chance rarely tells, and lets everything settle.
fn play(story: &[Op]) -> World {
    play_in(Order::Key, story)
}

fn play_in(order: Order, story: &[Op]) -> World {
    let mut world = World::new(order, false);
    for op in story {
        world.run(op.clone());
    }
    world.settle();
    world
}

fn one(key: usize) -> Op {
    Op::Append(vec![(key, true)])
}

#[test]
fn slots_under_claim_deliver_nothing_even_if_the_taker_leaves_meanwhile() {
    play(&[
        Op::Join,
        Op::HandOver,
        one(4),
        Op::Read(9),
        Op::Join,
        Op::BeginHandOver,
        Op::Leave(1),
        Op::Next(0, 9),
        Op::FinishHandOver,
    ]);
}

#[test]
fn an_ack_during_a_commit_is_left_for_the_next_commit() {
    play(&[
        Op::Join,
        Op::HandOver,
        one(0),
        one(1),
        Op::Read(9),
        Op::Next(0, 9),
        Op::Ack(0),
        Op::BeginCommit(0),
        Op::Ack(0),
        Op::FinishCommit(true),
        Op::CommitAll,
    ]);
}

#[test]
fn a_commit_keeps_settled_ranges_that_were_not_read_again_yet() {
    play(&[
        Op::Join,
        Op::HandOver,
        one(0),
        one(1),
        one(2),
        Op::Read(9),
        Op::Next(0, 9),
        Op::Ack(2),
        Op::CommitAll,
        Op::Crash,
        Op::Join,
        Op::HandOver,
        Op::Read(1),
        Op::Next(0, 9),
        Op::Ack(0),
        Op::CommitAll,
    ]);
}

#[test]
fn what_is_settled_of_a_sequence_that_is_delivered_again_is_so_after_a_crash() {
    play(&[
        Op::Join,
        Op::HandOver,
        one(0),
        one(0),
        one(0),
        Op::Read(9),
        Op::Next(0, 9),
        Op::Park(0),
        Op::Redrive(0),
        Op::Read(9),
        Op::Next(0, 9),
        Op::Ack(0),
        Op::CommitAll,
        Op::Crash,
        Op::Join,
        Op::HandOver,
        Op::Read(9),
        Op::Next(0, 9),
    ]);
}

#[test]
fn in_global_order_nothing_moves_while_anything_is_out() {
    play_in(
        Order::Global,
        &[
            Op::Join,
            Op::HandOver,
            one(0),
            one(1),
            Op::Read(9),
            Op::Next(0, 9),
            Op::Join,
            Op::Leave(0),
            Op::HandOver,
            Op::Ack(0),
            Op::CommitAll,
        ],
    );
}

#[test]
fn a_sequence_that_is_re_driven_while_a_later_one_is_read_again_loses_nothing() {
    play(&[
        Op::Join,
        Op::HandOver,
        one(0),
        one(3),
        one(0),
        one(3),
        Op::Read(9),
        Op::Next(0, 9),
        Op::Park(0),
        Op::Park(0),
        Op::Redrive(1),
        Op::StartRead(9),
        Op::Redrive(0),
        Op::FinishRead,
        Op::Read(9),
        Op::Next(0, 9),
    ]);
}

#[test]
fn a_parked_key_takes_along_what_the_group_is_moved_past() {
    play(&[
        Op::Join,
        Op::HandOver,
        one(0),
        one(1),
        one(0),
        Op::Read(1),
        Op::Next(0, 9),
        Op::Park(0),
        Op::CommitAll,
        Op::Seek(3),
        one(0),
        Op::HandOver,
        Op::Read(9),
    ]);
}
