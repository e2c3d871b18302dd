//! Bugs that can be planted to see a test turn red: a test that cannot fail proves nothing.
//!
//! Each stands in one line where it would be a bug. Outside of tests [`planted`] is a constant
//! `false`, and nothing of this is in the program. In tests the variable `HEADWATER_BUG` names the
//! one that is there; `tests/bugs.rs` plants them all in turn.

/// Names the bugs, and lists them for tests.
macro_rules! bugs {
    ($($(#[$attribute:meta])* $bug:ident,)*) => {
        /// A bug of one line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Bug {
            $($(#[$attribute])* $bug,)*
        }

        /// All of them.
        #[cfg(test)]
        pub(crate) const ALL: &[Bug] = &[$(Bug::$bug,)*];
    };
}

bugs! {
    // Writing
    /// An append is answered before it is synced.
    AckBeforeSync,
    /// After a failed sync the writer goes on.
    GoOnAfterFailedSync,
    /// What a failed sync may have lost is shown to readers.
    ShowAfterFailedSync,
    /// Conditions do not see what waits in the same group.
    ForgetStaged,
    /// A group that was refused moves the ends of its streams.
    CountRefused,
    /// An append id is not looked for in what is committed.
    ForgetAppendIds,
    /// Each event of a batch says that it is the last.
    EndBatchesEarly,
    /// Frames say that everything before them is durable.
    PromiseTooMuch,

    // Segments and small files
    /// A segment is left unsynced when the next one begins.
    RollWithoutSync,
    /// A segment gets its name before its header is on the device.
    NameBeforeHeader,
    /// The name of a new segment is not made durable.
    ForgetDirSync,
    /// A small file gets its name before it is on the device.
    NameBeforeContent,
    /// The name of a small file is not made durable.
    ForgetFileName,
    /// The catalog is written and not synced.
    CatalogWithoutSync,
    /// The catalog always writes over its first block.
    CatalogInPlace,
    /// Segments are removed before the catalog says so.
    RemoveBeforeCatalog,
    /// The ledger is written and not synced.
    LedgerWithoutSync,
    /// The ends of streams that an earlier removal left are dropped.
    ForgetTails,
    /// Retention does not ask the first group.
    IgnoreGroup,

    // Checksums and recovery
    /// The checksum of a frame's body is not compared.
    TrustBodies,
    /// The checksum of a frame's header, and so of its length, is not compared.
    TrustHeaders,
    /// A frame may follow any other.
    TrustChain,
    /// Damage to what was acknowledged is judged like a torn end.
    CutAcknowledged,
    /// What frames behind a bad one say is not heard.
    IgnoreLaterFrames,
    /// Any bad end counts as torn.
    ExplainAnything,
    /// What was cut stays in the segment.
    KeepTornEnd,
    /// Recovery believes the cache.
    BelieveCache,
    /// What recovery found is not written again.
    LeaveUnproven,
    /// A missing segment ends the log.
    IgnoreMissing,
    /// Files that are not of the store are removed.
    RemoveForeign,
    /// Opening leaves the mark of a clean end.
    LeaveCleanMark,
    /// Closing marks a clean end whatever came before.
    AlwaysClean,
    /// A writer takes the epoch of the one before.
    ShareEpoch,

    // Reading
    /// Readers of durable events see all that are committed.
    ShowUnsynced,
    /// A page ends one event further than it came.
    SkipBetweenPages,
    /// A page begins with the last event of the one before.
    RepeatBetweenPages,
    /// A walk goes past the end of a segment.
    MissSegmentEnd,
    /// A segment without events counts as older than any moment.
    TrustEmptySegment,
    /// Below the start of the log, reading begins at the start.
    JumpToStart,
    /// An index file is taken for the one of any bytes.
    UnboundIndex,
    /// The checksums of index pages are not compared.
    TrustIndex,
    /// An index file stands for durable events that were not.
    IndexBeforeSync,

    // Groups
    /// A commit of an older owner counts.
    ForgetFencing,
    /// Older offsets go before the newer ones are on the device.
    OffsetsWithoutSync,
    /// The first group is left out where the offsets go on in another segment.
    ForgetGroup,

    // The simulated disk
    /// A failed sync is made up for by the next one.
    #[cfg(test)]
    DiskSyncsAgain,
    /// What was not synced stays.
    #[cfg(test)]
    DiskKeepsUnsynced,
    /// Names are on the device at once.
    #[cfg(test)]
    DiskNamesAreDurable,
    /// What was not synced goes with its process.
    #[cfg(test)]
    DiskDiesWithProcess,
    /// Locks outlive their process.
    #[cfg(test)]
    DiskKeepsLocks,
    /// The disk is never full.
    #[cfg(test)]
    DiskNeverFull,
    /// A seed gives another outcome each time.
    #[cfg(test)]
    DiskForgetsSeed,
}

/// Returns whether a bug is there: never, in the program.
#[cfg(not(test))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

/// Returns whether a bug is there.
#[cfg(test)]
pub(crate) fn planted(bug: Bug) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = std::env::var("HEADWATER_BUG").ok()?;
        let found = ALL.iter().find(|bug| format!("{bug:?}") == name);
        Some(*found.unwrap_or_else(|| panic!("there is no bug {name}")))
    });
    *chosen == Some(bug)
}
