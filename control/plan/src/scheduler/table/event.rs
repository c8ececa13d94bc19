//! What changed in the table, as far as it may help a pod that fits nowhere.

use super::Row;

/// Kinds of change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EventKinds(u16);

impl EventKinds {
    /// A node came.
    pub const NODE_ADD: Self = Self(1);
    /// A node has more or less for pods.
    pub const NODE_ALLOCATABLE: Self = Self(1 << 1);
    /// A node's labels are others.
    pub const NODE_LABEL: Self = Self(1 << 2);
    /// A node's taints are others, or it was cordoned or uncordoned.
    pub const NODE_TAINT: Self = Self(1 << 3);
    /// A pod on a node went.
    pub const POD_DELETE: Self = Self(1 << 4);
    /// A pod on a node takes up more or less.
    pub const POD_UPDATE: Self = Self(1 << 5);

    /// A pod came to a node.
    pub const POD_ADD: Self = Self(1 << 6);
    /// A node went, and its pods with it.
    pub const NODE_DELETE: Self = Self(1 << 8);
    /// Something that belongs to no node changed: volumes, claims, labels of namespaces.
    pub const OTHER: Self = Self(1 << 7);

    /// Either's kinds.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These kinds if `happened`, else none.
    #[must_use]
    pub fn when(self, happened: bool) -> Self {
        if happened { self } else { Self::default() }
    }

    /// Whether they have any in common.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What happened to one node, or to pods on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterEvent {
    /// Which node; any, if it happened to none.
    pub row: Row,
    /// What.
    pub kinds: EventKinds,
}

impl ClusterEvent {
    /// What happened to a node; `None`: nothing.
    #[must_use]
    pub fn new(row: Row, kinds: EventKinds) -> Option<Self> {
        (!kinds.is_empty()).then_some(Self { row, kinds })
    }

    /// Something happened that belongs to no node.
    #[must_use]
    pub fn other() -> Self {
        Self { row: Row(u32::MAX), kinds: EventKinds::OTHER }
    }

    /// The same events, one per node.
    #[must_use]
    pub fn merge(mut events: Vec<Self>) -> Vec<Self> {
        events.sort_by_key(|event| event.row);
        events.dedup_by(|later, first| {
            let same = later.row == first.row;
            first.kinds = first.kinds.or(later.kinds.when(same));
            same
        });
        events
    }
}
