//! Which member should own which slot: even, and with as few moves as possible.
//!
//! Pure. The result is a wish; [`Coordinator`](super::coordinator::Coordinator) moves a slot once
//! nothing of it is in flight.

use std::collections::BTreeMap;

/// A member of a group, for as long as the group is open; never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MemberId(pub(super) u64);

/// Changes `targets` so that every slot belongs to one of `members`, no two of which differ by
/// more than one slot. A slot moves only if its member is gone or has too many.
///
/// # Complexity
///
/// Linear in the number of slots, times the logarithm of the number of members.
pub(super) fn rebalance(targets: &mut [Option<MemberId>], members: &[MemberId]) {
    let mut counts: BTreeMap<MemberId, usize> = members.iter().map(|&member| (member, 0)).collect();
    for target in targets.iter_mut() {
        match target.and_then(|member| counts.get_mut(&member)) {
            Some(count) => *count += 1,
            None => *target = None,
        }
    }
    let mut quotas = quotas(&counts, targets.len());
    // From the end, so that what stays are runs of neighbours, which are cheap to commit.
    for target in targets.iter_mut().rev() {
        let Some(member) = *target else { continue };
        match (counts.get_mut(&member), quotas.get(&member)) {
            (Some(count), Some(&quota)) if *count > quota => {
                *count -= 1;
                *target = None;
            }
            _ => {}
        }
    }
    for (member, quota) in &mut quotas {
        *quota -= counts.get(member).copied().unwrap_or(0);
    }
    let mut takers =
        quotas.into_iter().flat_map(|(member, open)| std::iter::repeat_n(member, open));
    for target in targets.iter_mut().filter(|target| target.is_none()) {
        *target = takers.next();
    }
}

/// Returns how many slots each member should have. Where the division leaves a remainder, those
/// who have most already get one more, so that nothing moves for its sake.
fn quotas(counts: &BTreeMap<MemberId, usize>, slots: usize) -> BTreeMap<MemberId, usize> {
    let mut order: Vec<(MemberId, usize)> = counts.iter().map(|(&m, &c)| (m, c)).collect();
    order.sort_by_key(|&(member, count)| (std::cmp::Reverse(count), member));
    let members = order.len().max(1);
    let (base, extra) = (slots / members, slots % members);
    order
        .into_iter()
        .enumerate()
        .map(|(rank, (member, _))| (member, base + usize::from(rank < extra)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(targets: &[Option<MemberId>]) -> Vec<usize> {
        let mut counts = BTreeMap::new();
        for member in targets.iter().flatten() {
            *counts.entry(*member).or_insert(0) += 1;
        }
        counts.into_values().collect()
    }

    #[test]
    fn slots_are_shared_evenly() {
        let mut targets = vec![None; 1024];
        let members: Vec<MemberId> = (0..3).map(MemberId).collect();
        rebalance(&mut targets, &members);
        assert_eq!(counts(&targets), [342, 341, 341]);
    }

    #[test]
    fn a_joining_member_takes_only_its_share() {
        let mut targets = vec![None; 1024];
        rebalance(&mut targets, &[MemberId(0), MemberId(1)]);
        let before = targets.clone();
        rebalance(&mut targets, &[MemberId(0), MemberId(1), MemberId(2)]);
        let moved = before.iter().zip(&targets).filter(|(a, b)| a != b).count();
        assert_eq!(moved, 341);
        assert!(before.iter().zip(&targets).all(|(a, b)| a == b || *b == Some(MemberId(2))));
    }

    #[test]
    fn a_leaving_member_leaves_the_others_where_they_are() {
        let mut targets = vec![None; 1024];
        rebalance(&mut targets, &[MemberId(0), MemberId(1), MemberId(2)]);
        let before = targets.clone();
        rebalance(&mut targets, &[MemberId(0), MemberId(2)]);
        for (old, new) in before.iter().zip(&targets) {
            assert!(old == new || *old == Some(MemberId(1)));
        }
        assert_eq!(counts(&targets), [512, 512]);
    }

    #[test]
    fn more_members_than_slots_leave_some_without() {
        let mut targets = vec![None; 4];
        let members: Vec<MemberId> = (0..6).map(MemberId).collect();
        rebalance(&mut targets, &members);
        assert_eq!(counts(&targets), [1; 4]);
        rebalance(&mut targets, &[]);
        assert_eq!(targets, [None; 4]);
    }
}
