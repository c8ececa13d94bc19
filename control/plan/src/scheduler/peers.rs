//! What a pod asks about other pods: affinity, anti-affinity, spread.
//!
//! Invariants
//! - Equal questions are equal values, so that whoever counts pods counts once for all who ask.
//! - `matchLabelKeys` and `mismatchLabelKeys` are requirements here, whether or not somebody wrote them into the
//!   selector before: saying one twice changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PodAffinityTerm, PodSpec, TopologySpreadConstraint, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kontiki_model::selector::{Operator, Requirement, Selector};

/// The key whose domains are single nodes.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// What a required affinity of a pod that is there counts for, beside preferred ones, as upstream.
const HARD_WEIGHT: i64 = 1;

type Labels = BTreeMap<String, String>;

/// Labels of namespaces, by name.
pub type Namespaces = std::collections::HashMap<String, Labels>;

/// Pods of some namespaces that a selector matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Clause {
    namespaces: BTreeSet<String>,
    /// Further namespaces, by their labels.
    space_selector: Option<Selector>,
    /// `None`: no pod.
    selector: Option<Selector>,
}

/// A pod, as others' questions see it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
    /// Whom it is spread with by default.
    pub groups: &'a [u64],
    /// Whether it is being deleted.
    pub terminating: bool,
}

impl Clause {
    fn matches(&self, pod: Subject<'_>, namespaces: &Namespaces) -> bool {
        let by_label = || {
            let selector = self.space_selector.as_ref();
            selector.is_some_and(|selector| match namespaces.get(pod.namespace) {
                Some(labels) => selector.matches(labels),
                // One that was not heard of yet has no labels.
                None => selector.matches(&Labels::new()),
            })
        };
        let selected = self.selector.as_ref().is_some_and(|selector| selector.matches(pod.labels));
        selected && (self.namespaces.contains(pod.namespace) || by_label())
    }
}

/// Some pods: those that meet all clauses, and are of all these kin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodQuery {
    clauses: Vec<Clause>,
    kin: Vec<u64>,
    /// Without those that are being deleted.
    staying: bool,
}

impl PodQuery {
    /// Pods under all these clauses, also those that are being deleted.
    fn all(clauses: Vec<Clause>) -> Arc<Self> {
        Arc::new(Self { clauses, kin: Vec::new(), staying: false })
    }

    /// Whether a pod is one of them.
    #[must_use]
    pub fn matches(&self, pod: Subject<'_>, namespaces: &Namespaces) -> bool {
        !(self.staying && pod.terminating)
            && self.kin.iter().all(|group| pod.groups.contains(group))
            && self.clauses.iter().all(|clause| clause.matches(pod, namespaces))
    }

    /// Whether it depends on the labels of namespaces.
    #[must_use]
    pub fn reads_namespaces(&self) -> bool {
        self.clauses.iter().any(|clause| clause.space_selector.is_some())
    }
}

/// A term of a pod's affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Term {
    /// The pods it is about.
    pub query: Arc<PodQuery>,
    /// What makes a domain.
    pub key: String,
}

/// What a pod that is there means for pods that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// None of them into its domain.
    Forbids,
    /// They are drawn into its domain, or, if negative, pushed away.
    Draws(i64),
}

/// A term of a pod that is there, as pods that come see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CarriedTerm {
    /// The pods that it is about, and the domain.
    pub term: Term,
    /// What it means for them.
    pub effect: Effect,
}

/// A constraint on how pods spread over domains.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    /// The pods that spread.
    pub query: Arc<PodQuery>,
    /// Whether the pod is one of them.
    pub self_match: bool,
    /// What makes a domain.
    pub key: String,
    /// How many more a domain may have than the one with the fewest.
    pub max_skew: i64,
    /// With fewer domains than this, the fewest count as none.
    pub min_domains: i64,
    /// Whether it forbids (`DoNotSchedule`).
    pub hard: bool,
    /// Whether nodes that the pod's node affinity rules out do not count.
    pub honor_affinity: bool,
    /// Whether nodes with taints that it does not tolerate do not count.
    pub honor_taints: bool,
}

/// All that a pod asks about others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peers {
    /// Keys of the required affinity's terms.
    pub affinity_keys: Vec<String>,
    /// The pods that meet all of these terms.
    pub affinity: Option<Arc<PodQuery>>,
    /// Required anti-affinity.
    pub anti: Vec<Term>,
    /// Preferred terms; those of anti-affinity weigh less than nothing.
    pub preferred: Vec<(Term, i64)>,
    /// How it is to be spread.
    pub spread: Vec<Spread>,
    /// Whether those are not the pod's own constraints but the defaults.
    pub default_spread: bool,
    /// What it means for others once it is there.
    pub carried: Vec<Arc<CarriedTerm>>,
}

