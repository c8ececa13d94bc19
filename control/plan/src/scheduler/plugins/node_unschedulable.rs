//! NodeUnschedulable: a cordoned node takes only pods that tolerate that.

use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerated;
use crate::scheduler::framework::{Context, CycleState, Filter, Plugin, Prepared, Reason, Refusal};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{EventKinds, NodeTable, Row};

struct NodeUnschedulable;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&NodeUnschedulable),
    describe: |_, _| "node(s) were unschedulable".into(),
    ..Plugin::new("NodeUnschedulable")
};

impl Filter for NodeUnschedulable {
    fn pre_filter(&self, pod: &SchedulingSpec, _: &NodeTable, _: &mut CycleState) -> Result<Prepared, Reason> {
        let (key, effect) = ("node.kubernetes.io/unschedulable".into(), "NoSchedule".into());
        let cordon = Taint { key, effect, ..Taint::default() };
        Ok(if tolerated(&pod.tolerations, &cordon) { Prepared::Skip } else { Prepared::PerNode })
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        if cx.nodes.unschedulable[row.index()] { Err(Refusal::unresolvable(Reason(0))) } else { Ok(()) }
    }

    fn events(&self) -> EventKinds {
        EventKinds::NODE_ADD.or(EventKinds::NODE_TAINT)
    }
}

#[cfg(test)]
mod tests {
    use crate::scheduler::testing::check_filter;

    #[test]
    fn a_cordoned_node_takes_no_pod_that_does_not_tolerate_it() {
        for (name, nodes, pod, expect) in [
            ("cordoned", "a cordon", "", "a: node(s) were unschedulable!"),
            ("open", "a", "", ""),
            ("tolerated", "a cordon", "tolerate=node.kubernetes.io/unschedulable", ""),
            ("another tolerated", "a cordon", "tolerate=other", "a: node(s) were unschedulable!"),
        ] {
            check_filter(name, &super::PLUGIN, nodes, "", pod, expect);
        }
    }
}
