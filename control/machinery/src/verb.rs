//! What can be done to a resource.

use serde::{Serialize, Serializer};

/// One verb, as authorization and discovery name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verb {
    /// Make an object, or act through a subresource.
    Create,
    /// Remove one object.
    Delete,
    /// Remove those that a list shows.
    DeleteCollection,
    /// Read one object.
    Get,
    /// Read many.
    List,
    /// Change parts of an object.
    Patch,
    /// Replace an object.
    Update,
    /// Follow changes.
    Watch,
}

impl Verb {
    /// All verbs, sorted by name.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Delete,
        Self::DeleteCollection,
        Self::Get,
        Self::List,
        Self::Patch,
        Self::Update,
        Self::Watch,
    ];

    /// The verb's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// A set of verbs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verbs(u8);

impl Verbs {
    /// Those of an ordinary kind.
    pub const ALL: Self = Self::of(&Verb::ALL);
    /// Those of a part of an object.
    pub const PART: Self = Self::of(&[Verb::Get, Verb::Patch, Verb::Update]);
    /// Those of what is asked or done rather than stored.
    pub const CREATE: Self = Self::of(&[Verb::Create]);

    /// The set of these verbs.
    #[must_use]
    pub const fn of(verbs: &[Verb]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < verbs.len() {
            bits |= 1 << verbs[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// The set without one verb.
    #[must_use]
    pub const fn without(self, verb: Verb) -> Self {
        Self(self.0 & !(1 << verb as u8))
    }

    /// Whether `verb` is in it.
    #[must_use]
    pub const fn contains(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u8) != 0
    }

    /// Its verbs, sorted by name.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.contains(*verb))
    }
}

impl Serialize for Verbs {
    /// As discovery lists them.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Verb::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_listed_by_name() {
        let names: Vec<&str> = Verbs::ALL.iter().map(Verb::as_str).collect();
        assert!(names.is_sorted() && names.len() == 8);
        assert_eq!(serde_json::json!(Verbs::PART), serde_json::json!(["get", "patch", "update"]));
        assert!(!Verbs::ALL.without(Verb::Watch).contains(Verb::Watch));
    }
}
