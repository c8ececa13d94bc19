//! Which sets a change concerns, besides those of [`crate::workloads::managed::concerned`].

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Taint};

use super::nodes::{Eligible, Verdict};
use crate::key::NamespacedName;
use crate::object::Labels;

/// What sets look at in a node.
fn face(node: &Node) -> (Option<&String>, Option<&Labels>, Option<&Vec<Taint>>) {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    (node.metadata.name.as_ref(), node.metadata.labels.as_ref(), taints)
}

/// The sets to which a node means something else than before. `sets` is asked only if there may be some.
pub fn by_node(
    old: Option<&Node>,
    new: Option<&Node>,
    sets: impl FnOnce() -> Vec<Arc<DaemonSet>>,
) -> Vec<NamespacedName> {
    if let (Some(old), Some(new)) = (old, new)
        && face(old) == face(new)
    {
        return Vec::new();
    }
    let moved = |set: &Arc<DaemonSet>| {
        let eligible = Eligible::new(set);
        let verdict = |node: Option<&Node>| node.map_or(Verdict::default(), |node| eligible.verdict(node));
        verdict(old) != verdict(new)
    };
    let moved = sets().into_iter().filter(moved);
    moved.map(|set| NamespacedName::of(&set.metadata)).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus};

    use super::*;
    use crate::testing::{map, meta};
    use crate::workloads::daemonset::tests::set;

    /// `n` a node, `n!` one with a taint, `n+` one with a label, `n*` one that says something new of itself.
    fn node(text: &str) -> Option<Node> {
        let mut node = Node { metadata: meta("n"), spec: Some(NodeSpec::default()), status: None };
        for mark in text.chars().skip(1) {
            match mark {
                '!' => {
                    let taint = Taint { key: "own".into(), effect: "NoSchedule".into(), ..Taint::default() };
                    node.spec.as_mut().unwrap().taints = Some(vec![taint]);
                }
                '+' => node.metadata.labels = Some(map(&[("a", "b")])),
                _ => node.status = Some(NodeStatus { phase: Some("x".into()), ..NodeStatus::default() }),
            }
        }
        (!text.is_empty()).then_some(node)
    }

    #[test]
    fn a_node_concerns_those_to_whom_it_means_something_else() {
        for (name, old, new, expect) in [
            ("a new node", "", "n", "ns/web"),
            ("a new node that nobody wants", "", "n!", "ns/web"),
            ("a lost node", "n", "", "ns/web"),
            ("a taint", "n", "n!", "ns/web"),
            ("a label that nobody asks for", "n", "n+", ""),
            ("a heartbeat", "n", "n*", ""),
        ] {
            let sets = || vec![Arc::new(set("1,0", "a"))];
            let keys = by_node(node(old).as_ref(), node(new).as_ref(), sets);
            assert_eq!(keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), expect, "{name}");
        }
    }
}
