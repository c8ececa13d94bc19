//! DefaultPreemption: which pods have to go so that a more important one fits, and on which node.
//!
//! Invariants
//! - Victims are less important than the pod, and no more than need to go: each was tried to be kept, the most
//!   important first, those whose going would overdraw a disruption budget before the others.
//! - While victims of before are still on their way out of the node that the pod waits for, nobody else goes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::scheduler::NodeName;
use crate::scheduler::framework::{Attempt, Nomination, Plugin, PostFilter, Preemption, Victim, WayOut, violating};
use crate::scheduler::pod::PodInfo;
use crate::scheduler::table::Row;

struct DefaultPreemption;

pub(super) static PLUGIN: Plugin = Plugin { post_filter: Some(&DefaultPreemption), ..Plugin::new("DefaultPreemption") };

/// Of this many nodes at least one candidate is looked for, if there are as many, as upstream.
const LEAST_CANDIDATES: usize = 100;

/// A node, and who would have to go.
struct Candidate {
    row: Row,
    /// The most important first, of either kind; those that violate a budget come first.
    victims: Vec<Arc<PodInfo>>,
    violations: usize,
}

type Started = (bool, Timestamp);

/// A pod that has not started is the youngest.
fn started(pod: &PodInfo) -> Started {
    (pod.started.is_none(), pod.started.unwrap_or(Timestamp::MAX))
}

/// The most important first: by priority, then by age.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Started, &str) {
    (Reverse(pod.priority), started(pod), &pod.uid)
}

/// How bad it is to take a candidate; less is better. As upstream: budgets overdrawn, the most important victim, the
/// sum of importance, how many go; then the younger the most important ones, the better.
fn harm(candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<Started>) {
    let priorities = || candidate.victims.iter().map(|victim| victim.priority);
    let highest = priorities().max().unwrap_or(i32::MIN);
    let sum = priorities().map(|priority| i64::from(priority) + i64::from(i32::MAX) + 1).sum();
    let oldest = candidate.victims.iter().filter(|victim| victim.priority == highest).map(|victim| started(victim));
    let oldest = oldest.min().unwrap_or((true, Timestamp::MAX));
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(oldest))
}

/// Who has to go from a node.
///
/// # Errors
/// Why the node is no candidate, in words.
fn select_victims(attempt: &mut Attempt<'_>, row: Row) -> Result<Candidate, Vec<String>> {
    let priority = attempt.pod.priority;
    let mut lower = attempt.pods(row);
    lower.retain(|pod| pod.priority < priority);
    if lower.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".into()]);
    }
    lower.sort_by(|a, b| importance(a).cmp(&importance(b)));
    lower.iter().for_each(|pod| attempt.take_off(pod));
    let result = attempt.fits(row).map(|()| reprieve(attempt, row, &lower));
    let missing: Vec<_> = match &result {
        Ok(candidate) => candidate.victims.clone(),
        Err(_) => lower,
    };
    missing.iter().for_each(|pod| attempt.put_back(pod, row));
    result
}

/// Puts back whoever may stay; the victims are still off when this returns.
fn reprieve(attempt: &mut Attempt<'_>, row: Row, lower: &[Arc<PodInfo>]) -> Candidate {
    let violating = violating(attempt.budgets, lower);
    let of = |violates: bool| lower.iter().zip(&violating).filter(move |(_, is)| **is == violates);
    let mut candidate = Candidate { row, victims: Vec::new(), violations: 0 };
    for (pod, violates) in of(true).chain(of(false)) {
        attempt.put_back(pod, row);
        if attempt.fits(row).is_err() {
            attempt.take_off(pod);
            candidate.victims.push(pod.clone());
            candidate.violations += usize::from(*violates);
        }
    }
    candidate
}

/// Why a pod may not make others go.
fn ineligible(attempt: &mut Attempt<'_>) -> Option<&'static str> {
    if !attempt.pod.preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let row = attempt.nominated()?;
    if !attempt.may_help(row) {
        return None;
    }
    let going = |pod: &Arc<PodInfo>| pod.terminating && pod.preempted && pod.priority < attempt.pod.priority;
    let waits = attempt.pods(row).iter().any(going);
    waits.then_some("not eligible due to terminating pod on the nominated node.")
}

fn no_candidates(nodes: usize, why: Vec<Vec<String>>) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    let unhelped = nodes - why.len();
    if unhelped > 0 {
        counts.insert("Preemption is not helpful for scheduling".into(), unhelped);
    }
    why.into_iter().flatten().for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut reasons: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    format!("preemption: 0/{nodes} nodes are available: {}.", reasons.join(", "))
}

fn preemption(node: NodeName, candidate: Candidate) -> Preemption {
    let victim =
        |pod: Arc<PodInfo>| Victim { uid: pod.uid.clone(), namespace: pod.namespace.clone(), name: pod.name.clone() };
    Preemption { node, victims: candidate.victims.into_iter().map(victim).collect() }
}

impl PostFilter for DefaultPreemption {
    fn post_filter(&self, attempt: &mut Attempt<'_>) -> WayOut {
        if let Some(why) = ineligible(attempt) {
            return WayOut { text: format!("preemption: {why}"), ..WayOut::default() };
        }
        let rows = attempt.candidates();
        let enough = (rows.len() / 10).max(LEAST_CANDIDATES);
        let (mut candidates, mut why) = (Vec::new(), Vec::new());
        for row in rows {
            match select_victims(attempt, row) {
                Ok(candidate) => candidates.push(candidate),
                Err(reasons) => why.push(reasons),
            }
            if candidates.len() >= enough && candidates.iter().any(|candidate| candidate.violations == 0) {
                break;
            }
        }
        let nodes = attempt.nodes();
        // The first of the best.
        let Some(best) = candidates.into_iter().min_by_key(harm) else {
            let text = no_candidates(nodes.rows().len(), why);
            return WayOut { text, preemption: None, nomination: Nomination::Clear };
        };
        let node = nodes.name(best.row).clone();
        let preemption = Some(preemption(node.clone(), best));
        WayOut { text: String::new(), preemption, nomination: Nomination::Node(node) }
    }
}

#[cfg(test)]
mod tests;
