//! What is appended: a function of the seed and of who appends, so that whoever knows the name of
//! an append knows every byte of it.

use std::fmt;
use std::str::FromStr;

use headwater::{
    Append, AppendId, CodecId, Condition, EventId, EventType, ExpectedRevision, NewEvent, Position,
    Query, RecordedEvent, Revision, StreamId, Tag, Timestamp,
};

/// The `n`-th append of a thread of one life of the child process, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) life: u32,
    pub(crate) thread: u32,
    pub(crate) n: u32,
}

/// What an append expects of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expects {
    Nothing,
    /// A stream that all threads extend, at the revision at which the thread finds it.
    Exact(StreamId),
    /// A stream that nobody else extends.
    NoStream(StreamId),
    /// A tag that two threads want and one may have.
    Claim(Tag),
}

/// What a thread has found in the log before it appends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// Where the stream in [`Expects::Exact`] ended.
    pub(crate) revision: Revision,
    /// Where the log started.
    pub(crate) start: Position,
}

/// One append.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: Name,
    pub(crate) expects: Expects,
    pub(crate) sync: bool,
    pub(crate) has_id: bool,
    own: StreamId,
    sizes: Vec<usize>,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.life, self.thread, self.n)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Vec<u32> = text.split('.').map_while(|number| number.parse().ok()).collect();
        match numbers[..] {
            [life, thread, n] => Ok(Self { life, thread, n }),
            _ => Err(format!("{text:?} names no append")),
        }
    }
}

impl Name {
    fn number(self) -> u64 {
        u64::from(self.life) << 40 | u64::from(self.thread) << 32 | u64::from(self.n)
    }
}

impl Plan {
    /// Draws the append of a name. The same seed gives the same. Lives with an even number ask for
    /// no sync.
    pub(crate) fn of(seed: u64, name: Name) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed.rotate_left(17) ^ name.number());
        let count = [1, 1, 1, 1, 2, 3, 5, 12][dice.usize(..8)];
        let bytes = [30, 200, 200, 700, 700, 4_000, 4_096, 12_000][dice.usize(..8)] / count;
        let stream = |text: String| StreamId::new(text).expect("made of letters and numbers");
        let expects = match dice.u8(..8) {
            0..=2 => Expects::Nothing,
            3..=4 => Expects::Exact(stream(format!("hot-{}", dice.u8(..3)))),
            5..=6 => Expects::NoStream(stream(format!("new-{name}"))),
            _ => {
                let claim = Tag::new(format!("claim:{}.{}", name.life, name.n));
                Expects::Claim(claim.expect("made of letters and numbers"))
            }
        };
        Self {
            name,
            expects,
            sync: dice.u8(..6) == 0 && !name.life.is_multiple_of(2),
            has_id: dice.u8(..3) == 0,
            own: stream(format!("own-{}", name.thread)),
            sizes: (0..count).map(|_| dice.usize(..=bytes)).collect(),
        }
    }

    /// How many events it has.
    pub(crate) fn len(&self) -> usize {
        self.sizes.len()
    }

    /// The id that makes it idempotent.
    pub(crate) fn id(&self) -> Option<AppendId> {
        self.has_id.then(|| AppendId::from_name(self.name.to_string().as_bytes()))
    }

    /// The append, by a thread that has found this.
    pub(crate) fn append(&self, found: Found) -> Append {
        let condition = match &self.expects {
            Expects::Nothing => Condition::none(),
            Expects::Exact(stream) => {
                Condition::stream(stream.clone(), ExpectedRevision::Exact(found.revision))
            }
            Expects::NoStream(stream) => {
                Condition::stream(stream.clone(), ExpectedRevision::NoStream)
            }
            Expects::Claim(tag) => Condition::no_events(Query::tags([tag.clone()]), found.start),
        };
        let events = (0..self.len()).map(|at| self.event(at, found.revision)).collect();
        Append { events, condition, append_id: self.id(), sync: self.sync }
    }

    /// One of its events. The payload names it, and says what its thread expected.
    pub(crate) fn event(&self, at: usize, found: Revision) -> NewEvent {
        let stream = match &self.expects {
            Expects::Exact(stream) | Expects::NoStream(stream) if at == 0 => stream.clone(),
            _ => self.own.clone(),
        };
        let filler = "abcdefghijklmnopqrstuvwxyz0123456789-".chars().cycle();
        let filler: String = filler.skip(at + self.name.n as usize).take(self.sizes[at]).collect();
        let payload = format!("{} {at} {} {filler}", self.name, found.get());
        let kind = EventType::new(["counted", "weighed", "sold"][at % 3]).expect("a word");
        let mut event = NewEvent::new(stream, kind, CodecId::RAW, payload);
        let id = u128::from(self.name.number()) << 32 | at as u128;
        event.id = EventId::from_bytes(id.to_be_bytes());
        event.event_time = Timestamp::from_millis(i64::from(self.name.n));
        if let (0, Expects::Claim(tag)) = (at, &self.expects) {
            event.tags.push(tag.clone());
        }
        event
    }
}

/// Reads from a payload which event it is: append, place in it, and the revision that was found.
pub(crate) fn named(event: &RecordedEvent) -> Result<(Name, usize, Revision), String> {
    let text = String::from_utf8_lossy(&event.payload);
    let nobody = || format!("nobody sent position {}: {:.60}", event.position, text);
    let mut words = text.split(' ');
    let mut word = || words.next().ok_or_else(nobody);
    let (name, at, found) = (word()?, word()?, word()?);
    let name = name.parse().map_err(|_| nobody())?;
    let at = at.parse().map_err(|_| nobody())?;
    Ok((name, at, Revision::new(found.parse().map_err(|_| nobody())?)))
}

/// Returns whether an event in the log is the one that was sent.
pub(crate) fn is_as_sent(sent: &NewEvent, found: &RecordedEvent) -> bool {
    sent.id == found.id
        && sent.stream == found.stream
        && sent.event_type == found.event_type
        && sent.event_time == found.event_time
        && sent.tags == found.tags
        && sent.codec == found.codec
        && sent.payload == found.payload
}
