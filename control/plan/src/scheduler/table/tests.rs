use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::scheduler::testing::{info, node, table};

/// All that a plugin can read of each row with a name, as text.
fn dump(table: &NodeTable) -> BTreeMap<String, String> {
    let text = |word: &Word| table.words.text(*word).to_owned();
    let sized = |list: &[(Word, i64)]| list.iter().map(|(w, n)| (text(w), *n)).collect::<BTreeMap<_, _>>();
    let row = |row: &Row| {
        let at = row.index();
        let labels: BTreeMap<String, String> = table.labels[at].iter().map(|(k, v)| (text(k), text(v))).collect();
        let taints: Vec<_> = table.taints[at].iter().map(|t| (t.taint.clone(), text(&t.shown))).collect();
        let amounts = |a: &Amounts| (a.milli_cpu[at], a.memory[at], a.ephemeral_storage[at], sized(&a.scalars[at]));
        let mut ports = table.ports[at].clone();
        ports.sort();
        let mut pods: Vec<&str> = table.pods[at].iter().map(|pod| pod.uid.as_str()).collect();
        pods.sort_unstable();
        let node = (table.present[at], labels, taints, table.unschedulable[at], table.max_pods[at]);
        let scored = (table.non_zero_requested.milli_cpu[at], table.non_zero_requested.memory[at]);
        let sums = (amounts(&table.allocatable), amounts(&table.requested), scored);
        format!("{node:?} {sums:?} {ports:?} {:?} {pods:?}", sized(&table.images[at]))
    };
    table.by_name.iter().map(|(name, at)| (name.to_string(), row(at))).collect()
}

const NODES: [&str; 7] = [
    "label=zone:x",
    "",
    "cpu=2 label=x:y",
    "cordon taint=own:NoSchedule",
    "label=x:z example.com/gpu=2",
    "image=i:30 pods=3",
    "cpu=1",
];
const PODS: [&str; 6] = [
    "apart=zone/app:web",
    "likes=1/zone/app:db label=app:db",
    "cpu=1",
    "gpu=1 port=80",
    "port=80 memory=1Gi",
    "gpu=2 cpu=500m",
];

/// Asks about others what all of the pods ask.
fn hold(table: &mut NodeTable) {
    for text in PODS {
        info("p", text).spec.peers.queries().for_each(|query| table.hold(query));
    }
}

#[derive(Clone, Debug)]
enum Change {
    SetNode(usize, usize),
    RemoveNode(usize),
    AddPod(usize, usize, usize),
    RemovePod(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (0..4_usize, 0..NODES.len()).prop_map(|(node, what)| Change::SetNode(node, what)),
        (0..4_usize).prop_map(Change::RemoveNode),
        (0..6_usize, 0..PODS.len(), 0..4_usize).prop_map(|(pod, what, node)| Change::AddPod(pod, what, node)),
        (0..6_usize).prop_map(Change::RemovePod),
    ];
    prop::collection::vec(change, 0..60)
}

proptest! {
    /// A table that was kept up to date equals one that was built anew, and holds no word for nothing.
    #[test]
    fn incremental_is_rebuilt(changes in changes()) {
        let mut table = NodeTable::default();
        hold(&mut table);
        let (mut nodes, mut pods) = (BTreeMap::new(), BTreeMap::new());
        for change in changes {
            let before = (table.generation(), dump(&table));
            match change {
                Change::SetNode(n, what) => {
                    let text = format!("n{n} {}", NODES[what]);
                    table.set_node(&node(&text));
                    nodes.insert(n, text);
                }
                Change::RemoveNode(n) => {
                    table.remove_node(&format!("n{n}"));
                    nodes.remove(&n);
                }
                Change::AddPod(p, what, n) => {
                    table.add_pod(info(&format!("p{p}"), PODS[what]), &format!("n{n}"));
                    pods.insert(p, (what, n));
                }
                Change::RemovePod(p) => {
                    table.remove_pod(&format!("uid-p{p}"));
                    pods.remove(&p);
                }
            }
            prop_assert!(before.0 != table.generation() || before.1 == dump(&table), "a change without a generation");
            let mut rebuilt = NodeTable::default();
            hold(&mut rebuilt);
            for text in nodes.values() {
                rebuilt.set_node(&node(text));
            }
            for (p, (what, n)) in &pods {
                rebuilt.add_pod(info(&format!("p{p}"), PODS[*what]), &format!("n{n}"));
            }
            prop_assert_eq!(dump(&table), dump(&rebuilt));
            prop_assert_eq!(table.counts.dump(&table.names), rebuilt.counts.dump(&rebuilt.names));
            prop_assert_eq!(table.words.len(), rebuilt.words.len());
        }
        for n in nodes.keys() {
            table.remove_node(&format!("n{n}"));
        }
        for p in pods.keys() {
            table.remove_pod(&format!("uid-p{p}"));
        }
        prop_assert_eq!((table.words.len(), table.by_name.len(), table.free.len()), (0, 0, table.capacity()));
    }
}

#[test]
fn a_change_of_a_node_is_told_by_its_kind() {
    let mut table = table("a", "");
    assert_eq!(table.set_node(&node("a")), None);
    for (change, kinds) in [
        ("a cpu=5", EventKinds::NODE_ALLOCATABLE),
        ("a pods=7", EventKinds::NODE_ALLOCATABLE),
        ("a example.com/gpu=1", EventKinds::NODE_ALLOCATABLE),
        ("a label=x:y", EventKinds::NODE_LABEL),
        ("a cordon", EventKinds::NODE_TAINT),
        ("a taint=own:NoSchedule", EventKinds::NODE_TAINT),
        ("a cpu=5 label=x:y", EventKinds::NODE_ALLOCATABLE.or(EventKinds::NODE_LABEL)),
    ] {
        let told = |event: Option<ClusterEvent>| event.map(|event| event.kinds);
        assert_eq!(told(table.set_node(&node(change))), Some(kinds), "{change}");
        assert_eq!(told(table.set_node(&node("a"))), Some(kinds), "and back from {change}");
    }
    let generation = table.generation();
    assert_eq!(table.set_node(&node("a image=i:30")), None, "an image helps no pod that fits nowhere");
    assert_ne!(table.generation(), generation, "but it makes the node another");
    table.remove_node("a");
    assert!(table.set_node(&node("a")).is_some_and(|event| event.kinds.intersects(EventKinds::NODE_ADD)));
}

#[test]
fn a_pod_that_comes_or_goes_is_told_by_its_kind() {
    let mut table = table("a, b", "");
    let mut add = |pod: &str, node: &str| {
        let event = table.add_pod(info("p", pod), node);
        (event.map(|event| (table.name(event.row).to_string(), event.kinds)), table.generation())
    };
    let (event, generation) = add("cpu=2", "a");
    assert_eq!(event, Some(("a".into(), EventKinds::POD_ADD)), "those who want to be near it");
    assert_eq!(add("cpu=2", "a"), (None, generation), "said twice, it changes nothing");
    assert_eq!(add("cpu=1", "a").0, Some(("a".into(), EventKinds::POD_UPDATE)));
    assert_eq!(add("cpu=1", "b").0, Some(("a".into(), EventKinds::POD_DELETE)));
    let event = table.remove_pod("uid-p").map(|event| (table.name(event.row).to_string(), event.kinds));
    assert_eq!(event, Some(("b".into(), EventKinds::POD_DELETE)));
    assert_eq!(table.remove_pod("uid-p"), None);
}
