//! TaintToleration: taints that forbid keep pods away that do not tolerate them; taints that only
//! prefer others make a node worse.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::normalize;
use crate::scheduler::framework::{Context, Filter, Plugin, Reason, Refusal, Score};
use crate::scheduler::table::{EventKinds, NodeTable, NodeTaint, Row};
use crate::taint_eviction::tolerates;

struct TaintToleration;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&TaintToleration),
    score: Some(&TaintToleration),
    weight: 3,
    describe: |cx, reason| format!("node(s) had untolerated taint {}", cx.nodes.words().text_of(reason.0)),
    ..Plugin::new("TaintToleration")
};

pub(super) fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// The first taint of a node that keeps pods with these tolerations away.
pub(super) fn forbidding<'a>(nodes: &'a NodeTable, row: Row, tolerations: &[Toleration]) -> Option<&'a NodeTaint> {
    let taints = nodes.taints[row.index()].iter();
    let mut hard = taints.filter(|taint| matches!(taint.taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.find(|taint| !tolerated(tolerations, &taint.taint))
}

impl Filter for TaintToleration {
    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        // The reason is the taint: its word's number.
        match forbidding(cx.nodes, row, &cx.pod.tolerations) {
            Some(taint) => Err(Refusal::unresolvable(Reason(taint.shown.number()))),
            None => Ok(()),
        }
    }

    fn events(&self) -> EventKinds {
        EventKinds::NODE_ADD.or(EventKinds::NODE_TAINT)
    }
}

impl Score for TaintToleration {
    fn score(&self, cx: &Context<'_>, row: Row) -> i64 {
        let soft = cx.nodes.taints[row.index()].iter().filter(|taint| taint.taint.effect == "PreferNoSchedule");
        let bad = soft.filter(|taint| !tolerated(&cx.pod.tolerations, &taint.taint)).count();
        i64::try_from(bad).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize::lowest(scores);
    }
}

#[cfg(test)]
mod tests {
    use crate::scheduler::testing::{check_filter, check_score};

    #[test]
    fn a_taint_forbids_unless_tolerated() {
        for (name, nodes, pod, expect) in [
            ("none", "a", "", ""),
            ("one", "a taint=own:NoSchedule", "", "a: node(s) had untolerated taint {own: }!"),
            ("at once", "a taint=own=v:NoExecute", "", "a: node(s) had untolerated taint {own: v}!"),
            ("tolerated", "a taint=own:NoSchedule", "tolerate=own", ""),
            ("a soft one", "a taint=own:PreferNoSchedule", "", ""),
            (
                "the first of two",
                "a taint=x:NoSchedule taint=y:NoSchedule",
                "tolerate=x",
                "a: node(s) had untolerated taint {y: }!",
            ),
        ] {
            check_filter(name, &super::PLUGIN, nodes, "", pod, expect);
        }
    }

    #[test]
    fn the_fewer_soft_taints_the_better() {
        let nodes = "a taint=x:PreferNoSchedule taint=y:PreferNoSchedule, b taint=x:PreferNoSchedule, c";
        for (name, pod, expect) in
            [("none tolerated", "", [0, 50, 100]), ("one tolerated", "tolerate=x", [0, 100, 100])]
        {
            check_score(name, &super::PLUGIN, nodes, "", pod, &expect);
        }
    }
}
