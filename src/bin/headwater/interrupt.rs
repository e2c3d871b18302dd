//! Leaving nothing half done behind when somebody stops the program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::exit::complain;

/// A file in the making. It is removed if the program is told to end before it has its name.
#[derive(Debug)]
pub(crate) struct Unfinished {
    partial: PathBuf,
    /// Whether it is there. Whoever ends the program waits while this changes.
    is_there: Arc<Mutex<bool>>,
}

impl Unfinished {
    /// Watches for SIGINT and SIGTERM on behalf of a file. The program says `message` then, and
    /// ends as by the signal.
    pub(crate) fn new(partial: PathBuf, message: String) -> io::Result<Self> {
        let is_there = Arc::new(Mutex::new(false));
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let (shared, path) = (Arc::clone(&is_there), partial.clone());
        let watch = move || {
            let Some(signal) = signals.forever().next() else { return };
            let is_there = locked(&shared);
            if *is_there {
                // Nobody takes it for what it was to be, so what cannot be removed may stay.
                let _ = fs::remove_file(&path);
                complain(&format!("error: {message}"), None);
            }
            let _ = emulate_default_handler(signal);
            process::exit(128 + signal);
        };
        thread::Builder::new().name("headwater-signals".to_owned()).spawn(watch)?;
        Ok(Self { partial, is_there })
    }

    /// Returns its name until it is complete.
    pub(crate) fn path(&self) -> &Path {
        &self.partial
    }

    /// Makes it.
    pub(crate) fn begin<T>(&self, create: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let mut is_there = locked(&self.is_there);
        let made = create(&self.partial)?;
        *is_there = true;
        Ok(made)
    }

    /// Gives it its own name, or gives it up.
    pub(crate) fn end<T>(&self, name: impl FnOnce(&Path) -> T) -> T {
        let mut is_there = locked(&self.is_there);
        *is_there = false;
        name(&self.partial)
    }
}

fn locked(is_there: &Mutex<bool>) -> MutexGuard<'_, bool> {
    is_there.lock().unwrap_or_else(PoisonError::into_inner)
}
