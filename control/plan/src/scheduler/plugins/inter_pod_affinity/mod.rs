//! InterPodAffinity: which pods a pod wants in its domain, which it does not, and which do not want it.
//!
//! A node is judged by the domains that it is in; how many pods of each kind a domain has is summed up from the
//! table's columns, once per decision.

use super::domains::{Domains, of_key};
use crate::scheduler::framework::{Context, CycleState, Filter, MAX_SCORE, Plugin, Prepared, Reason, Refusal, Score};
use crate::scheduler::peers::{CarriedTerm, Effect};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{ClusterEvent, EventKinds, NodeTable, Row, Tally};

struct InterPodAffinity;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&InterPodAffinity),
    score: Some(&InterPodAffinity),
    weight: 2,
    describe: |_, reason| {
        let text = match reason {
            AFFINITY => "node(s) didn't match pod affinity rules",
            ANTI_AFFINITY => "node(s) didn't match pod anti-affinity rules",
            _ => "node(s) didn't satisfy existing pods anti-affinity rules",
        };
        text.into()
    },
    ..Plugin::new("InterPodAffinity")
};

const AFFINITY: Reason = Reason(0);
const ANTI_AFFINITY: Reason = Reason(1);
const EXISTING: Reason = Reason(2);

/// What nodes are judged by.
#[derive(Default)]
struct Required {
    /// Where pods are that meet all terms of the affinity, by each term's key.
    affinity: Vec<Domains>,
    /// Whether there are none such anywhere and the pod is one itself: the first of its group.
    first: bool,
    /// Where pods are that the pod does not want near.
    anti: Vec<Domains>,
    /// Where pods are that do not want it.
    existing: Vec<(String, Domains)>,
}

/// The terms of pods that are there which concern a pod that comes.
fn concerning<'a>(pod: &'a SchedulingSpec, nodes: &'a NodeTable) -> impl Iterator<Item = (&'a CarriedTerm, &'a Tally)> {
    nodes.carried().filter(|(carried, _)| carried.term.query.matches(pod.subject(), nodes.namespaces()))
}

fn counted(key: &str, tally: &Tally, nodes: &NodeTable) -> Domains {
    let mut domains = Domains::new(key, nodes);
    domains.add_tally(nodes, tally, 1);
    domains
}

impl Filter for InterPodAffinity {
    fn pre_filter(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Result<Prepared, Reason> {
        let mut required = Required::default();
        for (carried, tally) in concerning(pod, nodes).filter(|(carried, _)| carried.effect == Effect::Forbids) {
            of_key(&mut required.existing, &carried.term.key, nodes).add_tally(nodes, tally, 1);
        }
        if let Some(query) = &pod.peers.affinity {
            let tally = nodes.tally(query);
            required.affinity = pod.peers.affinity_keys.iter().map(|key| counted(key, &tally, nodes)).collect();
            let none = required.affinity.iter().all(Domains::is_empty);
            required.first = none && query.matches(pod.subject(), nodes.namespaces());
        }
        let anti = pod.peers.anti.iter();
        required.anti = anti.map(|term| counted(&term.key, &nodes.tally(&term.query), nodes)).collect();
        if required.existing.is_empty() && required.affinity.is_empty() && required.anti.is_empty() {
            return Ok(Prepared::Skip);
        }
        state.write(required);
        Ok(Prepared::PerCluster)
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        let Required { affinity, first, anti, existing } = cx.state.read();
        let in_domains = affinity.iter().all(|domains| domains.of(cx.nodes, row).is_some());
        let near = affinity.iter().all(|domains| domains.at(cx.nodes, row) > 0);
        if !in_domains || !(near || *first) {
            return Err(Refusal::unresolvable(AFFINITY));
        }
        if anti.iter().any(|domains| domains.at(cx.nodes, row) > 0) {
            return Err(Refusal::resolvable(ANTI_AFFINITY));
        }
        if existing.iter().any(|(_, domains)| domains.at(cx.nodes, row) > 0) {
            return Err(Refusal::resolvable(EXISTING));
        }
        Ok(())
    }

    fn events(&self) -> EventKinds {
        let pods = EventKinds::POD_ADD.or(EventKinds::POD_DELETE).or(EventKinds::POD_UPDATE);
        pods.or(EventKinds::NODE_ADD).or(EventKinds::NODE_DELETE).or(EventKinds::NODE_LABEL).or(EventKinds::OTHER)
    }

    /// What happens on one node may matter for the whole domain.
    fn queueing_hint(&self, _: &Context<'_>, _: ClusterEvent) -> bool {
        true
    }
}

/// How domains draw the pod.
struct Pull(Vec<(String, Domains)>);

impl Score for InterPodAffinity {
    fn pre_score(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Prepared {
        let mut pull = Vec::new();
        for (term, weight) in &pod.peers.preferred {
            of_key(&mut pull, &term.key, nodes).add_tally(nodes, &nodes.tally(&term.query), *weight);
        }
        for (carried, tally) in concerning(pod, nodes) {
            if let Effect::Draws(weight) = carried.effect {
                of_key(&mut pull, &carried.term.key, nodes).add_tally(nodes, tally, weight);
            }
        }
        if pull.is_empty() {
            return Prepared::Skip;
        }
        state.write(Pull(pull));
        Prepared::PerCluster
    }

    fn score(&self, cx: &Context<'_>, row: Row) -> i64 {
        let Pull(pull) = cx.state.read();
        pull.iter().map(|(_, domains)| domains.at(cx.nodes, row)).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (min, max) =
            scores.iter().fold((i64::MAX, i64::MIN), |(min, max), score| (min.min(*score), max.max(*score)));
        let score = |rating: i64| if max > min { MAX_SCORE * (rating - min) / (max - min) } else { 0 };
        scores.iter_mut().for_each(|rating| *rating = score(*rating));
    }
}

#[cfg(test)]
mod tests;
