//! PodTopologySpread: pods of one kind spread over the domains of a topology.
//!
//! Constraints that forbid are filters, the others make a node worse. A pod without constraints is spread with its
//! workload, or with those that its Services select, over nodes and zones.

use super::domains::Domains;
use super::node_affinity::Required;
use super::taint_toleration::forbidding;
use crate::scheduler::framework::{Context, CycleState, Filter, MAX_SCORE, Plugin, Prepared, Reason, Refusal, Score};
use crate::scheduler::peers::{HOSTNAME, Spread};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{ClusterEvent, EventKinds, NodeTable, Row};

struct PodTopologySpread;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&PodTopologySpread),
    score: Some(&PodTopologySpread),
    weight: 2,
    describe: |_, reason| {
        let text = match reason {
            MISSING_LABEL => "node(s) didn't match pod topology spread constraints (missing required label)",
            _ => "node(s) didn't match pod topology spread constraints",
        };
        text.into()
    },
    ..Plugin::new("PodTopologySpread")
};

const SKEW: Reason = Reason(0);
const MISSING_LABEL: Reason = Reason(1);
/// The rating of a node that lacks a label. It becomes the worst score.
const IGNORED: i64 = -1;

/// Tells which nodes count.
struct Eligible<'a> {
    pod: &'a SchedulingSpec,
    nodes: &'a NodeTable,
    required: Option<Required>,
}

impl<'a> Eligible<'a> {
    fn new(pod: &'a SchedulingSpec, nodes: &'a NodeTable) -> Self {
        Self { pod, nodes, required: Required::of(pod, nodes) }
    }

    fn counts(&self, spread: &Spread, row: Row) -> bool {
        let drawn = || self.required.as_ref().is_none_or(|required| required.matches(self.nodes, row));
        let tolerated = || forbidding(self.nodes, row, &self.pod.tolerations).is_none();
        (!spread.honor_affinity || drawn()) && (!spread.honor_taints || tolerated())
    }
}

/// A constraint that forbids.
struct Skew {
    domains: Domains,
    /// The most that a domain may have already.
    most: i64,
}

struct Skews(Vec<Skew>);

fn kind(pod: &SchedulingSpec, hard: bool) -> Vec<&Spread> {
    pod.peers.spread.iter().filter(|spread| spread.hard == hard).collect()
}

fn count(spreads: &[&Spread], mut domains: Vec<Domains>, eligible: &Eligible<'_>) -> Vec<Domains> {
    let nodes = eligible.nodes;
    let tallies: Vec<_> = spreads.iter().map(|spread| nodes.tally(&spread.query)).collect();
    for row in nodes.rows() {
        if domains.iter().any(|domains| domains.of(nodes, *row).is_none()) {
            continue;
        }
        for ((spread, domains), tally) in spreads.iter().zip(&mut domains).zip(&tallies) {
            if let Some(domain) = domains.of(nodes, *row).filter(|_| eligible.counts(spread, *row)) {
                domains.add(domain, tally.get(row).copied().map_or(0, i64::from));
            }
        }
    }
    domains
}

