//! VolumeBinding: the volumes that a pod has are reached from the node, and those that it still waits for can be had
//! there.
//!
//! A claim whose class waits for its first consumer gets its volume once a node is chosen: one that is there already
//! and fits, or one that is made for that node. Both are asked for before the pod is bound, and the binding waits.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use kontiki_model::selector::{Operator, Requirement};
use serde_json::json;

use super::node_affinity::Required;
use crate::action::{Action, Patch, patch};
use crate::affinity::{NodeTerm, terms};
use crate::object::{annotation, controlled_by, deleting, name, namespace};
use crate::scheduler::NodeName;
use crate::scheduler::framework::{Context, CycleState, Filter, Plugin, PreBind, Prepared, Reason, Refusal, Reserve};
use crate::scheduler::pod::{PodInfo, SchedulingSpec};
use crate::scheduler::table::{ClusterEvent, EventKinds, NodeTable, Row};
use crate::scheduler::volumes::{ClaimKey, PodClaim};
use crate::storage::binder::claim::set_volume_aside;
use crate::storage::binder::{SELECTED_NODE, best_of, class_of_claim, unbound, volume_of};

struct VolumeBinding;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&VolumeBinding),
    reserve: Some(&VolumeBinding),
    pre_bind: Some(&VolumeBinding),
    describe,
    ..Plugin::new("VolumeBinding")
};

const NO_VOLUME: Reason = Reason(0);
const ELSEWHERE: Reason = Reason(1);
const LOST_VOLUME: Reason = Reason(2);
const UNBOUND: Reason = Reason(3);
/// From here on: what is wrong with each of the pod's claims, in their order.
const CLAIMS: u32 = 4;

fn describe(cx: &Context<'_>, reason: Reason) -> String {
    let text = match reason {
        NO_VOLUME => "node(s) didn't find available persistent volumes to bind",
        ELSEWHERE => "node(s) didn't match PersistentVolume's node affinity",
        LOST_VOLUME => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
        UNBOUND => "pod has unbound immediate PersistentVolumeClaims",
        Reason(number) => {
            let at = number.saturating_sub(CLAIMS) as usize;
            let claim = cx.pod.mounts.claims.get(at);
            return claim.and_then(|claim| trouble(cx.pod, cx.nodes, claim)).unwrap_or_default();
        }
    };
    text.into()
}

/// What is wrong with a claim on any node.
fn trouble(pod: &SchedulingSpec, nodes: &NodeTable, want: &PodClaim) -> Option<String> {
    let shown = &want.name;
    let Some(claim) = nodes.volumes().claim(&pod.namespace, &want.name) else {
        return Some(match want.made_for {
            Some(_) => {
                format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{shown}\"")
            }
            None => format!("persistentvolumeclaim \"{shown}\" not found"),
        });
    };
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
        let volume = volume_of(claim).unwrap_or_default();
        return Some(format!("persistentvolumeclaim \"{shown}\" bound to non-existent persistentvolume \"{volume}\""));
    }
    if deleting(&claim.metadata) {
        return Some(format!("persistentvolumeclaim \"{shown}\" is being deleted"));
    }
    let (pod_name, pod_uid) = want.made_for.as_ref()?;
    let space = &pod.namespace;
    (!controlled_by(&claim.metadata, pod_uid))
        .then(|| format!("PVC {space}/{shown} was not created for pod {space}/{pod_name} (pod is not owner)"))
}

/// A volume that a claim has, and which nodes reach it.
struct Bound {
    there: bool,
    /// `None`: all.
    reach: Option<Required>,
}

/// A claim that waits for the pod, with the volumes that it could have and which nodes reach each.
struct Waiting {
    claim: Arc<PersistentVolumeClaim>,
    choices: Vec<(Arc<PersistentVolume>, Option<Required>)>,
    /// Where a volume can be made for it: `None`: nowhere; without a requirement: everywhere.
    makes: Option<Option<Required>>,
}

struct Claims {
    bound: Vec<Bound>,
    waiting: Vec<Waiting>,
}

