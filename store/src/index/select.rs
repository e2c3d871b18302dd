//! Finding candidates: which events of a segment a query may match, a chunk at a time.

use std::ops::Range;

use headwater_core::Position;

use super::{Location, SegmentIndex, Term, Terms};

/// Some candidates, in the order of the walk, and how far they reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) candidates: Vec<Location>,
    /// Everything up to here (down to here, going backward) was considered.
    pub(crate) reached: Position,
}

impl SegmentIndex {
    /// Returns candidates with positions from `first` through `last`, the lowest ones, about
    /// `count` of them.
    pub(crate) fn ascending(
        &self,
        query: &Terms,
        first: Position,
        last: Position,
        count: usize,
    ) -> Chunk {
        self.chunk(query, (first, last), count, Walk::Up)
    }

    /// Returns candidates with positions from `first` through `last`, the highest ones first,
    /// about `count` of them.
    pub(crate) fn descending(
        &self,
        query: &Terms,
        first: Position,
        last: Position,
        count: usize,
    ) -> Chunk {
        self.chunk(query, (first, last), count, Walk::Down)
    }

    fn chunk(&self, query: &Terms, range: (Position, Position), count: usize, walk: Walk) -> Chunk {
        let delta = |position: Position| position.events_since(self.base);
        let newest = u64::from(self.len()).checked_sub(1);
        let first = delta(range.0).unwrap_or(0);
        let last = delta(range.1).zip(newest).map(|(last, newest)| last.min(newest));
        let bounds = last.filter(|&last| first <= last).map(|last| {
            let narrow = |delta| u32::try_from(delta).expect("deltas of a segment fit 32 bits");
            (narrow(first), narrow(last))
        });
        let Some((first, last)) = bounds else {
            return Chunk { candidates: Vec::new(), reached: walk.far_end(range.0, range.1) };
        };
        let mut gathered = Gathered { deltas: Vec::new(), horizon: walk.far_end(first, last) };
        if query.items.is_empty() {
            let all: Range<u32> = first..last.saturating_add(1);
            gathered.take(all, count, walk);
        }
        for item in &query.items {
            let lists: Vec<&[u32]> = self
                .rarest(item)
                .iter()
                .filter_map(|term| self.postings.get(term).map(Vec::as_slice))
                .collect();
            for list in lists {
                let from = list.partition_point(|&delta| delta < first);
                let to = list.partition_point(|&delta| delta <= last);
                gathered.take(list[from..to].iter().copied(), count, walk);
            }
        }
        gathered.finish(self, walk)
    }

    /// Returns the alternatives of an item that propose the fewest events.
    fn rarest<'q>(&self, item: &'q [Vec<Term>]) -> &'q [Term] {
        let proposed = |group: &&Vec<Term>| -> usize {
            group.iter().map(|term| self.postings.get(term).map_or(0, Vec::len)).sum()
        };
        item.iter().min_by_key(proposed).map_or(&[], Vec::as_slice)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    Up,
    Down,
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
    fn take(
        &mut self,
        list: impl DoubleEndedIterator<Item = u32> + ExactSizeIterator,
        count: usize,
        walk: Walk,
    ) {
        let cut = list.len() > count;
        let before = self.deltas.len();
        match walk {
            Walk::Up => self.deltas.extend(list.take(count)),
            Walk::Down => self.deltas.extend(list.rev().take(count)),
        }
        if let (true, Some(&last)) = (cut, self.deltas[before..].last()) {
            self.horizon = walk.nearer(self.horizon, last);
        }
    }

    fn finish(mut self, index: &SegmentIndex, walk: Walk) -> Chunk {
        let horizon = self.horizon;
        self.deltas.retain(|&delta| walk.nearer(delta, horizon) == delta);
        self.deltas.sort_unstable();
        self.deltas.dedup();
        if walk == Walk::Down {
            self.deltas.reverse();
        }
        Chunk {
            candidates: self.deltas.iter().map(|&delta| index.location(delta)).collect(),
            reached: index.base.advanced_by(horizon.into()),
        }
    }
}
