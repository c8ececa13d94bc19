//! What upstream's tables of this plugin say (plugins/podtopologyspread).

use crate::scheduler::testing::{check_filter, check_score};

/// Two zones of two nodes, and a node without a zone.
const NODES: &str = "a label=zone:x, b label=zone:x, c label=zone:y, d label=zone:y, e";

fn check(name: &str, there: &str, pod: &str, feasible: &str) {
    let refusal = |node: &str| match node {
        "e" if pod.contains("zone") => {
            "e: node(s) didn't match pod topology spread constraints (missing required label)!".to_owned()
        }
        node => format!("{node}: node(s) didn't match pod topology spread constraints"),
    };
    let refused: Vec<String> =
        ["a", "b", "c", "d", "e"].into_iter().filter(|n| !feasible.contains(n)).map(refusal).collect();
    check_filter(name, &super::PLUGIN, NODES, there, pod, &refused.join(", "));
}

#[test]
fn no_domain_gets_too_far_ahead() {
    for (name, there, pod, feasible) in [
        ("no constraint", "a: ", "", "abcde"),
        ("a wish is no constraint", "a: ", "spread=zone/1/soft", "abcde"),
        ("nobody there", "", "spread=zone/1", "abcd"),
        ("one ahead", "a: ", "spread=zone/1", "cd"),
        ("two may be ahead", "a: ", "spread=zone/2", "abcd"),
        ("even", "a: , c: ", "spread=zone/1", "abcd"),
        ("per node", "a: , b: , c: ", "spread=host/1", "de"),
        ("both", "a: , b: , c: ", "spread=zone/1 spread=host/1", "d"),
        ("pods of others do not count", "a: label=app:db", "spread=zone/1", "abcd"),
        ("pods of other namespaces do not", "a: ns=other", "spread=zone/1", "abcd"),
        ("pods that go do not", "a: going=1", "spread=zone/1", "abcd"),
        ("pods outside of all domains do not", "e: , e: ", "spread=zone/1", "abcd"),
        ("one that does not count itself", "a: , a: ", "spread=zone/1 label=app:db", "cd"),
        ("and only equals", "a: ", "spread=zone/1 label=app:db", "abcd"),
        ("a domain is missing", "a: , c: ", "spread=zone/1/min3", ""),
        ("as many as there are", "a: , c: ", "spread=zone/1/min2", "abcd"),
        ("missing, but nobody there", "", "spread=zone/1/min3", "abcd"),
        ("nodes it may not go to do not count", "a: ", "spread=zone/1 require=zone:In:x", "abcd"),
        ("unless it says so", "a: ", "spread=zone/1/everywhere require=zone:In:x", "cd"),
        ("of the same revision", "a: label=rev:1", "spread=zone/1/same:rev label=rev:2", "abcd"),
        ("of that revision", "a: label=rev:2", "spread=zone/1/same:rev label=rev:2", "cd"),
        ("no selector", "a: , a: ", "spread=zone/1/of:-", "abcd"),
        ("nobody has the label", "a: ", "spread=rack/1", ""),
    ] {
        if pod.contains("rack") {
            let text = "node(s) didn't match pod topology spread constraints (missing required label)!";
            let expect: Vec<String> = ["a", "b", "c", "d", "e"].map(|n| format!("{n}: {text}")).into();
            check_filter(name, &super::PLUGIN, NODES, there, pod, &expect.join(", "));
        } else {
            check(name, there, pod, feasible);
        }
    }
}

#[test]
fn tainted_nodes_count_unless_taints_are_honoured() {
    let nodes = "a label=zone:x, b label=zone:y taint=own:NoSchedule";
    let refused = "a: node(s) didn't match pod topology spread constraints";
    check_filter("counted", &super::PLUGIN, nodes, "a: ", "spread=zone/1", refused);
    check_filter("not counted", &super::PLUGIN, nodes, "a: ", "spread=zone/1/taints", "");
    check_filter("tolerated", &super::PLUGIN, nodes, "a: ", "spread=zone/1/taints tolerate=own", refused);
}

#[test]
fn the_emptier_domain_is_better() {
    for (name, there, pod, expect) in [
        ("nobody", "", "spread=zone/1/soft", [100, 100, 100, 100, 0]),
        ("one", "a: ", "spread=zone/1/soft", [0, 0, 100, 100, 0]),
        ("a little skew does not matter as much", "a: ", "spread=zone/4/soft", [75, 75, 100, 100, 0]),
        ("two and one", "a: , b: , c: ", "spread=zone/1/soft", [33, 33, 100, 100, 0]),
        ("per node", "a: ", "spread=host/1/soft", [0, 100, 100, 100, 100]),
        ("a constraint is no wish", "a: ", "spread=zone/1", [0, 0, 0, 0, 0]),
        ("by default over nodes", "a: ", "", [50, 100, 100, 100, 100]),
    ] {
        check_score(name, &super::PLUGIN, NODES, there, pod, &expect);
    }
    let zone = |node: &str, zone: &str| format!("{node} label=topology.kubernetes.io/zone:{zone}");
    let zones = [zone("a", "x"), zone("b", "x"), zone("c", "y"), "d".into()].join(",");
    check_score("by default over zones and nodes", &super::PLUGIN, &zones, "a: ", "", &[22, 33, 55, 100]);
}
