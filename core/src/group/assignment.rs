//! Which member should own which slot: even, and with as few moves as possible.

use std::collections::{BTreeMap, BTreeSet};

/// Changes `targets` so that every slot belongs to one of `members`, each of which has as many as
/// its weight demands, rounded. A slot moves only if its member is gone or has too many.
///
/// The result is a wish: a slot changes its owner once nothing of it is in flight. While slots
/// move one by one, the same call on what is reached so far asks for the rest of the same moves.
/// A member of weight 0 gets nothing; with no other every slot is nobody's.
///
/// # Complexity
///
/// Linear in the number of slots, times the logarithm of the number of members.
pub fn rebalance<M: Copy + Ord>(targets: &mut [Option<M>], members: &[(M, usize)]) {
    let mut counts: BTreeMap<M, usize> = members.iter().map(|&(member, _)| (member, 0)).collect();
    for target in targets.iter_mut() {
        match target.and_then(|member| counts.get_mut(&member)) {
            Some(count) => *count += 1,
            None => *target = None,
        }
    }
    let mut quotas = quotas(&counts, members, targets.len());
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
/// who have more already get one more, so that nothing moves for its sake; it depends on nothing
/// else that changes while slots move.
fn quotas<M: Copy + Ord>(
    counts: &BTreeMap<M, usize>,
    members: &[(M, usize)],
    slots: usize,
) -> BTreeMap<M, usize> {
    let weights: usize = members.iter().map(|&(_, weight)| weight).sum();
    if weights == 0 {
        return counts.keys().map(|&member| (member, 0)).collect();
    }
    let base = |weight: usize| slots * weight / weights;
    let rest = slots - members.iter().map(|&(_, weight)| base(weight)).sum::<usize>();
    // Less than one for each of them is left.
    let mut order: Vec<&(M, usize)> = members.iter().filter(|(_, weight)| *weight > 0).collect();
    order.sort_by_key(|(member, weight)| (counts.get(member) <= Some(&base(*weight)), *member));
    let extra: BTreeSet<M> = order.into_iter().take(rest).map(|&(member, _)| member).collect();
    let quota = |&(member, weight): &(M, usize)| {
        (member, base(weight) + usize::from(extra.contains(&member)))
    };
    members.iter().map(quota).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(targets: &[Option<u64>]) -> Vec<usize> {
        let mut counts = BTreeMap::new();
        for member in targets.iter().flatten() {
            *counts.entry(*member).or_insert(0) += 1;
        }
        counts.into_values().collect()
    }

    /// Shares slots among members of one weight.
    fn share(targets: &mut [Option<u64>], members: impl IntoIterator<Item = u64>) {
        let members: Vec<(u64, usize)> = members.into_iter().map(|member| (member, 1)).collect();
        rebalance(targets, &members);
    }

    #[test]
    fn slots_are_shared_evenly() {
        let mut targets = vec![None; 1024];
        share(&mut targets, 0..3);
        assert_eq!(counts(&targets), [342, 341, 341]);
    }

    #[test]
    fn slots_are_shared_by_weight() {
        let mut targets = vec![None; 1024];
        rebalance(&mut targets, &[(0, 1), (1, 3), (2, 0)]);
        assert_eq!(counts(&targets), [256, 768]);
        rebalance(&mut targets, &[(0, 0), (1, 0)]);
        assert_eq!(targets, [None; 1024]);
    }

    #[test]
    fn a_joining_member_takes_only_its_share() {
        let mut targets = vec![None; 1024];
        share(&mut targets, 0..2);
        let before = targets.clone();
        share(&mut targets, 0..3);
        let moved = before.iter().zip(&targets).filter(|(a, b)| a != b).count();
        assert_eq!(moved, 341);
        assert!(before.iter().zip(&targets).all(|(a, b)| a == b || *b == Some(2)));
    }

    #[test]
    fn a_leaving_member_leaves_the_others_where_they_are() {
        let mut targets = vec![None; 1024];
        share(&mut targets, 0..3);
        let before = targets.clone();
        share(&mut targets, [0, 2]);
        for (old, new) in before.iter().zip(&targets) {
            assert!(old == new || *old == Some(1));
        }
        assert_eq!(counts(&targets), [512, 512]);
    }

    #[test]
    fn more_members_than_slots_leave_some_without() {
        let mut targets = vec![None; 4];
        share(&mut targets, 0..6);
        assert_eq!(counts(&targets), [1; 4]);
        share(&mut targets, []);
        assert_eq!(targets, [None; 4]);
    }

    proptest! {
        /// Owners see the moves that are done at other times than each other, and draw the rest
        /// up anew each time: it must not become more by that.
        #[test]
        fn moves_made_one_by_one_in_any_order_are_the_moves_asked_for(
            owners in prop::collection::vec(prop::option::of(0..6u64), 1..40),
            weights in prop::collection::vec(0..4usize, 1..6),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 80),
        ) {
            let members: Vec<(u64, usize)> = (0..).zip(weights).collect();
            let mut owners = owners;
            let mut wanted = owners.clone();
            rebalance(&mut wanted, &members);
            let given_up = (0..owners.len()).filter(|&at| owners[at].is_some() && owners[at] != wanted[at]);
            let taken = wanted.iter().zip(&owners).filter(|(to, from)| to.is_some() && to != from);
            let mut left = given_up.count() + taken.count();
            for pick in picks {
                let mut wanted = owners.clone();
                rebalance(&mut wanted, &members);
                let open: Vec<usize> = (0..owners.len()).filter(|&at| owners[at] != wanted[at]).collect();
                if open.is_empty() {
                    break;
                }
                let at = open[pick.index(open.len())];
                // First the old owner lets go, then the new one takes it.
                owners[at] = if owners[at].is_some() { None } else { wanted[at] };
                prop_assert!(left > 0, "more moves than were asked for");
                left -= 1;
            }
            prop_assert_eq!(left, 0);
        }
    }
}
