//! Why a plugin refuses a node: numbers while nodes are judged, words once at the end.

/// One of a plugin's reasons. The number means something to that plugin alone, which puts it into
/// words ([`super::Plugin::describe`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason(pub u32);

/// The refusal of one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    first: Reason,
    more: Vec<Reason>,
    /// Whether the node would refuse the pod even if it were empty: no preemption helps.
    pub unresolvable: bool,
}

impl Refusal {
    /// A refusal that other pods' going may lift.
    #[must_use]
    pub fn resolvable(reason: Reason) -> Self {
        Self { first: reason, more: Vec::new(), unresolvable: false }
    }

    /// A refusal whatever pods there are.
    #[must_use]
    pub fn unresolvable(reason: Reason) -> Self {
        Self { unresolvable: true, ..Self::resolvable(reason) }
    }

    /// The same refusal, for one reason more.
    #[must_use]
    pub fn and(mut self, reason: Reason) -> Self {
        self.more.push(reason);
        self
    }

    /// All its reasons.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> {
        std::iter::once(self.first).chain(self.more.iter().copied())
    }
}
