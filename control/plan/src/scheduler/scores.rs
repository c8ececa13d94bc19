//! What makes one feasible node better than another.
//!
//! Each score rates all feasible nodes together, from 0 to 100; the weighted sum decides.

use super::pod::PodInfo;
use super::table::NodeRow;
use crate::taint_eviction::tolerates;

const BEST: i64 = 100;

/// One rating.
pub struct Score {
    /// Upstream's name of it.
    pub name: &'static str,
    /// Its weight in the sum, as upstream.
    pub weight: i64,
    /// Rates one node, in its own unit.
    rate: fn(&PodInfo, &NodeRow) -> i64,
    /// Brings the ratings of all nodes to 0..=100.
    scale: fn(&mut [i64]),
}

/// All ratings.
pub static SCORES: &[Score] = &[
    Score { name: "NodeResourcesFit", weight: 1, rate: least_allocated, scale: as_it_is },
    Score { name: "NodeResourcesBalancedAllocation", weight: 1, rate: balanced, scale: as_it_is },
    Score { name: "PodTopologySpread", weight: 2, rate: neighbours, scale: fewest },
    Score { name: "TaintToleration", weight: 3, rate: soft_taints, scale: fewest },
    Score { name: "NodeAffinity", weight: 2, rate: preferred, scale: most },
    Score { name: "ImageLocality", weight: 1, rate: images, scale: as_it_is },
];

/// The weighted sum for each of `rows`.
pub(super) fn total(rows: &[&NodeRow], pod: &PodInfo) -> Vec<i64> {
    let mut totals = vec![0; rows.len()];
    if rows.len() < 2 {
        return totals;
    }
    for score in SCORES {
        let mut ratings: Vec<i64> = rows.iter().map(|row| (score.rate)(pod, row)).collect();
        (score.scale)(&mut ratings);
        for (total, rating) in totals.iter_mut().zip(ratings) {
            *total += rating * score.weight;
        }
    }
    totals
}

fn as_it_is(_: &mut [i64]) {}

fn most(ratings: &mut [i64]) {
    let top = ratings.iter().copied().max().unwrap_or(0);
    if top > 0 {
        ratings.iter_mut().for_each(|rating| *rating = *rating * BEST / top);
    }
}

fn fewest(ratings: &mut [i64]) {
    let top = ratings.iter().copied().max().unwrap_or(0);
    ratings.iter_mut().for_each(|rating| *rating = if top > 0 { (top - *rating) * BEST / top } else { BEST });
}

/// Shares of processor and memory in use once the pod is there, in thousandths.
fn shares(pod: &PodInfo, row: &NodeRow) -> (i64, i64) {
    let share = |ask: i64, used: i64, have: i64| {
        if have <= 0 { 1000 } else { (i128::from(used + ask) * 1000 / i128::from(have)).clamp(0, 1000) as i64 }
    };
    (
        share(pod.scored.milli_cpu, row.scored.milli_cpu, row.allocatable.milli_cpu),
        share(pod.scored.memory, row.scored.memory, row.allocatable.memory),
    )
}

fn least_allocated(pod: &PodInfo, row: &NodeRow) -> i64 {
    let (cpu, memory) = shares(pod, row);
    ((1000 - cpu) + (1000 - memory)) / 2 * BEST / 1000
}

fn balanced(pod: &PodInfo, row: &NodeRow) -> i64 {
    let (cpu, memory) = shares(pod, row);
    (1000 - (cpu - memory).abs() / 2) * BEST / 1000
}

fn neighbours(pod: &PodInfo, row: &NodeRow) -> i64 {
    pod.groups.iter().filter_map(|group| row.groups.get(group)).map(|count| i64::from(*count)).sum()
}

fn soft_taints(pod: &PodInfo, row: &NodeRow) -> i64 {
    let soft = row.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let bad = soft.filter(|taint| !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint)));
    i64::try_from(bad.count()).unwrap_or(i64::MAX)
}

fn preferred(pod: &PodInfo, row: &NodeRow) -> i64 {
    pod.preferred.iter().filter(|(term, _)| term.matches(row)).map(|(_, weight)| weight).sum()
}

/// Images below the lower bound are quickly pulled, beyond the upper one nothing else matters.
fn images(pod: &PodInfo, row: &NodeRow) -> i64 {
    const MEGABYTE: i64 = 1024 * 1024;
    let count = i64::try_from(pod.images.len()).unwrap_or(1).max(1);
    let (least, most) = (23 * MEGABYTE, 1000 * MEGABYTE * count);
    let there: i64 = pod.images.iter().filter_map(|image| row.images.get(image)).sum();
    (there.clamp(least, most) - least) * BEST / (most - least)
}
