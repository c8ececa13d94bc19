//! VolumeZone: a volume that is labelled with a zone or region is reached from there.

use crate::scheduler::framework::{Context, CycleState, Filter, Plugin, Prepared, Reason, Refusal};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{ClusterEvent, EventKinds, NodeTable, Row, lookup};
use crate::storage::binder::volume_of;

struct VolumeZone;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&VolumeZone),
    describe: |_, _| "node(s) had no available volume zone".into(),
    ..Plugin::new("VolumeZone")
};

/// Labels of zones and regions, each with its older name.
const KEYS: [(&str, &str); 2] = [
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
];

/// What nodes must be labelled with: a key, and one of the values.
struct Places(Vec<(String, Vec<String>)>);

fn value<'a>(nodes: &'a NodeTable, row: Row, key: &str) -> Option<&'a str> {
    let word = lookup(&nodes.labels[row.index()], nodes.words().get(key)?)?;
    Some(nodes.words().text(word))
}

impl Filter for VolumeZone {
    fn pre_filter(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Result<Prepared, Reason> {
        let volumes = nodes.volumes();
        let mut places = Vec::new();
        for claim in pod.mounts.claims.iter().filter_map(|claim| volumes.claim(&pod.namespace, &claim.name)) {
            let labels = volume_of(claim).and_then(|name| volumes.volume(name)?.metadata.labels.as_ref());
            let said = KEYS.into_iter().flat_map(|(new, old)| [new, old]);
            for (key, zones) in said.filter_map(|key| Some((key, labels?.get(key)?))) {
                places.push((key.to_owned(), zones.split("__").map(str::to_owned).collect()));
            }
        }
        if pod.mounts.claims.is_empty() {
            return Ok(Prepared::Skip);
        }
        state.write(Places(places));
        Ok(Prepared::PerCluster)
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        let Places(places) = cx.state.read();
        // A cluster without zones is one zone.
        let zoned = KEYS.iter().flat_map(|(new, old)| [new, old]).any(|key| value(cx.nodes, row, key).is_some());
        let newer = |key: &str| KEYS.iter().find(|(_, old)| *old == key).map(|(new, _)| *new);
        let reached = places.iter().all(|(key, zones)| {
            let here = value(cx.nodes, row, key).or_else(|| value(cx.nodes, row, newer(key)?));
            here.is_some_and(|here| zones.iter().any(|zone| zone == here))
        });
        if !zoned || reached { Ok(()) } else { Err(Refusal::unresolvable(Reason(0))) }
    }

    fn events(&self) -> EventKinds {
        EventKinds::NODE_ADD.or(EventKinds::NODE_LABEL).or(EventKinds::OTHER)
    }

    fn queueing_hint(&self, _: &Context<'_>, _: ClusterEvent) -> bool {
        true
    }
}
