//! JSON: the default, because the tool, event patterns and other languages can read it.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, CodecError, CodecId};

/// JSON (RFC 8259).
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Codec for Json {
    const ID: CodecId = CodecId::JSON;

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
        serde_json::to_vec(value)
            .map(Bytes::from)
            .map_err(|e| CodecError::Encode { codec: Self::ID, source: Arc::new(e) })
    }

    fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(|e| CodecError::Decode {
            codec: Self::ID,
            len: bytes.len(),
            source: Arc::new(e),
        })
    }
}
