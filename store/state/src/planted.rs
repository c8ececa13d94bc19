//! Plausible mistakes in the store's own code, put in on purpose, so that those who check the store
//! can be checked. Without the cargo feature `planted-bugs` none of it exists.

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Bug {
    /// Log entries are reported durable when they are written, not when they are synced.
    AckBeforeSync,
    /// The vote is kept in memory only.
    VoteNotPersisted,
    /// The end of the log is cut off in memory only.
    LostTruncate,
    /// A linearizable read asks nobody.
    StaleRead,
    /// A watch goes live one revision too early.
    SkippedWatchEvent,
    /// Expiry looks at the clock of whoever applies it.
    ApplyReadsClock,
    /// A snapshot leaves out its last row.
    SnapshotDropsKey,
    /// A snapshot does not wait for rows that are still on their way to the disk.
    SnapshotBeforeRows,
    /// A transaction that only deletes does not take a revision of its own.
    RevisionReused,
    /// A command whose answer was lost is sent again.
    DuplicateApply,
    /// A lost answer is reported as "did not happen".
    UnknownAsFailed,
    /// The fence of a transaction is not looked at.
    FenceIgnored,
    /// Keys expire some time before they should.
    LeaseExpiresEarly,
    /// The applied index is written before the rows it stands for.
    TornApply,
    /// Compaction removes rows that are still current.
    SweepsLiveRows,
    /// One value becomes another than the log says.
    StateDiverges,
    /// After an installed snapshot watches go on without looking at what it brought.
    WatchSkipsSnapshot,
}

impl Bug {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::AckBeforeSync,
        Self::VoteNotPersisted,
        Self::LostTruncate,
        Self::StaleRead,
        Self::SkippedWatchEvent,
        Self::ApplyReadsClock,
        Self::SnapshotDropsKey,
        Self::SnapshotBeforeRows,
        Self::RevisionReused,
        Self::DuplicateApply,
        Self::UnknownAsFailed,
        Self::FenceIgnored,
        Self::LeaseExpiresEarly,
        Self::TornApply,
        Self::SweepsLiveRows,
        Self::WatchSkipsSnapshot,
        Self::StateDiverges,
    ];

    /// The name it goes by in the environment.
    #[must_use]
    pub fn name(self) -> String {
        let mut name = String::new();
        for (at, letter) in format!("{self:?}").char_indices() {
            if letter.is_uppercase() && at > 0 {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }
}

/// Whether a mistake is to be made.
#[cfg(not(feature = "planted-bugs"))]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use switch::{from_environment, is, plant};

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::{
        cell::Cell,
        sync::atomic::{AtomicU8, Ordering},
    };

    use super::Bug;

    /// Place in `Bug::ALL` plus one.
    static PROCESS: AtomicU8 = AtomicU8::new(0);

    thread_local! {
        static THREAD: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    pub fn is(bug: Bug) -> bool {
        let process = PROCESS.load(Ordering::Relaxed);
        THREAD.get() == Some(bug) || (process != 0 && Bug::ALL.get(usize::from(process) - 1) == Some(&bug))
    }

    /// Makes a mistake from now on, in simulations on this thread; or none.
    pub fn plant(bug: Option<Bug>) {
        THREAD.set(bug);
    }

    /// Makes the mistake that `KONTIKI_PLANTED_BUG` names, in the whole process.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn from_environment() {
        let Ok(name) = std::env::var("KONTIKI_PLANTED_BUG") else { return };
        let at = Bug::ALL.iter().position(|bug| bug.name() == name);
        let at = at.unwrap_or_else(|| panic!("no planted bug is called {name:?}"));
        PROCESS.store(u8::try_from(at + 1).unwrap_or(0), Ordering::Relaxed);
        tracing::warn!(%name, "a mistake is made on purpose");
    }
}
