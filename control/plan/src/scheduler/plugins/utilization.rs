//! How full a node would be with the pod on it.

use crate::scheduler::framework::Context;
use crate::scheduler::table::Row;

fn share(used: i64, have: i64) -> i64 {
    if have <= 0 {
        return 1000;
    }
    let share = match used.checked_mul(1000) {
        Some(product) => product / have,
        None => i64::try_from(i128::from(used) * 1000 / i128::from(have)).unwrap_or(i64::MAX),
    };
    share.clamp(0, 1000)
}

/// Shares of processor and memory in use, in thousandths.
pub(super) fn with_pod(cx: &Context<'_>, row: Row) -> (i64, i64) {
    let (ask, used, have, at) =
        (&cx.pod.non_zero_requests, &cx.nodes.non_zero_requested, &cx.nodes.allocatable, row.index());
    (
        share(used.milli_cpu[at].saturating_add(ask.milli_cpu), have.milli_cpu[at]),
        share(used.memory[at].saturating_add(ask.memory), have.memory[at]),
    )
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_share_is_of_what_there_is() {
        for (used, have, expect) in [
            (1, 4, 250),
            (0, 4, 0),
            (9, 4, 1000),
            (-1, 4, 0),
            (1, 0, 1000),
            (i64::MAX / 4, i64::MAX, 249),
            (i64::MAX, 1, 1000),
        ] {
            assert_eq!(share(used, have), expect, "{used} of {have}");
        }
    }
}
