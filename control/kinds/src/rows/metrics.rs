//! What nodes and pods use (`metrics.k8s.io`): measured when somebody asks, and never stored. Upstream: metrics-server
//! `pkg/api`.

use std::sync::Arc;

use kontiki_machinery::{
    measured::{Measured, Measurement, Origin, Usage},
    schema::duration::GoDuration,
};
use serde_json::{Value, json};

use super::cells::{self, Cell};
use super::value::{get, list, text};
use crate::schema::quantity::{self, Amount};
use crate::{GroupResource, ResourceDef, Scope, Strategy, Verb, Verbs};

/// The rows.
#[must_use]
pub fn defs() -> [ResourceDef; 2] {
    let nodes = def(("nodes", "", "NodeMetrics"), Arc::new(OfNodes));
    [ResourceDef { scope: Scope::Cluster, ..nodes }, def(("pods", "", "PodMetrics"), Arc::new(OfPods))]
}

const GROUP: (&str, &str) = ("metrics.k8s.io", "v1beta1");
const API_VERSION: &str = "metrics.k8s.io/v1beta1";
/// What is told of, in the order of the columns.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

fn def(names: (&'static str, &'static str, &'static str), measured: Arc<dyn Measured>) -> ResourceDef {
    let schema = format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{}", names.2);
    ResourceDef {
        verbs: Verbs::of(&[Verb::Get, Verb::List]),
        measured: Some(Origin::Nodes(measured)),
        ..ResourceDef::new(GROUP, names, &schema, Shown)
    }
}

/// Both kinds in a Table.
struct Shown;

impl Strategy for Shown {
    fn row(&self, obj: &Value) -> Vec<Cell> {
        let containers = list(obj, "containers").iter().map(|container| get(container, "usage"));
        let parts: Vec<&Value> = containers.chain([get(obj, "usage")]).collect();
        let sum = |name: &&str| {
            let amounts = parts.iter().filter_map(|usage| Amount::of(get(usage, name)));
            cells::of(amounts.fold(Amount::ZERO, Amount::plus).to_string())
        };
        let mut cells = vec![cells::name(obj)];
        cells.extend(RESOURCES.iter().map(sum));
        cells.push(cells::of(text(obj, "window")));
        cells
    }
}

struct OfNodes;

impl Measured for OfNodes {
    fn about(&self) -> GroupResource<'static> {
        GroupResource { group: "", resource: "nodes" }
    }

    fn node<'a>(&self, subject: &'a Value) -> Option<&'a str> {
        Some(text(get(subject, "metadata"), "name"))
    }

    fn object(&self, subject: &Value, said: &Measurement, now: &str) -> Option<Value> {
        let used = said.whole?;
        let mut object = object("NodeMetrics", subject, &used, now);
        object["usage"] = usage(&used);
        Some(object)
    }
}

struct OfPods;

impl Measured for OfPods {
    fn about(&self) -> GroupResource<'static> {
        GroupResource { group: "", resource: "pods" }
    }

    /// Only what runs uses something.
    fn node<'a>(&self, subject: &'a Value) -> Option<&'a str> {
        let runs = text(get(subject, "status"), "phase") == "Running";
        let node = text(get(subject, "spec"), "nodeName");
        (runs && !node.is_empty()).then_some(node)
    }

    fn object(&self, subject: &Value, said: &Measurement, now: &str) -> Option<Value> {
        let containers = said.containers.get(text(get(subject, "metadata"), "uid"))?;
        // Of one time: that of the oldest number.
        let (_, oldest) = containers.iter().min_by_key(|(_, used)| used.at)?;
        let mut object = object("PodMetrics", subject, oldest, now);
        let shown = containers.iter().map(|(name, used)| json!({"name": name, "usage": usage(used)}));
        object["containers"] = shown.collect();
        Some(object)
    }
}

