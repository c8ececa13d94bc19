//! What pods ask about others, in a few words.
//!
//! `near` and `apart`: `KEY/SELECTOR[/NAMESPACES]`, required; `likes` and `dislikes`: `WEIGHT/` and the same, preferred.
//! A selector is `key:value`, `key` (any value), `*` (all) or `-` (none); namespaces are `a+b`, `@key:value` or `@*` by
//! label. After that `same:KEY` and `other:KEY` for `matchLabelKeys` and `mismatchLabelKeys`.
//! The key `host` stands for `kubernetes.io/hostname`.
//! `spread`: `KEY/SKEW` and any of `/soft`, `/minN`, `/everywhere` (node affinity ignored), `/taints` (honoured),
//! `/same:KEY`, `/of:SELECTOR`; of `app:web` without.

use k8s_openapi::api::core::v1::{PodAffinityTerm, PodSpec, TopologySpreadConstraint, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::peers::HOSTNAME;
use crate::testing::map;

fn key(text: &str) -> String {
    if text == "host" { HOSTNAME.into() } else { text.into() }
}

fn selector(text: &str) -> Option<LabelSelector> {
    let mut selector = LabelSelector::default();
    match (text, text.split_once(':')) {
        ("-", _) => return None,
        ("*", _) => {}
        (_, Some(pair)) => selector.match_labels = Some(map(&[pair])),
        (key, None) => {
            let (key, operator) = (key.to_owned(), "Exists".to_owned());
            selector.match_expressions = Some(vec![LabelSelectorRequirement { key, operator, values: None }]);
        }
    }
    Some(selector)
}

fn term(text: &str) -> PodAffinityTerm {
    let mut parts = text.split('/');
    let mut term = PodAffinityTerm { topology_key: key(parts.next().unwrap()), ..PodAffinityTerm::default() };
    term.label_selector = selector(parts.next().unwrap());
    for part in parts {
        if let Some(key) = part.strip_prefix("same:") {
            term.match_label_keys = Some(vec![key.into()]);
        } else if let Some(key) = part.strip_prefix("other:") {
            term.mismatch_label_keys = Some(vec![key.into()]);
        } else if let Some(spaces) = part.strip_prefix('@') {
            term.namespace_selector = selector(spaces);
        } else {
            term.namespaces = Some(part.split('+').map(str::to_owned).collect());
        }
    }
    term
}

fn weighted(text: &str) -> WeightedPodAffinityTerm {
    let (weight, text) = text.split_once('/').unwrap();
    WeightedPodAffinityTerm { weight: weight.parse().unwrap(), pod_affinity_term: term(text) }
}

fn spread(text: &str) -> TopologySpreadConstraint {
    let mut parts = text.split('/');
    let mut spread = TopologySpreadConstraint {
        topology_key: key(parts.next().unwrap()),
        max_skew: parts.next().unwrap().parse().unwrap(),
        when_unsatisfiable: "DoNotSchedule".into(),
        label_selector: selector("app:web"),
        ..TopologySpreadConstraint::default()
    };
    for part in parts {
        match part.split_once(':').unwrap_or((part, "")) {
            ("soft", _) => spread.when_unsatisfiable = "ScheduleAnyway".into(),
            ("everywhere", _) => spread.node_affinity_policy = Some("Ignore".into()),
            ("taints", _) => spread.node_taints_policy = Some("Honor".into()),
            ("same", key) => spread.match_label_keys = Some(vec![key.into()]),
            ("of", text) => spread.label_selector = selector(text),
            (other, _) => spread.min_domains = other.strip_prefix("min").unwrap().parse().ok(),
        }
    }
    spread
}

pub fn add(spec: &mut PodSpec, what: &str, text: &str) {
    if what == "spread" {
        return spec.topology_spread_constraints.get_or_insert_default().push(spread(text));
    }
    let affinity = spec.affinity.get_or_insert_default();
    match what {
        "near" => {
            let all = affinity.pod_affinity.get_or_insert_default();
            all.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(term(text));
        }
        "apart" => {
            let all = affinity.pod_anti_affinity.get_or_insert_default();
            all.required_during_scheduling_ignored_during_execution.get_or_insert_default().push(term(text));
        }
        "likes" => {
            let all = affinity.pod_affinity.get_or_insert_default();
            all.preferred_during_scheduling_ignored_during_execution.get_or_insert_default().push(weighted(text));
        }
        _ => {
            let all = affinity.pod_anti_affinity.get_or_insert_default();
            all.preferred_during_scheduling_ignored_during_execution.get_or_insert_default().push(weighted(text));
        }
    }
}
