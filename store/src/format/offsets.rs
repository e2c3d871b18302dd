//! Entries of the offsets log: what happened to consumer groups, one behind the other in the body
//! of a frame.

use headwater_core::{
    Generation, GroupChange, GroupCommit, GroupDefinition, GroupId, GroupName, GroupShape,
    GroupState, Key, Parked, ParkedCommit, ParkedState, Position, Slot, SlotCommit, SlotProgress,
    SlotRange, Timestamp,
};

use super::{u16_at, u32_at, u64_at};

const STATE: u8 = 1;
const CLAIM: u8 = 2;
const COMMIT: u8 = 3;
const SEEK: u8 = 4;
const DELETE: u8 = 5;
const PAUSE: u8 = 6;
const PARKED: u8 = 7;
const ALTER: u8 = 8;
const RENAME: u8 = 9;

/// One change of one group, or its whole state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OffsetEntry {
    /// The state but for what is parked, which follows as commits: when the group is created, and
    /// at the beginning of each segment.
    State(GroupState),
    /// The group was changed.
    Change(GroupName, GroupChange),
    /// The group got another name.
    Rename(GroupName, GroupName),
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
    /// Returns the group that it is about.
    pub(crate) fn name(&self) -> &GroupName {
        match self {
            Self::State(state) => &state.definition.name,
            Self::Change(name, _) | Self::Rename(name, _) | Self::Delete(name) => name,
        }
    }

    /// Appends the entry: length, kind, group name, fields.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let kind = match self {
            Self::State(_) => STATE,
            Self::Change(_, change) => change_kind(change),
            Self::Rename(..) => RENAME,
            Self::Delete(_) => DELETE,
        };
        out.extend([0; 4]);
        out.push(kind);
        put_short(out, self.name().as_str());
        match self {
            Self::State(state) => put_state(out, state),
            Self::Change(_, change) => put_change(out, change),
            Self::Rename(_, to) => put_short(out, to.as_str()),
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
        let name = fields.group_name()?;
        let decoded = match fields.kind {
            STATE => Self::State(fields.state(name)?),
            RENAME => Self::Rename(name, fields.group_name()?),
            DELETE => Self::Delete(name),
            _ => Self::Change(name, fields.change()?),
        };
        if fields.rest.is_empty() { Ok((decoded, len)) } else { Err(fields.fault()) }
    }
}

fn change_kind(change: &GroupChange) -> u8 {
    match change {
        GroupChange::Claim(_) => CLAIM,
        GroupChange::Commit(_) => COMMIT,
        GroupChange::Seek(_) => SEEK,
        GroupChange::Pause(_) => PAUSE,
        GroupChange::Parked(..) => PARKED,
        GroupChange::Alter(_) => ALTER,
    }
}

fn put_change(out: &mut Vec<u8>, change: &GroupChange) {
    match change {
        GroupChange::Claim(slots) => {
            put_count(out, slots.len());
            for range in slots {
                put_range(out, *range);
            }
        }
        GroupChange::Commit(GroupCommit { slots, parked }) => {
            put_count(out, slots.len());
            for commit in slots {
                put_progress(out, commit.slots, &commit.progress);
            }
            put_count(out, parked.len());
            for commit in parked {
                put_parked(out, commit);
            }
        }
        GroupChange::Seek(to) => put_position(out, *to),
        GroupChange::Pause(paused) => out.push(u8::from(*paused)),
        GroupChange::Parked(first, state) => {
            put_position(out, *first);
            out.push(parked_state(*state));
        }
        GroupChange::Alter(shape) => put_shape(out, shape),
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend(u32::try_from(count).expect("the writer bounds its entries").to_le_bytes());
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend(position.get().to_le_bytes());
}

/// Appends a text of at most 255 bytes behind its length.
fn put_short(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("limits bound the names"));
    out.extend_from_slice(text.as_bytes());
}

fn put_shape(out: &mut Vec<u8>, shape: &GroupShape) {
    let json = serde_json::to_vec(shape).expect("names have a JSON form");
    put_count(out, json.len());
    out.extend_from_slice(&json);
}

fn put_range(out: &mut Vec<u8>, range: SlotRange) {
    out.extend(range.first().get().to_le_bytes());
    out.extend(range.last().get().to_le_bytes());
}

fn put_progress(out: &mut Vec<u8>, slots: SlotRange, progress: &SlotProgress) {
    put_range(out, slots);
    out.extend(progress.generation.get().to_le_bytes());
    put_position(out, progress.floor);
    put_count(out, progress.settled.len());
    for (first, last) in &progress.settled {
        put_position(out, *first);
        put_position(out, *last);
    }
    put_count(out, progress.attempts.len());
    for (at, times) in &progress.attempts {
        put_position(out, *at);
        out.extend(times.to_le_bytes());
    }
}

