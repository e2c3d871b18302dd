//! Bincode, for hot streams and for our own state. The only place that knows the crate.

use std::marker::PhantomData;
use std::sync::Arc;

use bincode::config;
use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed};

use super::{Codec, CodecError, CodecId};
use crate::limits;

/// Bincode's standard configuration, small and fast. It stores no field names, so a changed type
/// is a new schema version.
#[derive(Clone, Copy, Debug)]
pub struct Bincode;

/// A length prefix beyond this is refused instead of allocated.
const DECODED_BYTES_MAX: usize = 8 * limits::PAYLOAD_BYTES_MAX;

#[derive(Debug, thiserror::Error)]
#[error("{0} bytes follow the value")]
struct TrailingBytes(usize);

impl Codec for Bincode {
    const ID: CodecId = CodecId::BINCODE;

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
        ::bincode::serde::encode_to_vec(value, config::standard())
            .map(Bytes::from)
            .map_err(|e| CodecError::Encode { codec: Self::ID, source: Arc::new(e) })
    }

    fn decode_seed<'de, S: DeserializeSeed<'de>>(
        seed: S,
        bytes: &'de [u8],
    ) -> Result<S::Value, CodecError> {
        decode_whole(seed, bytes, config::standard().with_limit::<DECODED_BYTES_MAX>())
    }
}

impl Bincode {
    /// Decodes bytes that this program wrote and whose checksum it has verified, such as a
    /// snapshot: without the limit that guards [`decode`](Codec::decode) against lengths that
    /// somebody made up.
    ///
    /// # Errors
    ///
    /// As [`decode`](Codec::decode).
    pub fn decode_verified<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        decode_whole(PhantomData, bytes, config::standard())
    }
}

fn decode_whole<'de, S: DeserializeSeed<'de>>(
    seed: S,
    bytes: &'de [u8],
    config: impl config::Config,
) -> Result<S::Value, CodecError> {
    let fail = |source: Arc<dyn std::error::Error + Send + Sync>| CodecError::Decode {
        codec: Bincode::ID,
        len: bytes.len(),
        source,
    };
    let (value, used) = ::bincode::serde::seed_decode_from_slice(seed, bytes, config)
        .map_err(|e| fail(Arc::new(e)))?;
    match bytes.len() - used {
        0 => Ok(value),
        more => Err(fail(Arc::new(TrailingBytes(more)))),
    }
}