fn reach(volume: &PersistentVolume, nodes: &NodeTable) -> Option<Required> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    Some(Required::of_terms(&terms(required), nodes))
}

fn reached(by: Option<&Required>, nodes: &NodeTable, row: Row) -> bool {
    by.is_none_or(|required| required.matches(nodes, row))
}

fn topologies(terms: &[TopologySelectorTerm]) -> Vec<NodeTerm> {
    let requirement =
        |key: &str, values: &[String]| Requirement { key: key.to_owned(), operator: Operator::In(values.to_vec()) };
    let term = |term: &TopologySelectorTerm| NodeTerm {
        labels: term.match_label_expressions.iter().flatten().map(|e| requirement(&e.key, &e.values)).collect(),
        fields: Vec::new(),
    };
    terms.iter().map(term).collect()
}

impl Waiting {
    fn new(claim: &Arc<PersistentVolumeClaim>, nodes: &NodeTable) -> Self {
        let volumes = nodes.volumes();
        let fitting = best_of(claim, volumes.free());
        let choices = fitting.into_iter().map(|volume| (volume.clone(), reach(volume, nodes))).collect();
        let class = volumes.class(class_of_claim(claim));
        let makes = class.filter(|class| class.provisioner != "kubernetes.io/no-provisioner").map(|class| {
            let allowed = class.allowed_topologies.as_deref().filter(|terms| !terms.is_empty());
            allowed.map(|allowed| Required::of_terms(&topologies(allowed), nodes))
        });
        Self { claim: claim.clone(), choices, makes }
    }

    /// What is to be done for the claim on a node; `None`: it cannot be had there.
    fn on(&self, nodes: &NodeTable, row: Row, taken: &[String]) -> Option<Choice> {
        if let Some(selected) = annotation(&self.claim.metadata, SELECTED_NODE) {
            return (selected == &**nodes.name(row)).then_some(Choice::Make);
        }
        let free = |volume: &PersistentVolume| !taken.iter().any(|other| other == name(&volume.metadata));
        let fits = |(volume, by): &&(Arc<PersistentVolume>, Option<Required>)| {
            free(volume) && reached(by.as_ref(), nodes, row)
        };
        if let Some((volume, _)) = self.choices.iter().find(fits) {
            return Some(Choice::Take(volume.clone()));
        }
        let makes = self.makes.as_ref()?;
        reached(makes.as_ref(), nodes, row).then_some(Choice::Make)
    }
}

/// How a claim gets its volume.
#[derive(Clone)]
enum Choice {
    Take(Arc<PersistentVolume>),
    Make,
}

/// What every claim that waits gets on a node; `None`: one of them gets nothing.
fn choose(waiting: &[Waiting], nodes: &NodeTable, row: Row) -> Option<Vec<Choice>> {
    let (mut taken, mut choices) = (Vec::new(), Vec::new());
    for claim in waiting {
        let choice = claim.on(nodes, row, &taken)?;
        if let Choice::Take(volume) = &choice {
            taken.push(name(&volume.metadata).to_owned());
        }
        choices.push(choice);
    }
    Some(choices)
}

