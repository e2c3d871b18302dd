//! Decodes the progress of the consumer groups by `docs/format.md` alone.
//!
//! [`walk`] reads what lies around the entries; here are the entries, folded in order.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use headwater_core::{Generation, GroupName, Position, SLOT_COUNT, SlotProgress};

use crate::fields::{Check, DecodeStoreError, Fields, ensure};
use crate::log::{Frame, walk};

/// What the log of the offsets says of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedGroup {
    /// Where the group starts: after this position.
    pub start: Position,
    /// The newest generation.
    pub generation: Generation,
    /// The selection as JSON.
    pub selection: String,
    /// The progress of each slot.
    pub slots: Vec<SlotProgress>,
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
            (2..=4, Some(group)) => group.apply(kind, &mut entry)?,
            (2..=5, None) => return Err("an entry of an unknown group"),
            _ => return Err("unknown kind of entry"),
        }
        ensure(entry.0.is_empty(), "length of an entry")?;
    }
    Ok(())
}

/// Reads the fields of kind 1. Slots that no run names have nothing but the start.
fn definition(fields: &mut Fields<'_>) -> Check<DecodedGroup> {
    let ([start, newest], [length]) = (fields.u64s()?, fields.u32s()?);
    let (start, generation) = (Position::new(start), Generation::new(newest));
    let selection = fields.text(length)?.to_owned();
    let slot = SlotProgress { generation: Generation::new(0), floor: start, settled: Vec::new() };
    let slots = vec![slot; SLOT_COUNT.into()];
    let mut group = DecodedGroup { start, generation, selection, slots };
    group.apply(3, fields)?;
    Ok(group)
}

impl DecodedGroup {
    /// Applies the fields of kind 2, 3 or 4.
    fn apply(&mut self, kind: u8, fields: &mut Fields<'_>) -> Check<()> {
        if kind != 3 {
            let newest = self.generation.get().checked_add(1).ok_or("too many generations")?;
            self.generation = Generation::new(newest);
        }
        if kind == 4 {
            let [floor] = fields.u64s()?.map(Position::new);
            let slot = SlotProgress { generation: self.generation, floor, settled: Vec::new() };
            self.slots.fill(slot);
            return Ok(());
        }
        let [count] = fields.u32s()?;
        for _ in 0..count {
            let slots = self.slots.get_mut(range(fields)?).ok_or("a range of slots")?;
            if kind == 2 {
                for slot in slots {
                    slot.generation = self.generation;
                }
            } else {
                slots.fill(progress(fields)?);
            }
        }
        Ok(())
    }
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
    Ok(SlotProgress {
        generation: Generation::new(generation),
        floor: Position::new(floor),
        settled,
    })
}
