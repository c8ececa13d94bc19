//! Feature levels: which commands the log may hold, and which forms data on disk and between members has.
//!
//! A program knows every level up to its newest. The group's level is part of the state: it rises by a command in the
//! log, once all members have said that they know it, and never falls. So new behaviour begins at one entry of the
//! log, the same on all members; until then everything is written as programs of the level before wrote it, and a
//! member can be put back to one of them.
//!
//! To add a level: a row in [`Level::BRINGS`], and a look at the state's level where the new thing is written. What it
//! was before stays readable.

/// A feature level of the group, or the newest one that a program knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Level(pub u32);

impl Level {
    /// What programs spoke that knew of no levels.
    pub const FIRST: Self = Self(0);
    /// Leases end together in one command; the state's record, snapshots and appends name the level, and the first
    /// two a digest of the state.
    pub const DIGESTS: Self = Self(1);
    /// The newest that this program knows.
    pub const NEWEST: Self = Self::DIGESTS;

    /// What each level brought, for people.
    pub const BRINGS: &'static [&'static str] =
        &["as before feature levels", "leases that end together, digests of the state"];

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_says_what_it_brought() {
        assert_eq!(Level::BRINGS.len(), Level::NEWEST.0 as usize + 1);
    }
}
