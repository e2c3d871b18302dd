//! Decodes the progress of the consumer groups by `docs/format.md` alone.
//!
//! [`walk`] reads what lies around the entries; here are the entries, folded in order.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use headwater_core::{
    Generation, GroupId, GroupName, Key, Parked, ParkedState, Position, SLOT_COUNT, Slot,
    SlotProgress, Timestamp,
};

use crate::fields::{Check, DecodeStoreError, Fields, ensure};
use crate::log::{Frame, walk};

/// What the log of the offsets says of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedGroup {
    /// The identity.
    pub id: GroupId,
    /// Where the group starts: after this position.
    pub start: Position,
    /// The newest generation.
    pub generation: Generation,
    /// Whether it is paused.
    pub paused: bool,
    /// Kind, order and selection as JSON.
    pub shape: String,
    /// The progress of each slot.
    pub slots: Vec<SlotProgress>,
    /// What is parked, by the first event.
    pub parked: BTreeMap<Position, Parked>,
}

/// Decodes the state of all consumer groups of the store in `dir`.
///
/// # Errors
///
/// [`DecodeStoreError`] for whatever `docs/format.md` does not allow, and for a log that a crash
/// left torn.
pub fn decode_groups(dir: &Path) -> Result<BTreeMap<GroupName, DecodedGroup>, DecodeStoreError> {
    let mut groups = BTreeMap::new();
    walk(dir, 1, &mut |frame, body| fold(&mut groups, frame, body))?;
    Ok(groups)
}

fn fold(
    groups: &mut BTreeMap<GroupName, DecodedGroup>,
    frame: &Frame,
    body: &mut Fields<'_>,
) -> Check<()> {
    for _ in 0..frame.records {
        let [length] = Fields(body.0).u32s()?;
        let mut entry = Fields(body.take(length)?);
        let ([_length], [kind, name_length]) = (entry.u32s()?, entry.get(|pair: [u8; 2]| pair)?);
        let name = GroupName::new(entry.text(name_length)?).map_err(|_| "name of a group")?;
        match (kind, groups.get_mut(&name)) {
            (1, _) => drop(groups.insert(name, definition(&mut entry)?)),
            (5, Some(_)) => drop(groups.remove(&name)),
            (9, Some(_)) => {
                let [length] = entry.get(|one: [u8; 1]| one)?;
                let to = GroupName::new(entry.text(length)?).map_err(|_| "name of a group")?;
                let group = groups.remove(&name).ok_or("an entry of an unknown group")?;
                ensure(groups.insert(to, group).is_none(), "a name that is taken")?;
            }
            (2..=4 | 6..=8, Some(group)) => group.apply(kind, &mut entry)?,
            (2..=9, None) => return Err("an entry of an unknown group"),
            _ => return Err("unknown kind of entry"),
        }
        ensure(entry.0.is_empty(), "length of an entry")?;
    }
    Ok(())
}

/// Reads the fields of kind 1. Slots that no run names have nothing but the start.
fn definition(fields: &mut Fields<'_>) -> Check<DecodedGroup> {
    let [start, id, newest] = fields.u64s()?;
    let (start, id) = (Position::new(start), GroupId::new(id));
    let (generation, paused) = (Generation::new(newest), flag(fields)?);
    let shape = text(fields)?;
    let slots = vec![SlotProgress::beginning_at(start, Generation::NONE); SLOT_COUNT.into()];
    let parked = BTreeMap::new();
    let mut group = DecodedGroup { id, start, generation, paused, shape, slots, parked };
    group.runs(fields)?;
    Ok(group)
}

impl DecodedGroup {
    /// Applies the fields of a change.
    fn apply(&mut self, kind: u8, fields: &mut Fields<'_>) -> Check<()> {
        if matches!(kind, 2 | 4 | 7 | 8) {
            let newest = self.generation.get().checked_add(1).ok_or("too many generations")?;
            self.generation = Generation::new(newest);
        }
        match kind {
            2 => {
                let [count] = fields.u32s()?;
                for _ in 0..count {
                    let slots = range(fields)?;
                    self.own(slots)?;
                }
            }
            3 => {
                self.runs(fields)?;
                let [count] = fields.u32s()?;
                for _ in 0..count {
                    let parked = parked(fields)?;
                    match parked.state {
                        ParkedState::Done => self.parked.remove(&parked.first),
                        _ => self.parked.insert(parked.first, parked),
                    };
                }
            }
            4 => {
                let [floor] = fields.u64s()?.map(Position::new);
                self.slots.fill(SlotProgress::beginning_at(floor, self.generation));
                for parked in self.parked.values_mut().filter(|parked| parked.key.is_some()) {
                    parked.through = floor;
                }
                self.parked.retain(|_, parked| parked.next <= floor);
            }
            6 => self.paused = flag(fields)?,
            7 => {
                let [first] = fields.u64s()?.map(Position::new);
                let state = parked_state(fields)?;
                let parked = self.parked.get_mut(&first).ok_or("nothing is parked there")?;
                (parked.state, parked.attempts) = (state, 0);
                let slot = usize::from(parked.slot.get());
                if state == ParkedState::Done {
                    self.parked.remove(&first);
                }
                self.own(slot..=slot)?;
            }
            _ => {
                let (before, now) = (order(&self.shape)?, text(fields)?);
                if order(&now)? != before {
                    let floor = self.slots.iter().map(|slot| slot.floor).min().unwrap_or_default();
                    self.slots.fill(SlotProgress::beginning_at(floor, self.generation));
                }
                self.shape = now;
                self.own(0..=usize::from(SLOT_COUNT) - 1)?;
            }
        }
        Ok(())
    }

