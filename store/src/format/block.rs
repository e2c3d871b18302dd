//! The 4 KiB blocks that begin files: magic number, version, fields, zeros, and a checksum over
//! everything before it in the last four bytes.

use super::{BLOCK_BYTES, FORMAT_VERSION, array, is_zero, put, u16_at, u32_at};

const CRC_AT: usize = BLOCK_BYTES - 4;

/// Where the fields of a block begin: behind magic number, version, flags and reserved bytes.
pub(crate) const FIELDS_AT: usize = 16;

/// Why a block cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BlockFault {
    #[error("it has {0} bytes where 4096 are needed")]
    Short(usize),
    #[error("it is all zeros")]
    Unwritten,
    #[error("its checksum is {stored:08x}, and its bytes give {computed:08x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("it begins with {found:02x?} instead of {expected:02x?}")]
    Magic { found: [u8; 8], expected: [u8; 8] },
    #[error("it has format version {found}, and this program reads up to {known}")]
    Version { found: u16, known: u16 },
    #[error("its flags {0:#06x} are unknown")]
    Flags(u16),
    #[error("its field {field} has the impossible value {value}")]
    Field { field: &'static str, value: u64 },
}

/// Makes a block with the fields that `fill` writes, and seals it.
pub(crate) fn encode(magic: [u8; 8], flags: u16, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    put(&mut block, 0, magic);
    put(&mut block, 8, FORMAT_VERSION.to_le_bytes());
    put(&mut block, 10, flags.to_le_bytes());
    fill(&mut block);
    let crc = crc32fast::hash(&block[..CRC_AT]);
    put(&mut block, CRC_AT, crc.to_le_bytes());
    block
}

/// Checks a block and returns its flags.
pub(crate) fn check(bytes: &[u8], magic: [u8; 8], known_flags: u16) -> Result<u16, BlockFault> {
    let Some(block) = bytes.get(..BLOCK_BYTES) else {
        return Err(BlockFault::Short(bytes.len()));
    };
    if is_zero(block) {
        return Err(BlockFault::Unwritten);
    }
    let (stored, computed) = (u32_at(block, CRC_AT), crc32fast::hash(&block[..CRC_AT]));
    if stored != computed {
        return Err(BlockFault::Checksum { stored, computed });
    }
    let found = array(block, 0);
    if found != magic {
        return Err(BlockFault::Magic { found, expected: magic });
    }
    let version = u16_at(block, 8);
    if version != FORMAT_VERSION {
        return Err(BlockFault::Version { found: version, known: FORMAT_VERSION });
    }
    let flags = u16_at(block, 10);
    if flags & !known_flags != 0 {
        return Err(BlockFault::Flags(flags));
    }
    Ok(flags)
}
