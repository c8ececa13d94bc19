//! Whether this member leads, for tasks that only a leader does.

use crate::raft::{engine::Core, members::shows_own_term};
use kontiki_state::Term;

/// See [`leading`].
#[derive(Clone, Copy)]
pub(crate) enum Lead {
    Of(Term),
    /// A leader whose own term has nothing applied yet may not know all that was decided.
    Soon,
    No,
}

/// Whether this member leads, as far as it knows.
pub(crate) fn leading(core: &Core) -> Lead {
    core.metrics(|metrics| match metrics.state.is_leader() {
        true if shows_own_term(metrics) => Lead::Of(Term(metrics.current_term)),
        true => Lead::Soon,
        false => Lead::No,
    })
}