impl Filter for VolumeBinding {
    fn pre_filter(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Result<Prepared, Reason> {
        if pod.mounts.claims.is_empty() {
            return Ok(Prepared::Skip);
        }
        if let Some((_, number)) =
            pod.mounts.claims.iter().zip(CLAIMS..).find(|(claim, _)| trouble(pod, nodes, claim).is_some())
        {
            return Err(Reason(number));
        }
        let volumes = nodes.volumes();
        let mut claims = Claims { bound: Vec::new(), waiting: Vec::new() };
        for claim in pod.mounts.claims.iter().filter_map(|claim| volumes.claim(&pod.namespace, &claim.name)) {
            let class = volumes.class(class_of_claim(claim));
            let mode = class.and_then(|class| class.volume_binding_mode.as_deref());
            match volume_of(claim) {
                Some(wanted) if !unbound(claim) => {
                    let volume = volumes.volume(wanted);
                    claims
                        .bound
                        .push(Bound { there: volume.is_some(), reach: volume.and_then(|volume| reach(volume, nodes)) });
                }
                None if mode == Some("WaitForFirstConsumer") => claims.waiting.push(Waiting::new(claim, nodes)),
                _ => return Err(UNBOUND),
            }
        }
        state.write(claims);
        Ok(Prepared::PerCluster)
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        let Claims { bound, waiting } = cx.state.read();
        if bound.iter().any(|bound| !bound.there) {
            return Err(Refusal::unresolvable(LOST_VOLUME));
        }
        let elsewhere = bound.iter().any(|bound| !reached(bound.reach.as_ref(), cx.nodes, row));
        let missing = choose(waiting, cx.nodes, row).is_none();
        match (elsewhere, missing) {
            (false, false) => Ok(()),
            (true, false) => Err(Refusal::unresolvable(ELSEWHERE)),
            (false, true) => Err(Refusal::unresolvable(NO_VOLUME)),
            (true, true) => Err(Refusal::unresolvable(ELSEWHERE).and(NO_VOLUME)),
        }
    }

    fn events(&self) -> EventKinds {
        EventKinds::NODE_ADD.or(EventKinds::NODE_LABEL).or(EventKinds::OTHER)
    }

    fn queueing_hint(&self, _: &Context<'_>, _: ClusterEvent) -> bool {
        true
    }
}

/// What was chosen for the pod on its node.
struct Chosen(Vec<(Arc<PersistentVolumeClaim>, Choice)>);

fn key(claim: &PersistentVolumeClaim) -> ClaimKey {
    (namespace(&claim.metadata).to_owned(), name(&claim.metadata).to_owned())
}

impl Reserve for VolumeBinding {
    fn reserve(
        &self,
        nodes: &mut NodeTable,
        state: &mut CycleState,
        _: &PodInfo,
        node: &NodeName,
    ) -> Result<(), Reason> {
        let Some(claims) = state.get::<Claims>() else { return Ok(()) };
        let choices = nodes.row_of(node).and_then(|row| choose(&claims.waiting, nodes, row)).ok_or(NO_VOLUME)?;
        let chosen: Vec<_> = claims.waiting.iter().map(|waiting| waiting.claim.clone()).zip(choices).collect();
        for (claim, choice) in &chosen {
            if let Choice::Take(volume) = choice {
                nodes.change_volumes(|volumes| volumes.choose(name(&volume.metadata), &key(claim)));
            }
        }
        state.write(Chosen(chosen));
        Ok(())
    }

    fn unreserve(&self, nodes: &mut NodeTable, state: &mut CycleState, _: &PodInfo, _: &NodeName) {
        let Some(Chosen(chosen)) = state.get() else { return };
        for (_, choice) in chosen {
            if let Choice::Take(volume) = choice {
                nodes.change_volumes(|volumes| volumes.give_back(name(&volume.metadata)));
            }
        }
    }
}

impl PreBind for VolumeBinding {
    fn pre_bind(&self, state: &CycleState, _: &PodInfo, node: &NodeName) -> Vec<Patch> {
        let Some(Chosen(chosen)) = state.get() else { return Vec::new() };
        let select = |claim: &Arc<PersistentVolumeClaim>| {
            let annotations = json!({SELECTED_NODE: &**node});
            patch(claim.as_ref(), None, json!({"metadata": {"annotations": annotations}}))
        };
        let actions = chosen.iter().filter_map(|(claim, choice)| match choice {
            Choice::Take(volume) => set_volume_aside(claim, volume),
            // Somebody makes it already.
            Choice::Make if annotation(&claim.metadata, SELECTED_NODE).is_some() => None,
            Choice::Make => Some(select(claim)),
        });
        actions.filter_map(|action| if let Action::Patch(patch) = action { Some(patch) } else { None }).collect()
    }

    fn awaited(&self, state: &CycleState) -> Vec<ClaimKey> {
        let Some(Chosen(chosen)) = state.get() else { return Vec::new() };
        chosen.iter().map(|(claim, _)| key(claim)).collect()
    }
}

#[cfg(test)]
mod tests;
