//! VolumeRestrictions: a claim for one pod alone (`ReadWriteOncePod`) is mounted by one pod.

use crate::scheduler::framework::{Context, CycleState, Filter, Plugin, Prepared, Reason, Refusal};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{ClusterEvent, EventKinds, NodeTable, Row};

struct VolumeRestrictions;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&VolumeRestrictions),
    describe: |_, _| {
        "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode".into()
    },
    ..Plugin::new("VolumeRestrictions")
};

impl Filter for VolumeRestrictions {
    fn pre_filter(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Result<Prepared, Reason> {
        let alone = |name: &str| {
            let claim = nodes.volumes().claim(&pod.namespace, name).and_then(|claim| claim.spec.as_ref());
            claim.is_some_and(|spec| spec.access_modes.iter().flatten().any(|mode| mode == "ReadWriteOncePod"))
        };
        let claims: Vec<&str> =
            pod.mounts.claims.iter().map(|claim| claim.name.as_str()).filter(|name| alone(name)).collect();
        if pod.mounts.claims.is_empty() {
            return Ok(Prepared::Skip);
        }
        state.write(Taken(claims.iter().any(|name| nodes.mounts(&pod.namespace, name))));
        Ok(Prepared::PerCluster)
    }

    fn filter(&self, cx: &Context<'_>, _: Row) -> Result<(), Refusal> {
        let Taken(taken) = cx.state.read();
        if *taken { Err(Refusal::resolvable(Reason(0))) } else { Ok(()) }
    }

    fn events(&self) -> EventKinds {
        EventKinds::POD_DELETE.or(EventKinds::POD_UPDATE).or(EventKinds::OTHER)
    }

    /// The pod that goes may be on any node.
    fn queueing_hint(&self, _: &Context<'_>, _: ClusterEvent) -> bool {
        true
    }
}

/// Whether another pod has one of the claims.
struct Taken(bool);
