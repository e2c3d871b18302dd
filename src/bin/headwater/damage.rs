//! Damage as people and programs read it.

use std::io::Write;
use std::path::{Path, PathBuf};

use headwater::{Fault, OpenError, Position, Remedy, Severity};
use serde::Serialize;

use crate::exit::Failure;

const COPY: &str = "keep a copy of the directory, then restore it from a backup; until then \
    `headwater read` gives everything before the damage";
const GROUPS_COPY: &str = "keep a copy of the directory, then restore it from a backup; the \
    events are not concerned, and `headwater read` gives them";

/// Where a store is damaged, and what to do.
#[derive(Debug, Serialize)]
pub(crate) struct Damage {
    severity: Severity,
    file: Option<PathBuf>,
    position: Option<Position>,
    offset: Option<u64>,
    detail: String,
    remedy: Option<String>,
}

impl Damage {
    /// Takes the damage from what opening said.
    pub(crate) fn of_opening(error: &OpenError, dir: &Path) -> Self {
        let (file, place, detail) = error.place();
        let (position, offset) = place.unzip();
        Self {
            severity: Severity::Damage,
            file: file.map(Path::to_owned),
            position,
            offset,
            detail,
            remedy: Some(remedy(COPY, error.remedy(), dir)),
        }
    }

    /// Takes the damage of the groups' progress from what opening said.
    pub(crate) fn of_groups(error: &OpenError, dir: &Path) -> Self {
        let damage = Self::of_opening(error, dir);
        let detail = format!("in the progress of the groups: {}", damage.detail);
        let remedy = Some(remedy(GROUPS_COPY, error.remedy(), dir));
        // The position is one of their own log, where nobody could look it up.
        Self { detail, position: None, remedy, ..damage }
    }

    /// Takes a fault from what checking found.
    pub(crate) fn of_fault(fault: &Fault, dir: &Path) -> Self {
        let concerns_groups = fault.file.starts_with(dir.join("offsets"));
        let remedy = match fault.severity {
            Severity::Damage if concerns_groups => Some(remedy(GROUPS_COPY, fault.remedy, dir)),
            Severity::Damage => Some(remedy(COPY, fault.remedy, dir)),
            Severity::Derived => Some(match fault.remedy {
                Some(repair) => format!(
                    "none is needed: it is built anew when it is used; removing the file, or \
                     `{} --apply`, does so at once",
                    repair.command(dir)
                ),
                None => "none is needed: the next writer replaces it".to_owned(),
            }),
            Severity::Note => None,
        };
        Self {
            severity: fault.severity,
            file: Some(fault.file.clone()),
            position: fault.position,
            offset: fault.offset,
            detail: fault.detail.clone(),
            remedy,
        }
    }

    /// Writes the damage for people.
    pub(crate) fn write(&self, out: &mut impl Write) -> Result<(), Failure> {
        let word = match self.severity {
            Severity::Damage => "damage ",
            Severity::Derived => "derived",
            Severity::Note => "note   ",
        };
        writeln!(out, "{word}   {}", self.detail)?;
        if let Some(file) = &self.file {
            writeln!(out, "file      {}", file.display())?;
        }
        if let Some(position) = self.position {
            writeln!(out, "position  {position}")?;
        }
        if let Some(offset) = self.offset {
            writeln!(out, "offset    {offset}")?;
        }
        if let Some(remedy) = &self.remedy {
            writeln!(out, "remedy    {remedy}")?;
        }
        Ok(())
    }
}

fn remedy(copy: &str, repair: Option<Remedy>, dir: &Path) -> String {
    match repair {
        Some(repair) => {
            format!("{copy}; without a backup, `{}` says what can be kept", repair.command(dir))
        }
        None => copy.to_owned(),
    }
}
