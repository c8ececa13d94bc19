//! NodeResourcesBalancedAllocation: processor and memory should fill up alike.

use super::utilization::with_pod;
use crate::scheduler::framework::{Context, MAX_SCORE, Plugin, Score};
use crate::scheduler::table::Row;

struct BalancedAllocation;

pub(super) static PLUGIN: Plugin =
    Plugin { score: Some(&BalancedAllocation), ..Plugin::new("NodeResourcesBalancedAllocation") };

impl Score for BalancedAllocation {
    fn score(&self, cx: &Context<'_>, row: Row) -> i64 {
        let (cpu, memory) = with_pod(cx, row);
        (1000 - (cpu - memory).abs() / 2) * MAX_SCORE / 1000
    }
}

#[cfg(test)]
mod tests {
    use crate::scheduler::testing::check_score;

    #[test]
    fn alike_is_best() {
        for (name, there, expect) in [("balanced", "", [100, 100]), ("all processor", "a: cpu=3 memory=1", [62, 100])] {
            check_score(name, &super::PLUGIN, "a, b", there, "cpu=1 memory=2Gi", &expect);
        }
    }
}
