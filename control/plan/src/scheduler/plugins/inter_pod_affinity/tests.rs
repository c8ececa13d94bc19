//! What upstream's tables of this plugin say (plugins/interpodaffinity).

use crate::scheduler::testing::{check_filter, check_score, info, scheduler};

const ZONES: &str = "a label=zone:x, b label=zone:x, c label=zone:y, d";

/// Which nodes take the pod; what they are refused for is told apart below.
fn feasible(name: &str, there: &str, pod: &str, expect: &str) {
    let mut scheduler = scheduler(ZONES, there);
    let explained = scheduler.explain(&info("new", pod));
    assert_eq!(explained.feasible(), expect.len(), "{name}: {explained}");
    let refused: Vec<String> = Vec::new();
    let nodes = ["a", "b", "c", "d"].into_iter().filter(|node| expect.contains(node));
    for node in nodes {
        let only = info("new", &format!("{pod} field=metadata.name:In:{node}"));
        assert_eq!(scheduler.explain(&only).feasible(), 1, "{name}: {node} {refused:?}");
    }
}

#[test]
fn the_pods_of_a_domain_decide() {
    for (name, there, pod, expect) in [
        ("no wish", "a: label=app:db", "", "abcd"),
        ("near another", "a: label=app:db", "near=zone/app:db", "ab"),
        ("near one on a node", "a: label=app:db", "near=host/app:db", "a"),
        ("near one that is not there", "", "near=zone/app:db", ""),
        ("near one outside of all domains", "d: label=app:db", "near=zone/app:db", ""),
        ("near one in another namespace", "a: label=app:db ns=other", "near=zone/app:db", ""),
        ("and it is named", "a: label=app:db ns=other", "near=zone/app:db/other", "ab"),
        ("and only it is named", "a: label=app:db", "near=zone/app:db/other", ""),
        ("in all namespaces", "a: label=app:db ns=other", "near=zone/app:db/@*", "ab"),
        ("no selector matches no pod", "a: ", "near=zone/-", ""),
        ("an empty one any", "a: ", "near=zone/*", "ab"),
        ("the first of its group", "", "near=zone/app:web", "abc"),
        ("the second of its group", "c: ", "near=zone/app:web", "c"),
        ("the first, but not of itself", "", "near=zone/app:web/other", ""),
        ("two terms, one pod", "a: label=app:db label=tier:x", "near=zone/app:db near=host/tier:x", "a"),
        ("two terms, two pods", "a: label=app:db, a: label=tier:x", "near=zone/app:db near=zone/tier:x", ""),
        ("one that is going still counts", "a: label=app:db going=1", "near=zone/app:db", "ab"),
        ("apart from another", "a: label=app:db", "apart=zone/app:db", "cd"),
        ("apart on a node", "a: label=app:db", "apart=host/app:db", "bcd"),
        ("apart from its own", "a: , c: ", "apart=zone/app:web", "d"),
        ("apart from those of another namespace", "a: ns=other", "apart=zone/app:web", "abcd"),
        ("others want to be apart from it", "a: label=app:db apart=zone/app:web", "", "cd"),
        ("others elsewhere do not mind", "a: label=app:db apart=zone/app:web ns=other", "", "abcd"),
        ("unless they name its namespace", "a: label=app:db apart=zone/app:web/ns ns=other", "", "cd"),
        ("near and apart", "a: label=app:db, a: label=app:x", "near=zone/app:db apart=host/app:x", "b"),
        ("of the same revision", "a: label=app:db label=rev:1", "near=zone/app:db/same:rev label=rev:1", "ab"),
        ("of another revision", "a: label=app:db label=rev:2", "near=zone/app:db/same:rev label=rev:1", ""),
        ("a label it does not have", "a: label=app:db label=rev:2", "near=zone/app:db/same:rev", "ab"),
        ("not of its own revision", "a: label=app:db label=rev:1", "apart=zone/app:db/other:rev label=rev:1", "abcd"),
        ("but of others", "a: label=app:db label=rev:2", "apart=zone/app:db/other:rev label=rev:1", "cd"),
    ] {
        feasible(name, there, pod, expect);
    }
}

#[test]
fn every_refusal_has_its_words() {
    for (name, there, pod, expect) in [
        ("affinity", "", "near=zone/app:db", "a: node(s) didn't match pod affinity rules!"),
        ("anti-affinity", "a: ", "apart=zone/app:web", "a: node(s) didn't match pod anti-affinity rules"),
        ("others'", "a: apart=zone/app:web", "", "a: node(s) didn't satisfy existing pods anti-affinity rules"),
        ("both", "a: apart=zone/app:web", "apart=zone/app:web", "a: node(s) didn't match pod anti-affinity rules"),
    ] {
        check_filter(name, &super::PLUGIN, "a label=zone:x", there, pod, expect);
    }
}

#[test]
fn namespaces_are_found_by_their_labels() {
    let mut scheduler = scheduler(ZONES, "a: label=app:db ns=other");
    let pod = info("new", "near=zone/app:db/@team:x");
    assert_eq!(scheduler.explain(&pod).feasible(), 0);
    let labels = crate::testing::map(&[("team", "x")]);
    assert!(scheduler.set_namespace("other", Some(labels.clone())).is_some());
    assert_eq!(scheduler.explain(&pod).feasible(), 2);
    assert!(scheduler.set_namespace("other", Some(labels)).is_none(), "no news");
    assert!(scheduler.set_namespace("other", None).is_some());
    assert_eq!(scheduler.explain(&pod).feasible(), 0);
}

#[test]
fn preferences_of_both_sides_add_up() {
    let zones = "a label=zone:x, b label=zone:x, c label=zone:y";
    for (name, there, pod, expect) in [
        ("drawn", "a: label=app:db", "likes=5/zone/app:db", [100, 100, 0]),
        ("twice as much", "a: label=app:db, c: label=app:db, c: label=app:db", "likes=5/zone/app:db", [0, 0, 100]),
        ("pushed away", "a: label=app:db", "dislikes=5/zone/app:db", [0, 0, 100]),
        ("on a node", "a: label=app:db", "dislikes=5/host/app:db", [0, 100, 100]),
        ("both", "a: label=app:db, c: label=app:db", "likes=5/zone/app:db dislikes=2/host/app:db", [0, 100, 0]),
        ("by those who are there", "c: likes=1/zone/app:web", "", [0, 0, 100]),
        ("by what they require", "c: near=zone/app:web", "", [0, 0, 100]),
        ("pushed by those who are there", "c: dislikes=1/zone/app:web", "", [100, 100, 0]),
        ("nobody cares", "c: likes=1/zone/app:db", "", [0, 0, 0]),
    ] {
        check_score(name, &super::PLUGIN, zones, there, pod, &expect);
    }
}