/// What both kinds have.
fn object(kind: &str, subject: &Value, used: &Usage, now: &str) -> Value {
    let about = get(subject, "metadata");
    let mut metadata = json!({"name": text(about, "name"), "creationTimestamp": now});
    for field in ["namespace", "labels"] {
        if let Some(value) = about.get(field) {
            metadata[field] = value.clone();
        }
    }
    let window = GoDuration(i64::try_from(used.window.as_nanos()).unwrap_or(i64::MAX));
    json!({
        "kind": kind, "apiVersion": API_VERSION, "metadata": metadata,
        "timestamp": used.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "window": window.to_string(),
    })
}

/// Amounts in upstream's spelling: CPU in the largest decimal unit that is exact, memory in the largest binary one.
fn usage(used: &Usage) -> Value {
    let kibi = used.memory.is_multiple_of(1024).then(|| format!("{}Ki", used.memory / 1024));
    let amounts = [format!("{}n", used.cpu), kibi.unwrap_or_else(|| used.memory.to_string())];
    let spelled = amounts.map(|amount| quantity::canonical(&amount).unwrap_or(amount));
    RESOURCES.into_iter().zip(spelled).map(|(name, amount)| (name.to_owned(), Value::from(amount))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;

    fn used(second: i64, cpu: u64, memory: u64) -> Usage {
        let at = Timestamp::from_second(second).expect("a time");
        Usage { at, window: Duration::from_millis(15_020), cpu, memory }
    }

    fn said() -> Measurement {
        let containers = vec![("a".to_owned(), used(9, 2_500_000, 4096)), ("b".to_owned(), used(8, 7, 1 << 20))];
        Measurement { whole: Some(used(9, 1_500_000_000, 3 << 30)), containers: [("u".to_owned(), containers)].into() }
    }

    fn cells_of(def: &ResourceDef, object: &Value) -> Value {
        crate::table::row(def, object, crate::table::IncludeObject::None, Timestamp::UNIX_EPOCH)["cells"].clone()
    }

    #[test]
    fn a_node_says_what_all_of_it_uses() {
        let [nodes, _] = defs();
        let node = json!({"metadata": {"name": "n1", "uid": "x", "labels": {"zone": "a"}}, "status": {}});
        assert_eq!(OfNodes.node(&node), Some("n1"));
        let object = OfNodes.object(&node, &said(), "now").expect("it is measured");
        let expect = json!({
            "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": "n1", "labels": {"zone": "a"}, "creationTimestamp": "now"},
            "timestamp": "1970-01-01T00:00:09Z", "window": "15.02s", "usage": {"cpu": "1500m", "memory": "3Gi"},
        });
        assert_eq!(object, expect);
        assert_eq!(cells_of(&nodes, &object), json!(["n1", "1500m", "3Gi", "15.02s"]));
        assert_eq!(OfNodes.object(&node, &Measurement::default(), "now"), None);
    }

    #[test]
    fn a_pod_is_what_its_own_containers_use() {
        let [_, pods] = defs();
        let pod = |phase: &str, node: &str, uid: &str| json!({"metadata": {"name": "p", "namespace": "a", "uid": uid}, "spec": {"nodeName": node}, "status": {"phase": phase}});
        for (phase, node, expect) in
            [("Running", "n1", Some("n1")), ("Running", "", None), ("Pending", "n1", None), ("Succeeded", "n1", None)]
        {
            assert_eq!(OfPods.node(&pod(phase, node, "u")), expect, "{phase} on {node:?}");
        }
        let object = OfPods.object(&pod("Running", "n1", "u"), &said(), "now").expect("it is measured");
        let containers = json!([
            {"name": "a", "usage": {"cpu": "2500u", "memory": "4Ki"}},
            {"name": "b", "usage": {"cpu": "7n", "memory": "1Mi"}},
        ]);
        assert_eq!((&object["containers"], &object["timestamp"]), (&containers, &json!("1970-01-01T00:00:08Z")));
        assert_eq!(cells_of(&pods, &object), json!(["p", "2500007n", "1028Ki", "15.02s"]));
        let namesake = pod("Running", "n1", "other");
        assert_eq!(OfPods.object(&namesake, &said(), "now"), None, "another pod of this name was there");
    }
}
