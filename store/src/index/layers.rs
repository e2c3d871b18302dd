//! The index of one segment: in a file, as far as there is one, and in memory behind it.

use std::sync::Arc;

use super::select::{Chunk, chunk};
use super::{IndexFault, IndexFile, MemoryIndex, Terms, Walk};

/// Layers, each of which begins where the one before ends.
#[derive(Debug)]
pub(crate) struct Layers {
    file: Option<Arc<IndexFile>>,
    /// What is complete in memory, and on its way into a file.
    frozen: Vec<Arc<MemoryIndex>>,
    /// What is being written.
    open: MemoryIndex,
}

/// Layers that do not change any more.
#[derive(Debug)]
pub(crate) struct LayersTaken {
    pub(crate) file: Option<Arc<IndexFile>>,
    pub(crate) frozen: Vec<Arc<MemoryIndex>>,
    /// How many events all of them have.
    pub(crate) events: u32,
}

impl Layers {
    /// Everything in memory.
    pub(crate) fn of(open: MemoryIndex) -> Self {
        Self { file: None, frozen: Vec::new(), open }
    }

    /// Returns an index that is in a file alone, if this is one.
    pub(crate) fn whole(&self) -> Option<Self> {
        let file = self.file.as_ref().filter(|file| file.end() == self.open.end())?;
        let open = MemoryIndex::from(file.end());
        Some(Self { file: Some(Arc::clone(file)), frozen: Vec::new(), open })
    }

    /// What the writer adds to.
    pub(crate) fn open(&mut self) -> &mut MemoryIndex {
        &mut self.open
    }

    pub(crate) fn file(&self) -> Option<&IndexFile> {
        self.file.as_deref()
    }

    /// The layers in memory, in order.
    pub(crate) fn memory(&self) -> impl DoubleEndedIterator<Item = &MemoryIndex> {
        self.frozen.iter().map(Arc::as_ref).chain([&self.open])
    }

    /// Returns the layer in memory that has an event.
    pub(crate) fn memory_of(&self, delta: u32) -> Option<&MemoryIndex> {
        self.memory().rev().find(|memory| (memory.first()..memory.end()).contains(&delta))
    }

    /// The delta behind the last one.
    pub(crate) fn end(&self) -> u32 {
        self.open.end()
    }

    /// Asks the layer that the walk comes to first.
    pub(crate) fn chunk(
        &self,
        query: &Terms,
        (first, last): (u32, u32),
        count: usize,
        walk: Walk,
    ) -> Result<Chunk, IndexFault> {
        let begin = if walk == Walk::Up { first } else { last };
        match (self.memory_of(begin), self.file()) {
            (Some(memory), _) => {
                let within = (first.max(memory.first()), last.min(memory.end() - 1));
                chunk(memory, query, within, count, walk)
            }
            (None, Some(file)) => {
                chunk(file, query, (first, last.min(file.end() - 1)), count, walk)
            }
            (None, None) => Err(IndexFault::Bounds),
        }
    }

    /// Takes an index file that begins with the segment, in place of what it covers.
    pub(crate) fn adopt(&mut self, file: Arc<IndexFile>) {
        let end = file.end();
        if self.open.end() <= end {
            self.open = MemoryIndex::from(end);
        } else if self.open.first() < end {
            // It was built anew meanwhile, in one piece.
            return;
        }
        self.frozen.retain(|frozen| frozen.first() >= end);
        self.file = Some(file);
    }

    /// Takes what is in memory out of the writer's hands, and returns everything.
    pub(crate) fn freeze(&mut self) -> LayersTaken {
        let events = self.open.end();
        if !self.open.is_empty() {
            let open = std::mem::replace(&mut self.open, MemoryIndex::from(events));
            self.frozen.push(Arc::new(open));
        }
        LayersTaken { file: self.file.clone(), frozen: self.frozen.clone(), events }
    }
}
