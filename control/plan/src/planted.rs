//! Plausible mistakes in plans, put in on purpose, so that who walks through every kill (`chaos-tests/walk`) can be
//! checked. Without the cargo feature `planted-bugs` none of it exists.

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A Job lets go of pods that have ended before its status names them.
    UncountedPods,
    /// A CronJob notes that a time has come before it makes its Job.
    EagerSchedule,
    /// An owner that leaves orphans goes before they lose it.
    HastyOwner,
}

impl Bug {
    /// All of them.
    pub const ALL: &[Self] = &[Self::UncountedPods, Self::EagerSchedule, Self::HastyOwner];
}

/// Whether a mistake is to be made.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use switch::{is, plant};

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static THREAD: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether a mistake is to be made.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        THREAD.get() == Some(bug)
    }

    /// Makes a mistake from now on, on this thread; or none.
    pub fn plant(bug: Option<Bug>) {
        THREAD.set(bug);
    }
}
