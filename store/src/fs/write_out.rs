//! Starting to write a file out without waiting for it.

use std::fs::File;
use std::io;

/// Hands the dirty pages of a range to the device and returns. A kernel or file system that does
/// not know how does nothing; the next sync then has more to write.
#[cfg(target_os = "linux")]
pub(super) fn begin(file: &File, offset: u64, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    let signed = |number: u64| libc::off64_t::try_from(number).map_err(io::Error::other);
    let (offset, len) = (signed(offset)?, signed(len)?);
    // Never one of the flags that wait: they would take an error that the next sync must see.
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the descriptor is open as long as `file` is borrowed, and no memory is passed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn begin(_: &File, _: u64, _: u64) -> io::Result<()> {
    Ok(())
}
