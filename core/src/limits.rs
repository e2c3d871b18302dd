//! What every log accepts at most. An engine may accept less and says so in its errors.

/// Longest stream id (category, hyphen and id together) in bytes.
pub const STREAM_ID_BYTES_MAX: usize = 255;
/// Longest category in bytes.
pub const CATEGORY_BYTES_MAX: usize = 64;
/// Longest event type name in bytes.
pub const EVENT_TYPE_BYTES_MAX: usize = 128;
/// Longest tag in bytes.
pub const TAG_BYTES_MAX: usize = 255;
/// Longest ordering key in bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest consumer group name in bytes.
pub const GROUP_NAME_BYTES_MAX: usize = 128;
/// Most tags of one event.
pub const TAGS_MAX: usize = 64;
/// Longest header name in bytes.
pub const HEADER_NAME_BYTES_MAX: usize = 255;
/// Most bytes of one event's metadata: ids, tags, key and headers, encoded.
pub const METADATA_BYTES_MAX: usize = 32 * 1024;
/// Most bytes of one event's payload.
pub const PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most events of one append.
pub const BATCH_EVENTS_MAX: usize = 16_384;
/// Most bytes of one append, payloads and metadata together.
pub const BATCH_BYTES_MAX: usize = 12 * 1024 * 1024;
/// Longest event pattern in bytes, as text.
pub const PATTERN_BYTES_MAX: usize = 16 * 1024;
/// Deepest nesting of lists and objects in an event pattern.
pub const PATTERN_DEPTH_MAX: usize = 64;
/// Most combinations that the branches of an event pattern's `$or`s give.
pub const PATTERN_ALTERNATIVES_MAX: u64 = 1_000;
/// Most fields that these combinations have together.
pub const PATTERN_FIELDS_MAX: u64 = 50_000;