impl Filter for PodTopologySpread {
    fn pre_filter(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Result<Prepared, Reason> {
        let spreads = kind(pod, true);
        if spreads.is_empty() {
            return Ok(Prepared::Skip);
        }
        let empty = spreads.iter().map(|spread| Domains::new(&spread.key, nodes)).collect();
        let counted = count(&spreads, empty, &Eligible::new(pod, nodes));
        let skews = spreads.iter().zip(counted).map(|(spread, domains)| {
            let enough = i64::try_from(domains.len()).unwrap_or(i64::MAX) >= spread.min_domains;
            let fewest = if enough { domains.min() } else { 0 };
            Skew { domains, most: fewest + spread.max_skew - i64::from(spread.self_match) }
        });
        state.write(Skews(skews.collect()));
        Ok(Prepared::PerCluster)
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        let Skews(skews) = cx.state.read();
        for skew in skews {
            let Some(domain) = skew.domains.of(cx.nodes, row) else { return Err(Refusal::unresolvable(MISSING_LABEL)) };
            if skew.domains.get(domain).unwrap_or(0) > skew.most {
                return Err(Refusal::resolvable(SKEW));
            }
        }
        Ok(())
    }

    fn events(&self) -> EventKinds {
        let pods = EventKinds::POD_ADD.or(EventKinds::POD_DELETE).or(EventKinds::POD_UPDATE);
        pods.or(EventKinds::NODE_ADD).or(EventKinds::NODE_DELETE).or(EventKinds::NODE_LABEL).or(EventKinds::NODE_TAINT)
    }

    /// What happens in one domain may matter for all.
    fn queueing_hint(&self, _: &Context<'_>, _: ClusterEvent) -> bool {
        true
    }
}

/// A constraint that makes a node worse.
struct SoftConstraint {
    domains: Domains,
    weight: f64,
    max_skew: f64,
}

struct SoftConstraints {
    constraints: Vec<SoftConstraint>,
    /// Whether a node that lacks a label is left out.
    strict: bool,
}

/// Domains of a topology weigh more the more there are, so that a zone does not outweigh a node.
#[expect(clippy::cast_precision_loss, reason = "numbers of nodes are far below 2^52")]
fn topology_weight(domains: usize) -> f64 {
    ((domains + 2) as f64).ln()
}

impl SoftConstraints {
    fn new(pod: &SchedulingSpec, nodes: &NodeTable, feasible: &[Row]) -> Self {
        let (spreads, strict) = (kind(pod, false), !pod.peers.default_spread);
        let empty: Vec<Domains> = spreads.iter().map(|spread| Domains::new(&spread.key, nodes)).collect();
        let complete = |row: Row| !strict || empty.iter().all(|domains| domains.of(nodes, row).is_some());
        let candidates: Vec<Row> = feasible.iter().copied().filter(|row| complete(*row)).collect();
        let eligible = Eligible::new(pod, nodes);
        let counts = |spread: &Spread, row: Row| complete(row) && eligible.counts(spread, row);
        let constraint = |(spread, domains): (&&Spread, &Domains)| {
            SoftConstraint::new(spread, domains.clone(), nodes, &candidates, &counts)
        };
        Self { constraints: spreads.iter().zip(&empty).map(constraint).collect(), strict }
    }
}

impl SoftConstraint {
    /// Only domains that the pod may go to matter.
    fn new(
        spread: &Spread,
        mut domains: Domains,
        nodes: &NodeTable,
        candidates: &[Row],
        counts: &impl Fn(&Spread, Row) -> bool,
    ) -> Self {
        let (tally, single, mut outside) = (nodes.tally(&spread.query), spread.key == HOSTNAME, 0);
        for row in candidates {
            match domains.of(nodes, *row) {
                // A domain of one node has what is there.
                Some(domain) if single => domains.add(domain, tally.get(row).copied().map_or(0, i64::from)),
                Some(domain) => domains.add(domain, 0),
                // Those without the label are a domain of their own.
                None => outside = 1,
            }
        }
        for (row, number) in tally.iter().filter(|_| !single) {
            let domain = domains.of(nodes, *row).filter(|domain| domains.get(*domain).is_some());
            if let Some(domain) = domain.filter(|_| counts(spread, *row)) {
                domains.add(domain, i64::from(*number));
            }
        }
        let size = if single { candidates.len() } else { domains.len() + outside };
        let max_skew = f64::from(i32::try_from(spread.max_skew).unwrap_or(i32::MAX));
        Self { weight: topology_weight(size), max_skew, domains }
    }
}

impl Score for PodTopologySpread {
    fn pre_score(&self, pod: &SchedulingSpec, _: &NodeTable, _: &mut CycleState) -> Prepared {
        if kind(pod, false).is_empty() { Prepared::Skip } else { Prepared::PerCluster }
    }

    fn survey(&self, pod: &SchedulingSpec, nodes: &NodeTable, feasible: &[Row], state: &mut CycleState) {
        state.write(SoftConstraints::new(pod, nodes, feasible));
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "numbers of pods, times ten or less"
    )]
    fn score(&self, cx: &Context<'_>, row: Row) -> i64 {
        let SoftConstraints { constraints, strict } = cx.state.read();
        if *strict && constraints.iter().any(|constraint| constraint.domains.of(cx.nodes, row).is_none()) {
            return IGNORED;
        }
        let rate = |constraint: &SoftConstraint| {
            let domain = constraint.domains.of(cx.nodes, row)?;
            Some(constraint.domains.get(domain).unwrap_or(0) as f64 * constraint.weight + (constraint.max_skew - 1.0))
        };
        constraints.iter().filter_map(rate).sum::<f64>().round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let counted = || scores.iter().copied().filter(|rating| *rating != IGNORED);
        let (min, max) = (counted().min().unwrap_or(0), counted().max().unwrap_or(0));
        let score = |rating: i64| match (rating, max) {
            (IGNORED, _) => 0,
            (_, 0) => MAX_SCORE,
            (rating, max) => MAX_SCORE * (max + min - rating) / max,
        };
        scores.iter_mut().for_each(|rating| *rating = score(*rating));
    }
}

#[cfg(test)]
mod tests;
