//! NodeVolumeLimits: a node mounts so many volumes of a driver.

use std::collections::{BTreeMap, BTreeSet};

use crate::scheduler::framework::{Context, CycleState, Filter, Plugin, Prepared, Reason, Refusal};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{ClusterEvent, EventKinds, NodeTable, Row};

struct NodeVolumeLimits;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&NodeVolumeLimits),
    describe: |_, _| "node(s) exceed max volume count".into(),
    ..Plugin::new("NodeVolumeLimits")
};

/// Volumes by driver.
type Attached = BTreeMap<String, BTreeSet<String>>;

fn attach(pod: &SchedulingSpec, nodes: &NodeTable, attached: &mut Attached) {
    let volumes = nodes.volumes();
    let claims = pod.mounts.claims.iter().filter_map(|claim| volumes.claim(&pod.namespace, &claim.name));
    let claimed = claims.filter_map(|claim| volumes.attachment(claim));
    for (driver, handle) in claimed.chain(pod.mounts.inline.iter().cloned()) {
        attached.entry(driver).or_default().insert(handle);
    }
}

impl Filter for NodeVolumeLimits {
    fn pre_filter(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Result<Prepared, Reason> {
        if pod.mounts.claims.is_empty() && pod.mounts.inline.is_empty() {
            return Ok(Prepared::Skip);
        }
        let mut wanted = Attached::new();
        attach(pod, nodes, &mut wanted);
        state.write(wanted);
        Ok(Prepared::PerCluster)
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        let wanted: &Attached = cx.state.read();
        let Some(limits) = cx.nodes.volumes().limits(cx.nodes.name(row)).filter(|_| !wanted.is_empty()) else {
            return Ok(());
        };
        let mut attached = Attached::new();
        for pod in &cx.nodes.pods[row.index()] {
            attach(&pod.spec, cx.nodes, &mut attached);
        }
        let exceeds = wanted.iter().any(|(driver, handles)| {
            let there = attached.get(driver);
            let new = handles.iter().filter(|handle| there.is_none_or(|there| !there.contains(*handle))).count();
            let limit = limits.get(driver).copied().unwrap_or(usize::MAX);
            new > 0 && there.map_or(0, BTreeSet::len) + new > limit
        });
        if exceeds { Err(Refusal::resolvable(Reason(0))) } else { Ok(()) }
    }

    fn events(&self) -> EventKinds {
        EventKinds::NODE_ADD.or(EventKinds::POD_DELETE).or(EventKinds::POD_UPDATE).or(EventKinds::OTHER)
    }

    fn queueing_hint(&self, _: &Context<'_>, _: ClusterEvent) -> bool {
        true
    }
}
