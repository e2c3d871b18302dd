//! Entries of the offsets log: what happened to consumer groups, one behind the other in the body
//! of a frame.

use headwater_core::{
    Generation, GroupDefinition, GroupName, GroupState, Position, Query, Slot, SlotCommit,
    SlotProgress, SlotRange,
};

use super::{u16_at, u32_at, u64_at};

const STATE: u8 = 1;
const CLAIM: u8 = 2;
const COMMIT: u8 = 3;
const SEEK: u8 = 4;
const DELETE: u8 = 5;

/// One change of one group, or its whole state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OffsetEntry {
    /// The whole state: when the group is created, and at the beginning of each segment.
    State(GroupState),
    /// Slots got a new owner.
    Claim(GroupName, Vec<SlotRange>),
    /// Slots made progress.
    Commit(GroupName, Vec<SlotCommit>),
    /// The group was set to a position.
    Seek(GroupName, Position),
    /// The group was deleted.
    Delete(GroupName),
}

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OffsetFault {
    #[error("an entry ends beyond its frame")]
    Truncated,
    #[error("entry kind {0} is unknown")]
    Kind(u8),
    #[error("an entry of kind {0} is malformed")]
    Value(u8),
}

impl OffsetEntry {
    /// Appends the entry: length, kind, group name, fields.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let (kind, name) = match self {
            Self::State(state) => (STATE, &state.definition.name),
            Self::Claim(name, _) => (CLAIM, name),
            Self::Commit(name, _) => (COMMIT, name),
            Self::Seek(name, _) => (SEEK, name),
            Self::Delete(name) => (DELETE, name),
        };
        out.extend([0; 4]);
        out.push(kind);
        out.push(u8::try_from(name.as_str().len()).expect("limits bound the names"));
        out.extend_from_slice(name.as_str().as_bytes());
        match self {
            Self::State(state) => encode_state(out, state),
            Self::Claim(_, slots) => {
                put_count(out, slots.len());
                for range in slots {
                    put_range(out, *range);
                }
            }
            Self::Commit(_, commits) => {
                put_count(out, commits.len());
                for commit in commits {
                    put_progress(out, commit.slots, &commit.progress);
                }
            }
            Self::Seek(_, position) => out.extend(position.get().to_le_bytes()),
            Self::Delete(_) => {}
        }
        let len = u32::try_from(out.len() - start).expect("the writer bounds its entries");
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// Reads the entry at the beginning of `bytes` and returns it with its length.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, usize), OffsetFault> {
        let len = bytes.get(..4).map(|b| u32_at(b, 0) as usize).ok_or(OffsetFault::Truncated)?;
        let entry = bytes.get(4..len).ok_or(OffsetFault::Truncated)?;
        let mut fields =
            Fields { kind: *entry.first().ok_or(OffsetFault::Truncated)?, rest: &entry[1..] };
        let name_len = fields.take(1)?[0];
        let name = std::str::from_utf8(fields.take(name_len.into())?);
        let name = name.ok().and_then(|name| GroupName::new(name).ok()).ok_or(fields.fault())?;
        let decoded = match fields.kind {
            STATE => Self::State(decode_state(&mut fields, name)?),
            CLAIM => Self::Claim(name, fields.list(Fields::range)?),
            COMMIT => Self::Commit(name, fields.list(Fields::commit)?),
            SEEK => Self::Seek(name, fields.position()?),
            DELETE => Self::Delete(name),
            unknown => return Err(OffsetFault::Kind(unknown)),
        };
        if fields.rest.is_empty() { Ok((decoded, len)) } else { Err(fields.fault()) }
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend(u32::try_from(count).expect("the writer bounds its entries").to_le_bytes());
}

fn put_range(out: &mut Vec<u8>, range: SlotRange) {
    out.extend(range.first().get().to_le_bytes());
    out.extend(range.last().get().to_le_bytes());
}

fn put_progress(out: &mut Vec<u8>, slots: SlotRange, progress: &SlotProgress) {
    put_range(out, slots);
    out.extend(progress.generation.get().to_le_bytes());
    out.extend(progress.floor.get().to_le_bytes());
    put_count(out, progress.settled.len());
    for (first, last) in &progress.settled {
        out.extend(first.get().to_le_bytes());
        out.extend(last.get().to_le_bytes());
    }
}

fn encode_state(out: &mut Vec<u8>, state: &GroupState) {
    let selection =
        serde_json::to_vec(&state.definition.selection).expect("names have a JSON form");
    out.extend(state.definition.start.get().to_le_bytes());
    out.extend(state.generation.get().to_le_bytes());
    put_count(out, selection.len());
    out.extend_from_slice(&selection);
    let runs: Vec<_> = state.runs().collect();
    put_count(out, runs.len());
    for (slots, progress) in runs {
        put_progress(out, slots, progress);
    }
}

fn decode_state(fields: &mut Fields<'_>, name: GroupName) -> Result<GroupState, OffsetFault> {
    let start = fields.position()?;
    let generation = Generation::new(fields.u64()?);
    let len = fields.u32()? as usize;
    let selection: Query = serde_json::from_slice(fields.take(len)?).map_err(|_| fields.fault())?;
    let runs = fields.list(Fields::commit)?;
    let mut state = GroupState::new(GroupDefinition { name, selection, start }, generation);
    state.commit(&runs);
    Ok(state)
}

/// Fields of one entry, taken from the front.
struct Fields<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn fault(&self) -> OffsetFault {
        OffsetFault::Value(self.kind)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], OffsetFault> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(self.fault())?;
        self.rest = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, OffsetFault> {
        self.take(4).map(|bytes| u32_at(bytes, 0))
    }

    fn u64(&mut self) -> Result<u64, OffsetFault> {
        self.take(8).map(|bytes| u64_at(bytes, 0))
    }

    fn position(&mut self) -> Result<Position, OffsetFault> {
        self.u64().map(Position::new)
    }

    fn range(&mut self) -> Result<SlotRange, OffsetFault> {
        let bytes = self.take(4)?;
        let slot = |at| Slot::new(u16_at(bytes, at)).ok_or(self.fault());
        SlotRange::new(slot(0)?, slot(2)?).ok_or(self.fault())
    }

    fn commit(&mut self) -> Result<SlotCommit, OffsetFault> {
        let slots = self.range()?;
        let generation = Generation::new(self.u64()?);
        let floor = self.position()?;
        let settled = self.list(|fields| Ok((fields.position()?, fields.position()?)))?;
        Ok(SlotCommit { slots, progress: SlotProgress { floor, settled, generation } })
    }

    fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, OffsetFault>,
    ) -> Result<Vec<T>, OffsetFault> {
        // Collects as it reads, so that a wrong count allocates nothing.
        (0..self.u32()?).map(|_| item(self)).collect()
    }
}