fn put_parked(out: &mut Vec<u8>, ParkedCommit { generation, parked }: &ParkedCommit) {
    out.extend(generation.get().to_le_bytes());
    out.extend(parked.slot.get().to_le_bytes());
    for position in [parked.first, parked.next, parked.through] {
        put_position(out, position);
    }
    out.extend(parked.attempts.to_le_bytes());
    out.extend(parked.since.as_nanos().to_le_bytes());
    out.push(parked_state(parked.state));
    put_short(out, parked.key.as_ref().map_or("", Key::as_str));
    out.extend(u16::try_from(parked.cause.len()).expect("causes are cut").to_le_bytes());
    out.extend_from_slice(parked.cause.as_bytes());
}

fn parked_state(state: ParkedState) -> u8 {
    match state {
        ParkedState::Waiting => 1,
        ParkedState::Redriving => 2,
        ParkedState::Done => 3,
    }
}

fn put_state(out: &mut Vec<u8>, state: &GroupState) {
    put_position(out, state.definition.start);
    out.extend(state.definition.id.get().to_le_bytes());
    out.extend(state.generation.get().to_le_bytes());
    out.push(u8::from(state.paused));
    put_shape(out, &state.definition.shape);
    let runs: Vec<_> = state.runs().collect();
    put_count(out, runs.len());
    for (slots, progress) in runs {
        put_progress(out, slots, progress);
    }
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

    fn flag(&mut self) -> Result<bool, OffsetFault> {
        match self.take(1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.fault()),
        }
    }

    fn u16(&mut self) -> Result<u16, OffsetFault> {
        self.take(2).map(|bytes| u16_at(bytes, 0))
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

    fn text(&mut self, bytes: usize) -> Result<&'a str, OffsetFault> {
        std::str::from_utf8(self.take(bytes)?).map_err(|_| self.fault())
    }

    fn short(&mut self) -> Result<&'a str, OffsetFault> {
        let bytes = self.take(1)?[0];
        self.text(bytes.into())
    }

    fn group_name(&mut self) -> Result<GroupName, OffsetFault> {
        GroupName::new(self.short()?).map_err(|_| self.fault())
    }

    fn shape(&mut self) -> Result<GroupShape, OffsetFault> {
        let bytes = self.u32()? as usize;
        serde_json::from_slice(self.take(bytes)?).map_err(|_| self.fault())
    }

    fn state(&mut self, name: GroupName) -> Result<GroupState, OffsetFault> {
        let start = self.position()?;
        let id = GroupId::new(self.u64()?);
        let generation = Generation::new(self.u64()?);
        let paused = self.flag()?;
        let shape = self.shape()?;
        if shape.check(&name).is_err() {
            return Err(self.fault());
        }
        let slots = self.list(Fields::commit)?;
        let mut state = GroupState::of(GroupDefinition { name, id, shape, start }, generation);
        state.paused = paused;
        state.apply(&GroupChange::Commit(slots.into()));
        Ok(state)
    }

    fn change(&mut self) -> Result<GroupChange, OffsetFault> {
        Ok(match self.kind {
            CLAIM => GroupChange::Claim(self.list(Fields::range)?),
            COMMIT => {
                let slots = self.list(Fields::commit)?;
                GroupChange::Commit(GroupCommit { slots, parked: self.list(Fields::parked)? })
            }
            SEEK => GroupChange::Seek(self.position()?),
            PAUSE => GroupChange::Pause(self.flag()?),
            PARKED => GroupChange::Parked(self.position()?, self.parked_state()?),
            ALTER => GroupChange::Alter(self.shape()?),
            unknown => return Err(OffsetFault::Kind(unknown)),
        })
    }

    fn parked_state(&mut self) -> Result<ParkedState, OffsetFault> {
        match self.take(1)?[0] {
            1 => Ok(ParkedState::Waiting),
            2 => Ok(ParkedState::Redriving),
            3 => Ok(ParkedState::Done),
            _ => Err(self.fault()),
        }
    }

    fn parked(&mut self) -> Result<ParkedCommit, OffsetFault> {
        let generation = Generation::new(self.u64()?);
        let slot = Slot::new(self.u16()?).ok_or(self.fault())?;
        let (first, next, through) = (self.position()?, self.position()?, self.position()?);
        let attempts = self.u32()?;
        let since = Timestamp::from_nanos(self.u64()?.cast_signed());
        let state = self.parked_state()?;
        let key = match self.short()? {
            "" => None,
            key => Some(Key::new(key).map_err(|_| self.fault())?),
        };
        let cause_bytes = self.u16()?;
        let cause = self.text(cause_bytes.into())?.to_owned();
        let parked = Parked { first, slot, key, next, through, attempts, since, cause, state };
        // One that is over may have come to its end.
        if state != ParkedState::Done && !parked.is_in_order() {
            return Err(self.fault());
        }
        Ok(ParkedCommit { generation, parked })
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
        let attempts = self.list(|fields| Ok((fields.position()?, fields.u32()?)))?;
        let progress = SlotProgress { floor, settled, attempts, generation };
        if progress.disorder().is_some() {
            return Err(self.fault());
        }
        Ok(SlotCommit { slots, progress })
    }

    fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, OffsetFault>,
    ) -> Result<Vec<T>, OffsetFault> {
        // Collects as it reads, so that a wrong count allocates nothing.
        (0..self.u32()?).map(|_| item(self)).collect()
    }
}
