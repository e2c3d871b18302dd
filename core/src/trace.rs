//! The trace context of W3C in the headers of events, so that a trace goes on where an event is
//! consumed. Nothing here knows a tracing library: the program says what its context is.

use std::fmt;
use std::str::FromStr;

use crate::event::NewEvent;
use crate::metadata::Headers;

/// Header with the trace and the span that an event comes from.
pub const TRACEPARENT: &str = "traceparent";

/// Header with what vendors add to the trace.
pub const TRACESTATE: &str = "tracestate";

/// Where in a trace something happens: the value of a `traceparent`, as W3C Trace Context level 1
/// has it, and what vendors add.
///
/// # Examples
///
/// ```
/// use headwater_core::{EventType, NewEvent, StreamId, TraceContext};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let here: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
/// let event = NewEvent::json(StreamId::new("order-17")?, EventType::new("order.placed")?, &1)?;
/// let event = event.traced(&here);
/// assert_eq!(TraceContext::from_headers(&event.headers), Some(here));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    traceparent: Box<str>,
    tracestate: Option<Box<str>>,
}

/// A text that is no `traceparent`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is no traceparent; write it as version-trace-parent-flags in lower-case hexadecimal, 2, 32, 16 and 2 digits, neither id all zeros"
)]
pub struct InvalidTraceparent {
    /// The text as given.
    pub value: String,
}

impl FromStr for TraceContext {
    type Err = InvalidTraceparent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        if is_traceparent(text) {
            return Ok(Self { traceparent: text.into(), tracestate: None });
        }
        Err(InvalidTraceparent { value: text.to_owned() })
    }
}

/// Later versions may add fields behind those of the first, which stay.
fn is_traceparent(text: &str) -> bool {
    let mut fields = text.split('-');
    let mut hex = |digits| {
        let field = fields.next().unwrap_or_default();
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (field.len() == digits && field.bytes().all(is_hex)).then_some(field)
    };
    let (version, trace, parent, flags) = (hex(2), hex(32), hex(16), hex(2));
    let is_id = |id: Option<&str>| id.is_some_and(|id| id.bytes().any(|digit| digit != b'0'));
    let ends = fields.next().is_none();
    version.is_some_and(|version| version != "ff" && (ends || version != "00"))
        && is_id(trace)
        && is_id(parent)
        && flags.is_some()
}

impl TraceContext {
    /// Takes the context from headers, if they have one that is valid. The first `traceparent`
    /// counts; a `tracestate` may stand in several headers.
    pub fn from_headers(headers: &Headers) -> Option<Self> {
        let context: Self = headers.get(TRACEPARENT)?.parse().ok()?;
        let states = headers.iter().filter(|(name, _)| *name == TRACESTATE);
        let states: Vec<&str> = states.map(|(_, value)| value).collect();
        Some(if states.is_empty() { context } else { context.with_state(&states.join(",")) })
    }

    /// Sets what vendors add, as it stands in `tracestate`.
    #[must_use]
    pub fn with_state(mut self, tracestate: &str) -> Self {
        self.tracestate = Some(tracestate.into());
        self
    }

    /// Returns the value of the header `traceparent`.
    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// Returns the value of the header `tracestate`.
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// Returns the id of the trace, 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        &self.traceparent[3..35]
    }

    /// Returns the id of the span, 16 hexadecimal digits.
    pub fn span_id(&self) -> &str {
        &self.traceparent[36..52]
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.traceparent)
    }
}

impl NewEvent {
    /// Says from where in a trace the event comes. An event that says so already stays as it is.
    #[must_use]
    pub fn traced(mut self, context: &TraceContext) -> Self {
        if self.headers.get(TRACEPARENT).is_none() {
            let mut add = |name, value: &str| {
                self.headers.insert(name, value).expect("the name is one that headers may have");
            };
            add(TRACEPARENT, context.traceparent());
            if let Some(state) = context.tracestate() {
                add(TRACESTATE, state);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_what_the_recommendation_says() {
        let context: TraceContext = PARENT.parse().unwrap();
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id(), "00f067aa0ba902b7");
        let later = format!("cc{}-what-comes", &PARENT[2..]);
        assert!(later.parse::<TraceContext>().is_ok(), "of a later version");
        let zeros = |from: usize, count| {
            let mut text = PARENT.to_owned();
            text.replace_range(from..from + count, &"0".repeat(count));
            text
        };
        let wrong = [
            String::new(),
            PARENT[..54].to_owned(),
            format!("{PARENT}-00"),
            PARENT.replace("4bf9", "4BF9"),
            format!("ff{}", &PARENT[2..]),
            PARENT.replace("00f067", "0\u{e4}f067"),
            zeros(3, 32),
            zeros(36, 16),
        ];
        for text in wrong {
            let error = text.parse::<TraceContext>().unwrap_err();
            assert_eq!(error.value, text);
        }
    }

    #[test]
    fn the_context_of_an_event_is_the_first_that_it_was_given() {
        let context: TraceContext = PARENT.parse().unwrap();
        let context = context.with_state("a=1,b=2");
        let stream = crate::StreamId::new("a-1").unwrap();
        let event_type = crate::EventType::new("t").unwrap();
        let event = NewEvent::new(stream, event_type, crate::CodecId::RAW, "x").traced(&context);
        let other: TraceContext = PARENT.replace("4bf9", "ffff").parse().unwrap();
        let mut event = event.traced(&other);
        assert_eq!(TraceContext::from_headers(&event.headers), Some(context.clone()));
        event.headers.insert(TRACESTATE, "c=3").unwrap();
        let joined = Some(context.with_state("a=1,b=2,c=3"));
        assert_eq!(TraceContext::from_headers(&event.headers), joined);
        assert_eq!(TraceContext::from_headers(&Headers::new()), None);
    }
}