impl Peers {
    /// Reads what a pod of these labels asks for; `kin` are the groups that it is spread with by default.
    pub(super) fn read(spec: &PodSpec, namespace: &str, labels: &Labels, kin: &[u64]) -> Self {
        let mut peers = Self::default();
        let reader = Reader { namespace, labels };
        let (together, apart) = match &spec.affinity {
            Some(affinity) => (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref()),
            None => (None, None),
        };
        let required = together.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        peers.require(&reader, required.map(Vec::as_slice).unwrap_or_default());
        let required = apart.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        for term in required.into_iter().flatten() {
            let term = reader.term(term);
            peers.carried.push(Arc::new(CarriedTerm { term: term.clone(), effect: Effect::Forbids }));
            peers.anti.push(term);
        }
        let preferred = together.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        peers.prefer(&reader, preferred, 1);
        let preferred = apart.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        peers.prefer(&reader, preferred, -1);
        let own = spec.topology_spread_constraints.iter().flatten();
        peers.spread = own.map(|constraint| reader.spread(constraint)).collect();
        if peers.spread.is_empty() && !kin.is_empty() {
            peers.spread = default_spread(kin);
            peers.default_spread = true;
        }
        peers
    }

    fn require(&mut self, reader: &Reader<'_>, terms: &[PodAffinityTerm]) {
        for term in terms.iter().map(|term| reader.term(term)) {
            self.affinity_keys.push(term.key.clone());
            self.carried.push(Arc::new(CarriedTerm { term, effect: Effect::Draws(HARD_WEIGHT) }));
        }
        if !terms.is_empty() {
            self.affinity = Some(PodQuery::all(terms.iter().map(|term| reader.clause(term)).collect()));
        }
    }

    fn prefer(&mut self, reader: &Reader<'_>, terms: Option<&Vec<WeightedPodAffinityTerm>>, sign: i64) {
        for weighted in terms.into_iter().flatten().filter(|weighted| weighted.weight != 0) {
            let (term, weight) = (reader.term(&weighted.pod_affinity_term), sign * i64::from(weighted.weight));
            self.carried.push(Arc::new(CarriedTerm { term: term.clone(), effect: Effect::Draws(weight) }));
            self.preferred.push((term, weight));
        }
    }

    /// All questions that pods have to be counted for.
    pub fn queries(&self) -> impl Iterator<Item = &Arc<PodQuery>> {
        let terms = self.anti.iter().chain(self.preferred.iter().map(|(term, _)| term)).map(|term| &term.query);
        self.affinity.iter().chain(terms).chain(self.spread.iter().map(|spread| &spread.query))
    }
}

/// Upstream's defaults for pods that say nothing of how they are spread.
fn default_spread(kin: &[u64]) -> Vec<Spread> {
    let query = Arc::new(PodQuery { clauses: Vec::new(), kin: kin.to_vec(), staying: true });
    [(HOSTNAME, 3), (ZONE, 5)]
        .map(|(key, max_skew)| Spread {
            query: query.clone(),
            self_match: true,
            key: key.to_owned(),
            max_skew,
            min_domains: 1,
            hard: false,
            honor_affinity: true,
            honor_taints: false,
        })
        .into()
}

/// Reads what one pod says.
struct Reader<'a> {
    namespace: &'a str,
    labels: &'a Labels,
}

impl Reader<'_> {
    /// A selector with what the keys make of the pod's own labels. Keys that the pod does not have say nothing.
    fn selector(
        &self,
        selector: Option<&LabelSelector>,
        same: Option<&Vec<String>>,
        other: Option<&Vec<String>>,
    ) -> Option<Selector> {
        let mut selector = Selector::from_spec(selector?)?;
        let own = |keys: Option<&Vec<String>>, operator: fn(Vec<String>) -> Operator| {
            let keys = keys.into_iter().flatten();
            let values = keys.filter_map(|key| Some((key.clone(), self.labels.get(key)?.clone())));
            values.map(|(key, value)| Requirement { key, operator: operator(vec![value]) }).collect::<Vec<_>>()
        };
        for requirement in own(same, Operator::In).into_iter().chain(own(other, Operator::NotIn)) {
            if !selector.requirements.contains(&requirement) {
                selector.requirements.push(requirement);
            }
        }
        Some(selector)
    }

    fn clause(&self, term: &PodAffinityTerm) -> Clause {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        let space_selector = term.namespace_selector.as_ref().and_then(Selector::from_spec);
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.insert(self.namespace.to_owned());
        }
        let (same, other) = (term.match_label_keys.as_ref(), term.mismatch_label_keys.as_ref());
        Clause { namespaces, space_selector, selector: self.selector(term.label_selector.as_ref(), same, other) }
    }

    fn term(&self, term: &PodAffinityTerm) -> Term {
        Term { query: PodQuery::all(vec![self.clause(term)]), key: term.topology_key.clone() }
    }

    fn spread(&self, constraint: &TopologySpreadConstraint) -> Spread {
        let (selector, same) = (constraint.label_selector.as_ref(), constraint.match_label_keys.as_ref());
        let selector = self.selector(selector, same, None);
        let self_match = selector.as_ref().is_some_and(|selector| selector.matches(self.labels));
        let clause = Clause { namespaces: [self.namespace.to_owned()].into(), space_selector: None, selector };
        Spread {
            query: Arc::new(PodQuery { clauses: vec![clause], kin: Vec::new(), staying: true }),
            self_match,
            key: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}
