//! A search through the nodes for one pod: which are feasible, how good each is, and the account of the others.

use std::collections::HashMap;

use super::Plugins;
use super::cache::{Class, PASSES, Verdict};
use super::diagnosis::{Diagnosis, Refused};
use crate::scheduler::table::{NodeTable, Row};

/// What a search through the nodes found.
#[derive(Default)]
pub(super) struct Search {
    pub feasible: Vec<Row>,
    /// Nodes per refusal of the class.
    refused: Vec<usize>,
    pub judged: usize,
}

impl Search {
    /// Filters until enough nodes are feasible. `reserved` are refusals of nodes that would take the pod but for those
    /// who wait for them.
    pub fn run(
        class: &mut Class,
        plugins: Plugins,
        nodes: &NodeTable,
        reserved: &HashMap<Row, Verdict>,
        rows: impl Iterator<Item = Row>,
        enough: usize,
    ) -> Self {
        let mut found = Self::default();
        if class.cycle.rejection.is_some() {
            return found;
        }
        for row in rows {
            found.judged += 1;
            let verdict = match class.verdict(plugins, nodes, row) {
                PASSES => reserved.get(&row).copied().unwrap_or(PASSES),
                refused => refused,
            };
            match verdict {
                PASSES => {
                    found.feasible.push(row);
                    if found.feasible.len() >= enough {
                        break;
                    }
                }
                refusal => {
                    let at = refusal as usize - 1;
                    if found.refused.len() <= at {
                        found.refused.resize(at + 1, 0);
                    }
                    found.refused[at] += 1;
                }
            }
        }
        found
    }
}

/// Score: the weighted sum for each feasible node.
pub(super) fn totals(class: &mut Class, plugins: Plugins, nodes: &NodeTable, feasible: &[Row]) -> Vec<i64> {
    let mut totals = vec![0; feasible.len()];
    if feasible.len() < 2 {
        return totals;
    }
    class.cycle.survey(plugins, nodes, feasible);
    let (own, wide) = (class.cycle.scorers.clone(), class.cycle.wide_scorers.clone());
    let mut raw = Vec::with_capacity(feasible.len() * own.len());
    for row in feasible {
        class.scores(plugins, nodes, *row, &mut raw);
    }
    let mut column = vec![0; feasible.len()];
    for (at, id) in own.iter().enumerate() {
        let rated = raw.iter().skip(at).step_by(own.len());
        column.iter_mut().zip(rated).for_each(|(cell, raw)| *cell = *raw);
        add(&mut totals, &mut column, plugins, *id);
    }
    let cx = class.cycle.context(nodes);
    for id in wide {
        if let Some(score) = plugins[id].score {
            column.iter_mut().zip(feasible).for_each(|(cell, row)| *cell = score.score(&cx, *row));
            add(&mut totals, &mut column, plugins, id);
        }
    }
    totals
}

/// Adds a plugin's ratings to the sums.
fn add(totals: &mut [i64], ratings: &mut [i64], plugins: Plugins, id: usize) {
    let plugin = plugins[id];
    if let Some(score) = plugin.score {
        score.normalize(ratings);
        totals.iter_mut().zip(ratings).for_each(|(total, score)| *total += *score * plugin.weight);
    }
}

/// Puts what was counted into words.
pub(super) fn diagnose(class: &Class, plugins: Plugins, nodes: &NodeTable, found: &Search) -> Diagnosis {
    let mut diagnosis = Diagnosis { nodes: nodes.rows().len(), ..Diagnosis::default() };
    let cx = class.cycle.context(nodes);
    if let Some((id, reason)) = class.cycle.rejection {
        let (plugin, count) = (plugins[id], diagnosis.nodes);
        let reasons = [((plugin.describe)(&cx, reason), count)].into();
        diagnosis.refused = vec![Refused { plugin: plugin.name, nodes: count, reasons }];
        diagnosis.rejectors.insert(id);
        diagnosis.unresolvable = count;
        return diagnosis;
    }
    let counted = || class.refusals().iter().zip(&found.refused).filter(|(_, count)| **count > 0);
    for (id, plugin) in plugins.iter().enumerate() {
        let mut refused = Refused { plugin: plugin.name, nodes: 0, reasons: Default::default() };
        for ((_, refusal), count) in counted().filter(|((by, _), _)| *by == id) {
            refused.nodes += count;
            diagnosis.unresolvable += if refusal.unresolvable { *count } else { 0 };
            for reason in refusal.reasons() {
                *refused.reasons.entry((plugin.describe)(&cx, reason)).or_default() += count;
            }
        }
        if refused.nodes > 0 {
            diagnosis.rejectors.insert(id);
            diagnosis.refused.push(refused);
        }
    }
    diagnosis
}
