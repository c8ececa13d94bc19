//! NodePorts: a port of the node belongs to one pod at a time, per protocol and address.

use crate::scheduler::framework::{Context, CycleState, Filter, Plugin, Prepared, Reason, Refusal};
use crate::scheduler::pod::{HostPort, SchedulingSpec};
use crate::scheduler::table::{EventKinds, NodeTable, Row};

struct NodePorts;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&NodePorts),
    describe: |_, _| "node(s) didn't have free ports for the requested pod ports".into(),
    ..Plugin::new("NodePorts")
};

fn clash(a: &HostPort, b: &HostPort) -> bool {
    a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || a.1.is_empty() || b.1.is_empty())
}

impl Filter for NodePorts {
    fn pre_filter(&self, pod: &SchedulingSpec, _: &NodeTable, _: &mut CycleState) -> Result<Prepared, Reason> {
        Ok(if pod.ports.is_empty() { Prepared::Skip } else { Prepared::PerNode })
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        let taken = &cx.nodes.ports[row.index()];
        let clashes = cx.pod.ports.iter().any(|port| taken.iter().any(|other| clash(port, other)));
        if clashes { Err(Refusal::resolvable(Reason(0))) } else { Ok(()) }
    }

    fn events(&self) -> EventKinds {
        EventKinds::NODE_ADD.or(EventKinds::POD_DELETE).or(EventKinds::POD_UPDATE)
    }
}

#[cfg(test)]
mod tests {
    use crate::scheduler::testing::check_filter;

    #[test]
    fn a_port_is_taken_once_per_protocol_and_address() {
        let taken = "a: node(s) didn't have free ports for the requested pod ports";
        for (name, there, pod, expect) in [
            ("no port", "a: port=80", "", ""),
            ("free", "a: port=80", "port=81", ""),
            ("taken", "a: port=80", "port=80", taken),
            ("another protocol", "a: port=80", "port=80/UDP", ""),
            ("two addresses", "a: port=80@10.0.0.1", "port=80@10.0.0.2", ""),
            ("all addresses against one", "a: port=80@10.0.0.1", "port=80", taken),
            ("one address against all", "a: port=80@0.0.0.0", "port=80@10.0.0.1", taken),
        ] {
            check_filter(name, &super::PLUGIN, "a", there, pod, expect);
        }
    }
}
