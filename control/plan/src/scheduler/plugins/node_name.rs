//! NodeName: a pod that names a node goes there or nowhere.

use crate::scheduler::framework::{Context, CycleState, Filter, Plugin, Prepared, Reason, Refusal};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{EventKinds, NodeTable, Row};

struct NodeName;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&NodeName),
    describe: |_, _| "node(s) didn't match the requested node name".into(),
    ..Plugin::new("NodeName")
};

impl Filter for NodeName {
    fn pre_filter(&self, pod: &SchedulingSpec, _: &NodeTable, _: &mut CycleState) -> Result<Prepared, Reason> {
        Ok(if pod.node_name.is_none() { Prepared::Skip } else { Prepared::PerNode })
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        let named = cx.pod.node_name.as_ref().is_none_or(|name| **name == **cx.nodes.name(row));
        if named { Ok(()) } else { Err(Refusal::unresolvable(Reason(0))) }
    }

    fn events(&self) -> EventKinds {
        EventKinds::NODE_ADD
    }
}

#[cfg(test)]
mod tests {
    use crate::scheduler::testing::check_filter;

    #[test]
    fn only_the_node_that_is_named_will_do() {
        for (name, pod, expect) in [
            ("none named", "", ""),
            ("one of two", "on=a", "b: node(s) didn't match the requested node name!"),
            (
                "one that is not there",
                "on=c",
                "a: node(s) didn't match the requested node name!, b: node(s) didn't match the requested node name!",
            ),
        ] {
            check_filter(name, &super::PLUGIN, "a, b", "", pod, expect);
        }
    }
}
