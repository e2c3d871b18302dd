//! The command line.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headwater::Durability;

/// What a campaign is to do.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) time: Duration,
    pub(crate) events: u64,
    /// Where a child process finds what it works with.
    pub(crate) dir: PathBuf,
    pub(crate) member: u32,
    pub(crate) life: u32,
    pub(crate) appends: u32,
    pub(crate) durability: Durability,
}

/// The modes of durability, and what they are called here.
pub(crate) const DURABILITIES: [(&str, Durability); 3] = [
    ("sync", Durability::Sync),
    ("interval", Durability::Interval { every: Duration::from_millis(20), bytes: 64 * 1024 }),
    ("os", Durability::Os),
];

pub(crate) fn durability_name(durability: Durability) -> &'static str {
    let named = DURABILITIES.into_iter().find(|(_, named)| *named == durability);
    named.expect("the campaigns use no others").0
}

impl Options {
    pub(crate) fn read(arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let mut options = Self {
            seed: u64::from(now.subsec_nanos()),
            time: Duration::from_secs(60),
            events: 1_000_000,
            dir: PathBuf::new(),
            member: 0,
            life: 1,
            appends: 100,
            durability: Durability::Sync,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
            match argument.as_str() {
                "--seed" => options.seed = value.parse()?,
                "--seconds" => options.time = Duration::from_secs(value.parse()?),
                "--events" => options.events = value.parse()?,
                "--member" => options.member = value.parse()?,
                "--dir" => options.dir = value.into(),
                "--life" => options.life = value.parse()?,
                "--appends" => options.appends = value.parse()?,
                "--durability" => {
                    let named = DURABILITIES.into_iter().find(|(name, _)| *name == value);
                    options.durability = named.ok_or(format!("{value} is no durability"))?.1;
                }
                _ => return Err(format!("{argument} is no option; see --help").into()),
            }
        }
        Ok(options)
    }
}
