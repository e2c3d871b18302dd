//! How payloads become bytes. The id of the encoding is stored with each event.

mod bincode;
mod json;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{DeserializeOwned, DeserializeSeed};
use serde::{Deserialize, Serialize};

pub use self::bincode::Bincode;
pub use self::json::Json;

/// Names an encoding, for ever. Ids from 1 to 127 are this project's, from 128 on they are yours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CodecId(u8);

impl CodecId {
    /// Bytes that no codec of this crate interprets.
    pub const RAW: Self = Self(0);
    /// JSON (RFC 8259) in UTF-8.
    pub const JSON: Self = Self(1);
    /// Bincode's standard configuration: little-endian, variable-length integers.
    pub const BINCODE: Self = Self(2);

    /// Takes an id from its number.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for CodecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::RAW => f.write_str("raw"),
            Self::JSON => f.write_str("json"),
            Self::BINCODE => f.write_str("bincode"),
            Self(other) => write!(f, "codec {other}"),
        }
    }
}

/// An encoding of payloads.
///
/// Implement it for an encoding of your own, with an id from 128 on. An encoding that stores no
/// field names cannot grow: a changed event is then a new schema version with its own type.
pub trait Codec: Send + Sync + 'static {
    /// Stored with each event that this codec encoded.
    const ID: CodecId;

    /// Encodes a value.
    ///
    /// # Errors
    ///
    /// [`CodecError::Encode`] if the value has no form in this encoding.
    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError>;

    /// Decodes a value that `seed` knows how to read. Never panics, whatever the bytes.
    ///
    /// # Errors
    ///
    /// [`CodecError::Decode`] if the bytes are not such a value, or if more follow it.
    fn decode_seed<'de, S: DeserializeSeed<'de>>(
        seed: S,
        bytes: &'de [u8],
    ) -> Result<S::Value, CodecError>;

    /// Decodes a value. Never panics, whatever the bytes.
    ///
    /// # Errors
    ///
    /// As [`decode_seed`](Self::decode_seed).
    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        Self::decode_seed(PhantomData, bytes)
    }
}

/// Why a payload could not be encoded or decoded.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value has no form in the encoding.
    #[error("cannot encode the value as {codec}")]
    Encode {
        /// The encoding.
        codec: CodecId,
        /// What the encoder said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The bytes are not a value of the type asked for.
    #[error("cannot decode {len} bytes of {codec}")]
    Decode {
        /// The encoding.
        codec: CodecId,
        /// How many bytes there were.
        len: usize,
        /// What the decoder said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The event names an encoding that is not the one expected.
    #[error(
        "the payload is encoded as {found}, which this program cannot decode; decode it with the codec that wrote it"
    )]
    Unknown {
        /// The encoding that the event names.
        found: CodecId,
    },
}

/// Decodes a payload with the built-in codec that `codec` names.
///
/// # Errors
///
/// [`CodecError::Unknown`] if no built-in codec has this id, [`CodecError::Decode`] if the bytes
/// are not a `T`.
pub fn decode<T: DeserializeOwned>(codec: CodecId, bytes: &[u8]) -> Result<T, CodecError> {
    decode_seed(codec, PhantomData, bytes)
}

/// As [`decode`], of what a seed knows how to read.
pub(crate) fn decode_seed<'de, S: DeserializeSeed<'de>>(
    codec: CodecId,
    seed: S,
    bytes: &'de [u8],
) -> Result<S::Value, CodecError> {
    match codec {
        CodecId::JSON => Json::decode_seed(seed, bytes),
        CodecId::BINCODE => Bincode::decode_seed(seed, bytes),
        found => Err(CodecError::Unknown { found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Fact {
        Opened { seats: u32 },
        Renamed(String),
    }

    fn both_ways<C: Codec>() {
        for fact in [Fact::Opened { seats: 70_000 }, Fact::Renamed("Käse".into())] {
            let bytes = C::encode(&fact).unwrap();
            assert_eq!(C::decode::<Fact>(&bytes).unwrap(), fact);
            for cut in 0..bytes.len() {
                assert!(C::decode::<Fact>(&bytes[..cut]).is_err(), "{cut} bytes decoded");
            }
            let mut longer = bytes.to_vec();
            longer.push(b'x');
            assert!(C::decode::<Fact>(&longer).is_err(), "trailing bytes were ignored");
        }
    }

    #[test]
    fn json_survives_and_refuses_cut_or_trailing_bytes() {
        both_ways::<Json>();
    }

    #[test]
    fn bincode_survives_and_refuses_cut_or_trailing_bytes() {
        both_ways::<Bincode>();
    }

    #[test]
    fn a_float_survives_json_to_its_last_bit() {
        for float in [31.245_270_191_439_438_f64, 121.481_438_711_777_43, 5e-324, f64::MAX] {
            let json = Json::encode(&float).unwrap();
            assert_eq!(Json::decode::<f64>(&json).unwrap().to_bits(), float.to_bits(), "{float}");
        }
    }

    #[test]
    fn the_bytes_of_bincode_are_frozen() {
        let bytes = Bincode::encode(&Fact::Opened { seats: 70_000 }).unwrap();
        assert_eq!(&bytes[..], [0, 252, 0x70, 0x11, 0x01, 0x00]);
    }

    #[test]
    fn an_unknown_codec_is_named() {
        let error = decode::<u8>(CodecId::new(200), b"1").unwrap_err();
        assert!(error.to_string().contains("codec 200"), "{error}");
    }
}
