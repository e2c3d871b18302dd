//! What a typed event is decoded from, and how an older shape becomes the next one.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{DeserializeOwned, DeserializeSeed};

use super::body::{Body, VariantSeed};
use super::{Event, EventKind};
use crate::codec::{self, Codec, CodecError, CodecId};
use crate::position::SchemaVersion;

/// A stored payload, and what its event says of it.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    kind: usize,
    version: SchemaVersion,
    codec: CodecId,
    bytes: &'a [u8],
}

/// Why a payload could not be read as an event.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// It is not what its name and version say.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// An upcaster refused it.
    #[error("schema version {from} cannot be made the next one")]
    Refused {
        /// The version that was there.
        from: SchemaVersion,
        /// What the upcaster said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// An upcaster made an event of another kind.
    #[error(
        "the upcaster from schema version {from} made {found} of {expected}; let it make the variant of that name"
    )]
    OtherKind {
        /// The version that was there.
        from: SchemaVersion,
        /// What the upcaster made.
        found: &'static str,
        /// What the event is.
        expected: &'static str,
    },
}

/// Makes a value of the shape before it: the step from one schema version to the next.
///
/// It is there for every `From` and every `TryFrom` whose error is one. Upcasting is pure: the same
/// event gives the same value, for ever.
#[diagnostic::on_unimplemented(
    message = "nothing makes `{Self}` of the older shape `{Old}`",
    label = "this version has no upcaster",
    note = "write `impl From<{Old}> for {Self}`, or `TryFrom` where it can fail"
)]
pub trait Upcast<Old>: Sized {
    /// Makes the newer shape of the older one.
    ///
    /// # Errors
    ///
    /// What the conversion says.
    fn upcast(old: Old) -> Result<Self, Arc<dyn std::error::Error + Send + Sync>>;
}

impl<Old, New> Upcast<Old> for New
where
    New: TryFrom<Old>,
    New::Error: std::error::Error + Send + Sync + 'static,
{
    fn upcast(old: Old) -> Result<Self, Arc<dyn std::error::Error + Send + Sync>> {
        Self::try_from(old).map_err(|error| Arc::new(error) as _)
    }
}

impl<'a> Payload<'a> {
    pub(super) fn new(
        kind: usize,
        version: SchemaVersion,
        codec: CodecId,
        bytes: &'a [u8],
    ) -> Self {
        Self { kind, version, codec, bytes }
    }

    /// Returns which of [`Event::KINDS`] it is.
    pub fn kind(&self) -> usize {
        self.kind
    }

    /// Returns the shape it has.
    pub fn version(&self) -> SchemaVersion {
        self.version
    }

    /// Decodes the payload as a `T`, by `C` where that wrote it, otherwise by the built-in codec that
    /// did.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Codec`] if the codec is unknown or the bytes are not a `T`.
    pub fn decode<C: Codec, T: DeserializeOwned>(self) -> Result<T, PayloadError> {
        self.decode_seed::<C, _>(PhantomData::<T>)
    }

    /// Decodes the payload as what a variant of the enum `E` holds: the one that stands where the kind
    /// does in [`Event::KINDS`]. What [`encode_variant`] wrote.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    pub fn decode_variant<E: Event>(self) -> Result<E, PayloadError> {
        let variant = u32::try_from(self.kind).expect("an enum has no 4 billion variants");
        self.decode_seed::<E::Codec, _>(VariantSeed::<E>::new(variant))
    }

    fn decode_seed<C: Codec, S: DeserializeSeed<'a>>(
        self,
        seed: S,
    ) -> Result<S::Value, PayloadError> {
        let decoded = if self.codec == C::ID {
            C::decode_seed(seed, self.bytes)
        } else {
            codec::decode_seed(self.codec, seed, self.bytes)
        };
        Ok(decoded?)
    }

    /// Makes the shape that follows schema version `from`.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Refused`] if the upcaster says so.
    pub fn upcast<Old, New: Upcast<Old>>(from: u16, old: Old) -> Result<New, PayloadError> {
        let from = SchemaVersion::new(from);
        New::upcast(old).map_err(|source| PayloadError::Refused { from, source })
    }

    /// Checks that the upcaster from schema version `from` made an event of this kind.
    ///
    /// # Errors
    ///
    /// [`PayloadError::OtherKind`] if it did not.
    pub fn of_its_kind<E: Event>(self, from: u16, event: E) -> Result<E, PayloadError> {
        let expected = E::KINDS.get(self.kind).map_or("", |kind: &EventKind| kind.name);
        let found = event.kind().name;
        if found != expected {
            let from = SchemaVersion::new(from);
            return Err(PayloadError::OtherKind { from, found, expected });
        }
        Ok(event)
    }
}

/// Encodes what a variant of an enum holds, without the variant: a struct for named fields and for
/// none, a tuple for several without names, and the value itself for one. For implementations of
/// [`Event::encode_payload`]; [`Payload::decode_variant`] reads it.
///
/// # Errors
///
/// As [`Event::encode_payload`].
pub fn encode_variant<E: Event>(event: &E) -> Result<Bytes, CodecError> {
    E::Codec::encode(&Body(event))
}
