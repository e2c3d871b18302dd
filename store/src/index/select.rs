//! Finding candidates: which events of a segment a query may match, a chunk at a time.

use super::{IndexFault, Lists, Term, Terms};

/// Which way a search goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    Up,
    Down,
}

/// Some candidates, in the order of the walk, and how far they reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) candidates: Vec<u32>,
    /// Everything up to here (down to here, going backward) was considered.
    pub(crate) reached: u32,
}

/// Returns candidates from `first` through `last`, which is not before it: about `count` of them,
/// the lowest ones going up, the highest ones going down.
pub(crate) fn chunk(
    lists: &impl Lists,
    query: &Terms,
    (first, last): (u32, u32),
    count: usize,
    walk: Walk,
) -> Result<Chunk, IndexFault> {
    let mut gathered = Gathered { deltas: Vec::new(), horizon: walk.far_end(first, last) };
    if query.items.is_empty() {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let through = first.saturating_add(count - 1).min(last);
        let from = last.saturating_sub(count - 1).max(first);
        return Ok(match walk {
            Walk::Up => Chunk { candidates: (first..=through).collect(), reached: through },
            Walk::Down => Chunk { candidates: (from..=last).rev().collect(), reached: from },
        });
    }
    for item in &query.items {
        for &term in rarest(lists, item)? {
            let before = gathered.deltas.len();
            lists.list(term)?.collect((first, last), count + 1, walk, &mut gathered.deltas)?;
            gathered.bound(before, count, walk);
        }
    }
    Ok(gathered.finish(walk))
}

/// Returns the alternatives of an item that propose the fewest events.
fn rarest<'q>(lists: &impl Lists, item: &'q [Vec<Term>]) -> Result<&'q [Term], IndexFault> {
    if let [only] = item {
        return Ok(only);
    }
    let mut best: (usize, &[Term]) = (usize::MAX, &[]);
    for group in item {
        let mut proposed = 0;
        for &term in group {
            proposed += lists.list(term)?.len();
        }
        if proposed < best.0 {
            best = (proposed, group);
        }
    }
    Ok(best.1)
}

impl Walk {
    fn far_end<T>(self, first: T, last: T) -> T {
        match self {
            Self::Up => last,
            Self::Down => first,
        }
    }

    /// Returns whichever the walk comes to first.
    fn nearer(self, a: u32, b: u32) -> u32 {
        match self {
            Self::Up => a.min(b),
            Self::Down => a.max(b),
        }
    }
}

/// Deltas from several lists. Beyond the horizon some list was cut off, so nothing counts there.
struct Gathered {
    deltas: Vec<u32>,
    horizon: u32,
}

impl Gathered {
    /// Keeps `count` of what a list gave, and notes how far they reach if there was more.
    fn bound(&mut self, before: usize, count: usize, walk: Walk) {
        if self.deltas.len() - before > count {
            self.deltas.truncate(before + count);
            let last = *self.deltas.last().expect("a count is not zero");
            self.horizon = walk.nearer(self.horizon, last);
        }
    }

    fn finish(mut self, walk: Walk) -> Chunk {
        let horizon = self.horizon;
        self.deltas.retain(|&delta| walk.nearer(delta, horizon) == delta);
        self.deltas.sort_unstable();
        self.deltas.dedup();
        if walk == Walk::Down {
            self.deltas.reverse();
        }
        Chunk { candidates: self.deltas, reached: horizon }
    }
}
