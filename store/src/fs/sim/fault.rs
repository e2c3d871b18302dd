//! What goes wrong on a simulated disk, and how chance decides.

use crate::planted::{Bug, planted};

/// What becomes of what was not synced when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Survival {
    /// Nothing of it stays.
    Nothing,
    /// Everything stays.
    Everything,
    /// Drawn for each sector, size and directory.
    Drawn(u64),
}

/// How an operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes, or the process: this operation and all later ones fail.
    PowerOff,
    /// This operation fails with an error of the system, and later ones work.
    Once(i32),
    /// This operation and all later ones that change anything fail.
    Always(i32),
    /// The next sync says yes, and the device forgets one of its sectors, which stays stale.
    LostWrite,
    /// The next sync says yes, and the device writes one of its sectors over another one.
    MisdirectedWrite,
}

/// Numbers that look random and are the same for the same seed (splitmix64, Steele et al., 2014).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    /// Draws one of `count` things, of which there is one at least.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.roll(count as u64)).expect("less than a count")
    }
}

impl Survival {
    /// Returns what decides where chance does.
    pub(super) fn dice(self) -> Dice {
        match self {
            Self::Drawn(_) if planted(Bug::DiskForgetsSeed) => Dice(fresh()),
            Self::Drawn(seed) => Dice(seed),
            Self::Nothing | Self::Everything => Dice(0),
        }
    }

    /// Chooses one of `count` states, of which the first is the synced one and the last the newest.
    pub(super) fn choose(self, dice: &mut Dice, count: usize) -> usize {
        match self {
            _ if planted(Bug::DiskKeepsUnsynced) => count - 1,
            Self::Nothing => 0,
            Self::Everything => count - 1,
            Self::Drawn(_) => dice.index(count),
        }
    }
}

/// A seed that never comes again.
fn fresh() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
