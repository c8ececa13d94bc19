//! Who selects an object: the entries of an index by selector.
//!
//! An object that selects others is filed under labels of which whatever it selects has one, so that whoever looks
//! under each of an object's own labels finds every selector that may match, and few others.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ReplicationController, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_model::selector::{Operator, Selector};

use crate::action::Kind;
use crate::object::{label, namespace};

/// A kind whose objects select others in their namespace.
pub trait Selects: Kind {
    /// What it selects; `None`: nothing.
    fn selector(&self) -> Option<Selector>;

    /// Whether it selects an object of its namespace.
    fn selects(&self, meta: &ObjectMeta) -> bool {
        self.selector().is_some_and(|selector| selector.matches_with(|key| label(meta, key)))
    }
}

impl Selects for ReplicaSet {
    fn selector(&self) -> Option<Selector> {
        Selector::from_spec(&self.spec.selector)
    }
}

impl Selects for Deployment {
    fn selector(&self) -> Option<Selector> {
        Selector::from_spec(&self.spec.selector)
    }
}

impl Selects for StatefulSet {
    fn selector(&self) -> Option<Selector> {
        Selector::from_spec(&self.spec.selector)
    }
}

impl Selects for DaemonSet {
    fn selector(&self) -> Option<Selector> {
        Selector::from_spec(&self.spec.selector)
    }
}

impl Selects for ReplicationController {
    fn selector(&self) -> Option<Selector> {
        let map = self.spec.as_ref()?.selector.as_ref().filter(|map| !map.is_empty())?;
        Some(Selector::from_map(map))
    }
}

impl Selects for Service {
    fn selector(&self) -> Option<Selector> {
        let map = self.spec.as_ref()?.selector.as_ref().filter(|map| !map.is_empty())?;
        Some(Selector::from_map(map))
    }
}

fn entry(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}

/// Where a selector is found that asks for no label's value.
fn anything(namespace: &str) -> String {
    format!("{namespace}/")
}

/// Under what an object that selects others is filed.
#[must_use]
pub fn selector_entries<K: Selects>(object: &K) -> Vec<String> {
    let Some(selector) = object.selector() else { return Vec::new() };
    filed_under(namespace(object.metadata()), &selector)
}

fn filed_under(space: &str, selector: &Selector) -> Vec<String> {
    let values = selector.requirements.iter().filter_map(|requirement| match &requirement.operator {
        Operator::In(values) => Some((&requirement.key, values)),
        _ => None,
    });
    // The fewer values, the fewer entries; among equals the first.
    match values.min_by_key(|(_, values)| values.len()) {
        Some((key, values)) => values.iter().map(|value| entry(space, key, value)).collect(),
        None => vec![anything(space)],
    }
}

/// Where to look for those that select an object.
#[must_use]
pub fn label_entries(meta: &ObjectMeta) -> Vec<String> {
    let space = namespace(meta);
    let own = meta.labels.iter().flatten().map(|(key, value)| entry(space, key, value));
    own.chain([anything(space)]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{map, meta};

    #[test]
    fn a_selector_is_filed_where_what_it_selects_looks() {
        for (selector, expect) in [
            ("app=web", "ns/app=web"),
            ("app=web,tier=front", "ns/app=web"),
            ("tier in (a,b),app=web", "ns/app=web"),
            ("tier in (a,b)", "ns/tier=a ns/tier=b"),
            ("tier,app!=web", "ns/"),
            ("", "ns/"),
        ] {
            let selector = Selector::parse(selector).unwrap();
            assert_eq!(filed_under("ns", &selector).join(" "), expect);
        }
    }

    fn requirement() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a=1", "b=1", "a in (1,2)", "b in (2,1)", "a!=2", "b notin (1)", "a", "!b"])
    }

    proptest! {
        #[test]
        fn whoever_selects_an_object_is_found(terms in prop::collection::vec(requirement(), 0..4),
                                              a in 0u8..3, b in 0u8..3) {
            let selector = Selector::parse(&terms.join(",")).unwrap();
            let (a, b) = (a.to_string(), b.to_string());
            let own: Vec<_> = [("a", a.as_str()), ("b", b.as_str())].into_iter().filter(|(_, v)| *v != "0").collect();
            let mut object = meta("o");
            object.labels = Some(map(&own));
            if selector.matches_with(|key| label(&object, key)) {
                let found = label_entries(&object);
                prop_assert!(filed_under("ns", &selector).iter().any(|entry| found.contains(entry)));
            }
        }
    }
}
