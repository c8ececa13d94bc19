//! NodeAffinity: `nodeSelector` and required terms decide where a pod may go, preferred terms where
//! it would rather go.

use kontiki_model::selector::{Operator, Requirement};

use super::normalize;
use crate::affinity::{NAME_FIELD, NodeTerm};
use crate::scheduler::framework::{Context, CycleState, Filter, Plugin, Prepared, Reason, Refusal, Score};
use crate::scheduler::pod::SchedulingSpec;
use crate::scheduler::table::{EventKinds, NodeTable, Row, Word, Words, lookup};

struct NodeAffinity;

pub(super) static PLUGIN: Plugin = Plugin {
    filter: Some(&NodeAffinity),
    score: Some(&NodeAffinity),
    weight: 2,
    describe: |_, _| "node(s) didn't match Pod's node affinity/selector".into(),
    ..Plugin::new("NodeAffinity")
};

/// A requirement in the table's words. Texts that are no words are on no node.
enum Matcher {
    In(Option<Word>, Vec<Word>),
    NotIn(Option<Word>, Vec<Word>),
    Exists(Option<Word>),
    DoesNotExist(Option<Word>),
    /// Compares numbers, so it needs the text.
    Number(Option<Word>, Requirement),
}

impl Matcher {
    fn new(requirement: &Requirement, words: &Words) -> Self {
        let key = words.get(&requirement.key);
        let known = |values: &[String]| values.iter().filter_map(|value| words.get(value)).collect();
        match &requirement.operator {
            Operator::In(values) => Self::In(key, known(values)),
            Operator::NotIn(values) => Self::NotIn(key, known(values)),
            Operator::Exists => Self::Exists(key),
            Operator::DoesNotExist => Self::DoesNotExist(key),
            Operator::Gt(_) | Operator::Lt(_) => Self::Number(key, requirement.clone()),
        }
    }

    fn matches(&self, nodes: &NodeTable, row: Row) -> bool {
        let value = |key: &Option<Word>| key.and_then(|key| lookup(&nodes.labels[row.index()], key));
        match self {
            Self::In(key, values) => value(key).is_some_and(|value| values.contains(&value)),
            Self::NotIn(key, values) => value(key).is_none_or(|value| !values.contains(&value)),
            Self::Exists(key) => value(key).is_some(),
            Self::DoesNotExist(key) => value(key).is_none(),
            Self::Number(key, requirement) => requirement.matches(value(key).map(|value| nodes.words().text(value))),
        }
    }
}

struct Term {
    labels: Vec<Matcher>,
    fields: Vec<Requirement>,
}

impl Term {
    fn new(term: &NodeTerm, words: &Words) -> Self {
        Self { labels: matchers(&term.labels, words), fields: term.fields.clone() }
    }

    fn matches(&self, nodes: &NodeTable, row: Row) -> bool {
        let field = |r: &Requirement| r.key == NAME_FIELD && r.matches(Some(nodes.name(row)));
        self.labels.iter().all(|label| label.matches(nodes, row)) && self.fields.iter().all(field)
    }
}

fn matchers(requirements: &[Requirement], words: &Words) -> Vec<Matcher> {
    requirements.iter().map(|requirement| Matcher::new(requirement, words)).collect()
}

/// What a node must have, in the table's words.
pub(super) struct Required {
    selector: Vec<Matcher>,
    /// One has to match; `None`: there are none.
    terms: Option<Vec<Term>>,
}

impl Required {
    /// `None`: any node will do.
    pub fn of(pod: &SchedulingSpec, nodes: &NodeTable) -> Option<Self> {
        if pod.node_selector.is_empty() && pod.required.is_none() {
            return None;
        }
        let terms = |terms: &Vec<NodeTerm>| terms.iter().map(|term| Term::new(term, nodes.words())).collect();
        let selector = matchers(&pod.node_selector.requirements, nodes.words());
        Some(Self { selector, terms: pod.required.as_ref().map(terms) })
    }

    /// One of these terms has to match.
    pub fn of_terms(terms: &[NodeTerm], nodes: &NodeTable) -> Self {
        let terms = terms.iter().map(|term| Term::new(term, nodes.words())).collect();
        Self { selector: Vec::new(), terms: Some(terms) }
    }

