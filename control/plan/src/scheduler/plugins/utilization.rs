//! How full a node would be with the pod on it.

use crate::scheduler::framework::Context;
use crate::scheduler::table::Row;

/// Shares of processor and memory in use, in thousandths.
pub(super) fn with_pod(cx: &Context<'_>, row: Row) -> (i64, i64) {
    let share = |ask: i64, used: i64, have: i64| {
        if have <= 0 { 1000 } else { (i128::from(used + ask) * 1000 / i128::from(have)).clamp(0, 1000) as i64 }
    };
    let (ask, used, have, at) =
        (&cx.pod.non_zero_requests, &cx.nodes.non_zero_requested, &cx.nodes.allocatable, row.index());
    (share(ask.milli_cpu, used.milli_cpu[at], have.milli_cpu[at]), share(ask.memory, used.memory[at], have.memory[at]))
}
