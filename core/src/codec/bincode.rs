//! Bincode, for hot streams and for our own state. The only place that knows the crate.

use std::sync::Arc;

use bincode::config;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

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
            .map_err(|e| CodecError::Encode {
                codec: Self::ID,
                source: Arc::new(e),
            })
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        let fail = |source: Arc<dyn std::error::Error + Send + Sync>| CodecError::Decode {
            codec: Self::ID,
            len: bytes.len(),
            source,
        };
        let config = config::standard().with_limit::<DECODED_BYTES_MAX>();
        let (value, used) =
            ::bincode::serde::decode_from_slice(bytes, config).map_err(|e| fail(Arc::new(e)))?;
        match bytes.len() - used {
            0 => Ok(value),
            more => Err(fail(Arc::new(TrailingBytes(more)))),
        }
    }
}