    pub fn matches(&self, nodes: &NodeTable, row: Row) -> bool {
        let attracts = |terms: &Vec<Term>| terms.iter().any(|term| term.matches(nodes, row));
        self.selector.iter().all(|label| label.matches(nodes, row)) && self.terms.as_ref().is_none_or(attracts)
    }
}

struct Preferred(Vec<(Term, i64)>);

impl Filter for NodeAffinity {
    fn pre_filter(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Result<Prepared, Reason> {
        let Some(required) = Required::of(pod, nodes) else { return Ok(Prepared::Skip) };
        state.write(required);
        Ok(Prepared::PerNode)
    }

    fn filter(&self, cx: &Context<'_>, row: Row) -> Result<(), Refusal> {
        let required: &Required = cx.state.read();
        if required.matches(cx.nodes, row) { Ok(()) } else { Err(Refusal::unresolvable(Reason(0))) }
    }

    fn events(&self) -> EventKinds {
        EventKinds::NODE_ADD.or(EventKinds::NODE_LABEL)
    }
}

impl Score for NodeAffinity {
    fn pre_score(&self, pod: &SchedulingSpec, nodes: &NodeTable, state: &mut CycleState) -> Prepared {
        if pod.preferred.is_empty() {
            return Prepared::Skip;
        }
        let terms = pod.preferred.iter().map(|(term, weight)| (Term::new(term, nodes.words()), *weight));
        state.write(Preferred(terms.collect()));
        Prepared::PerNode
    }

    fn score(&self, cx: &Context<'_>, row: Row) -> i64 {
        let Preferred(terms) = cx.state.read();
        terms.iter().filter(|(term, _)| term.matches(cx.nodes, row)).map(|(_, weight)| weight).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize::highest(scores);
    }
}

#[cfg(test)]
mod tests {
    use crate::scheduler::testing::{check_filter, check_score};

    #[test]
    fn labels_and_names_decide_where_a_pod_may_go() {
        let nodes = "a label=disk:ssd label=rank:5, b label=disk:hdd, c";
        for (name, pod, feasible) in [
            ("no wish", "", "abc"),
            ("a selector", "select=disk:ssd", "a"),
            ("a selector that no node knows", "select=colour:red", ""),
            ("in", "require=disk:In:ssd,hdd", "ab"),
            ("not in", "require=disk:NotIn:ssd", "bc"),
            ("not in what no node has", "require=disk:NotIn:tape", "abc"),
            ("exists", "require=disk:Exists", "ab"),
            ("does not exist", "require=disk:DoesNotExist", "c"),
            ("a key that no node knows does not exist", "require=colour:DoesNotExist", "abc"),
            ("greater", "require=rank:Gt:4", "a"),
            ("not greater", "require=rank:Gt:5", ""),
            ("less", "require=rank:Lt:6", "a"),
            ("a bound that is no number", "require=rank:Lt:six", ""),
            ("one of two terms", "require=disk:In:hdd require=disk:In:ssd", "ab"),
            ("a name", "field=metadata.name:In:b", "b"),
            ("not a name", "field=metadata.name:NotIn:b", "ac"),
            ("another field", "field=metadata.uid:In:b", ""),
            ("selector and term", "select=disk:ssd require=disk:In:hdd", ""),
        ] {
            let refused = ["a", "b", "c"].into_iter().filter(|node| !feasible.contains(node));
            let expect = refused.map(|node| format!("{node}: node(s) didn't match Pod's node affinity/selector!"));
            check_filter(name, &super::PLUGIN, nodes, "", pod, &expect.collect::<Vec<_>>().join(", "));
        }
    }

    #[test]
    fn preferred_terms_add_up() {
        let nodes = "a label=disk:ssd label=zone:x, b label=zone:x, c";
        for (name, pod, expect) in [
            ("one", "prefer=disk:In:ssd", [100, 0, 0]),
            ("two", "prefer=disk:In:ssd prefer=zone:In:x", [100, 50, 0]),
            ("none there", "prefer=colour:In:red", [0, 0, 0]),
        ] {
            check_score(name, &super::PLUGIN, nodes, "", pod, &expect);
        }
    }
}