    /// Gives slots to the newest generation.
    fn own(&mut self, slots: RangeInclusive<usize>) -> Check<()> {
        for slot in self.slots.get_mut(slots).ok_or("a range of slots")? {
            slot.generation = self.generation;
        }
        Ok(())
    }

    fn runs(&mut self, fields: &mut Fields<'_>) -> Check<()> {
        let [count] = fields.u32s()?;
        for _ in 0..count {
            let slots = self.slots.get_mut(range(fields)?).ok_or("a range of slots")?;
            slots.fill(progress(fields)?);
        }
        Ok(())
    }
}

fn flag(fields: &mut Fields<'_>) -> Check<bool> {
    let [flag] = fields.get(|one: [u8; 1]| one)?;
    ensure(flag <= 1, "a flag")?;
    Ok(flag == 1)
}

fn text(fields: &mut Fields<'_>) -> Check<String> {
    let [length] = fields.u32s()?;
    Ok(fields.text(length)?.to_owned())
}

fn order(shape: &str) -> Check<String> {
    let shape: serde_json::Value = serde_json::from_str(shape).map_err(|_| "a shape")?;
    shape["order"].as_str().map(str::to_owned).ok_or("a shape without order")
}

fn parked_state(fields: &mut Fields<'_>) -> Check<ParkedState> {
    match fields.get(|one: [u8; 1]| one)? {
        [1] => Ok(ParkedState::Waiting),
        [2] => Ok(ParkedState::Redriving),
        [3] => Ok(ParkedState::Done),
        _ => Err("state of what is parked"),
    }
}

/// Reads a parked sequence behind the generation that owns its slot.
fn parked(fields: &mut Fields<'_>) -> Check<Parked> {
    let ([_generation], [slot]) = (fields.u64s()?, fields.u16s()?);
    let slot = Slot::new(slot).ok_or("a slot")?;
    let [first, next, through] = fields.u64s()?.map(Position::new);
    let ([attempts], [since]) = (fields.u32s()?, fields.u64s()?);
    let state = parked_state(fields)?;
    let [length] = fields.get(|one: [u8; 1]| one)?;
    let key = match fields.text(length)? {
        "" => None,
        key => Some(Key::new(key).map_err(|_| "a key")?),
    };
    let [length] = fields.u16s()?;
    let cause = fields.text(length)?.to_owned();
    let since = Timestamp::from_nanos(since.cast_signed());
    ensure(first <= next && first <= through, "what is parked")?;
    Ok(Parked { first, slot, key, next, through, attempts, since, cause, state })
}

fn range(fields: &mut Fields<'_>) -> Check<RangeInclusive<usize>> {
    let [first, last] = fields.u16s()?;
    ensure(first <= last && last < SLOT_COUNT, "a range of slots")?;
    Ok(first.into()..=last.into())
}

/// Reads what follows the range of a run.
fn progress(fields: &mut Fields<'_>) -> Check<SlotProgress> {
    let ([generation, floor], [count]) = (fields.u64s()?, fields.u32s()?);
    let mut settled = Vec::new();
    for _ in 0..count {
        let [first, last] = fields.u64s()?;
        ensure(floor < first && first <= last, "a settled range")?;
        settled.push((Position::new(first), Position::new(last)));
    }
    let ([count], mut attempts) = (fields.u32s()?, Vec::new());
    for _ in 0..count {
        let ([at], [times]) = (fields.u64s()?, fields.u32s()?);
        ensure(floor < at && times > 0, "attempts")?;
        attempts.push((Position::new(at), times));
    }
    Ok(SlotProgress {
        generation: Generation::new(generation),
        floor: Position::new(floor),
        settled,
        attempts,
    })
}
