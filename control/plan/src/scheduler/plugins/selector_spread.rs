//! SelectorSpread: pods of one workload, or of one Service, should not share a node.

use super::normalize;
use crate::scheduler::framework::{Context, CycleState, Plugin, Prepared, Score};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{NodeTable, Row};

struct SelectorSpread;

pub(super) static PLUGIN: Plugin = Plugin { score: Some(&SelectorSpread), weight: 2, ..Plugin::new("SelectorSpread") };

impl Score for SelectorSpread {
    fn pre_score(&self, pod: &SchedulingSpec, _: &NodeTable, _: &mut CycleState) -> Prepared {
        if pod.groups.is_empty() { Prepared::Skip } else { Prepared::PerNode }
    }

    fn score(&self, cx: &Context<'_>, row: Row) -> i64 {
        let there = &cx.nodes.groups[row.index()];
        let count = |group: &u64| there.binary_search_by_key(group, |(key, _)| *key).ok().map(|at| there[at].1);
        cx.pod.groups.iter().filter_map(count).map(i64::from).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize::lowest(scores);
    }
}

#[cfg(test)]
mod tests {
    use crate::scheduler::testing::check_score;

    #[test]
    fn the_fewer_of_its_kind_the_better() {
        for (name, there, expect) in [("none anywhere", "", [100, 100, 100]), ("some", "a: , a: , b: ", [0, 50, 100])] {
            check_score(name, &super::PLUGIN, "a, b, c", there, "", &expect);
        }
    }
}
