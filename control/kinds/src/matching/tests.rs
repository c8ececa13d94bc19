use std::sync::Arc;

use kontiki_machinery::{
    GroupResource,
    access::User,
    admission::{Guard, Operation},
};
use serde_json::json;

use super::*;

fn table() -> Arc<Table> {
    let addresses = "10.96.0.0/16".parse().expect("a range");
    let services = crate::rows::service::Ranges { addresses, node_ports: 30000..=32767 };
    crate::registry(&crate::Settings { services }).table()
}

/// One namespace, `n`, with a label.
struct Cluster;

impl Lookup for Cluster {
    fn object(&mut self, _: GroupResource<'_>, _: Option<&str>, _: &str, _: Guard) -> Result<Option<Value>, Status> {
        Ok(None)
    }

    fn objects(&self, _: GroupResource<'_>) -> Result<Vec<Value>, Status> {
        Ok(vec![json!({"metadata": {"name": "n", "labels": {"team": "a"}}})])
    }

    fn random(&mut self) -> u64 {
        0
    }

    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}

/// What a request is: `CREATE apps/v1 deployments/scale n x`.
struct Asked<'a> {
    operation: Operation,
    def: Arc<ResourceDef>,
    sub: Option<&'a str>,
    namespace: Option<&'a str>,
    name: &'a str,
}

fn asked<'a>(table: &Table, text: &'a str) -> Asked<'a> {
    let words: Vec<&str> = text.split(' ').collect();
    let operation = match words[0] {
        "CREATE" => Operation::Create,
        "UPDATE" => Operation::Update,
        "DELETE" => Operation::Delete,
        _ => Operation::Connect,
    };
    let (group, version) = words[1].split_once('/').unwrap_or(("", words[1]));
    let (plural, sub) = words[2].split_once('/').map_or((words[2], None), |(plural, sub)| (plural, Some(sub)));
    let def = Arc::clone(table.find(group, version, plural).expect("a row"));
    let namespace = def.namespaced().then(|| words[3]);
    Asked { operation, def, sub, namespace, name: words.last().expect("a name") }
}

/// As what a request is meant by a webhook or policy that says this.
fn meant(table: &Table, owner: &Value, text: &str) -> Option<String> {
    let (asked, user) = (asked(table, text), User::default());
    let Asked { operation, def, sub, namespace, name } = &asked;
    let (operation, sub, namespace) = (*operation, *sub, *namespace);
    let request = Request { operation, user: &user, def, sub, namespace, name, old: None, dry_run: false };
    Matching::of(owner, "rules").resource(&request, table).map(|def| def.api_version())
}

fn rule(operations: &[&str], groups: &[&str], versions: &[&str], resources: &[&str]) -> Value {
    json!({"operations": operations, "apiGroups": groups, "apiVersions": versions, "resources": resources})
}

#[test]
fn rules_mean_what_they_name_and_what_is_equivalent() {
    let table = table();
    let with = |mut rule: Value, field: &str, value: Value| {
        rule[field] = value;
        rule
    };
    let pods = rule(&["CREATE"], &[""], &["v1"], &["pods"]);
    let all = rule(&["*"], &["*"], &["*"], &["*"]);
    let everything = rule(&["*"], &["*"], &["*"], &["*/*"]);
    let old_hpa = rule(&["*"], &["autoscaling"], &["v1"], &["horizontalpodautoscalers"]);
    let core_events = rule(&["*"], &[""], &["v1"], &["events"]);
    for (what, rule, request, expect) in [
        ("its own", &pods, "CREATE v1 pods n x", Some("v1")),
        ("another operation", &pods, "UPDATE v1 pods n x", None),
        ("another resource", &pods, "CREATE v1 secrets n x", None),
        ("a subresource", &pods, "CREATE v1 pods/eviction n x", None),
        ("any resource", &all, "DELETE v1 nodes x", Some("v1")),
        ("any resource, no subresource", &all, "UPDATE v1 pods/status n x", None),
        ("any subresource", &everything, "CONNECT v1 pods/exec n x", Some("v1")),
        ("and no subresource", &everything, "CREATE v1 pods n x", Some("v1")),
        ("all of one", &rule(&["*"], &[""], &["v1"], &["pods/*"]), "UPDATE v1 pods/status n x", Some("v1")),
        (
            "one of all",
            &rule(&["*"], &["*"], &["*"], &["*/scale"]),
            "UPDATE apps/v1 deployments/scale n x",
            Some("apps/v1"),
        ),
        ("another version", &old_hpa, "CREATE autoscaling/v2 horizontalpodautoscalers n x", Some("autoscaling/v1")),
        (
            "its own version first",
            &rule(&["*"], &["*"], &["*"], &["*"]),
            "CREATE autoscaling/v2 horizontalpodautoscalers n x",
            Some("autoscaling/v2"),
        ),
        ("another group", &core_events, "CREATE events.k8s.io/v1 events n x", Some("v1")),
        ("namespaced", &with(all.clone(), "scope", json!("Namespaced")), "CREATE v1 pods n x", Some("v1")),
        ("not namespaced", &with(all.clone(), "scope", json!("Namespaced")), "CREATE v1 nodes x", None),
        (
            "a namespace is not in itself",
            &with(all.clone(), "scope", json!("Cluster")),
            "UPDATE v1 namespaces x",
            Some("v1"),
        ),
        ("nothing of the cluster", &with(all.clone(), "scope", json!("Cluster")), "CREATE v1 pods n x", None),
        ("a name", &with(all.clone(), "resourceNames", json!(["x"])), "UPDATE v1 pods n x", Some("v1")),
        ("another name", &with(all.clone(), "resourceNames", json!(["y"])), "UPDATE v1 pods n x", None),
    ] {
        let hook = json!({"matchPolicy": "Equivalent", "rules": [rule]});
        assert_eq!(meant(&table, &hook, request).as_deref(), expect, "{what}");
    }
    let exact = json!({"matchPolicy": "Exact", "rules": [old_hpa]});
    assert_eq!(meant(&table, &exact, "CREATE autoscaling/v2 horizontalpodautoscalers n x"), None);
    let but = json!({"rules": [all], "excludeResourceRules": [old_hpa]});
    assert_eq!(meant(&table, &but, "CREATE autoscaling/v2 horizontalpodautoscalers n x"), None, "excluded");
    assert_eq!(meant(&table, &but, "CREATE v1 pods n x").as_deref(), Some("v1"));
    assert_eq!(meant(&table, &json!({}), "CREATE v1 pods n x"), None, "no rules");
}

#[test]
fn selectors_look_at_both_objects_and_the_namespace() {
    let table = table();
    let team = |team: &str| json!({"matchLabels": {"team": team}});
    let labelled = |team: &str| json!({"metadata": {"name": "x", "labels": {"team": team}}});
    let none = Value::Null;
    for (what, selector, request, object, old, expect) in [
        ("a label", json!({"objectSelector": team("a")}), "CREATE v1 pods n x", labelled("a"), None, Some(true)),
        ("another", json!({"objectSelector": team("a")}), "CREATE v1 pods n x", labelled("b"), None, Some(false)),
        (
            "the old one's",
            json!({"objectSelector": team("a")}),
            "UPDATE v1 pods n x",
            labelled("b"),
            Some(labelled("a")),
            Some(true),
        ),
        (
            "one that goes",
            json!({"objectSelector": team("a")}),
            "DELETE v1 pods n x",
            none.clone(),
            Some(labelled("a")),
            Some(true),
        ),
        (
            "no object",
            json!({"objectSelector": {"matchExpressions": [{"key": "k", "operator": "DoesNotExist"}]}}),
            "CONNECT v1 pods/exec n x",
            json!({"kind": "PodExecOptions"}),
            None,
            Some(false),
        ),
        (
            "the namespace",
            json!({"namespaceSelector": team("a")}),
            "CREATE v1 pods n x",
            labelled("b"),
            None,
            Some(true),
        ),
        ("another", json!({"namespaceSelector": team("b")}), "CREATE v1 pods n x", labelled("b"), None, Some(false)),
        (
            "one that is not there",
            json!({"namespaceSelector": team("a")}),
            "CREATE v1 pods m x",
            labelled("a"),
            None,
            None,
        ),
        ("none", json!({"namespaceSelector": team("b")}), "CREATE v1 nodes x", labelled("a"), None, Some(true)),
        (
            "a namespace as it is to be",
            json!({"namespaceSelector": team("b")}),
            "UPDATE v1 namespaces n",
            labelled("b"),
            None,
            Some(true),
        ),
        (
            "a namespace that goes, as it is",
            json!({"namespaceSelector": team("a")}),
            "DELETE v1 namespaces n",
            none.clone(),
            Some(labelled("b")),
            Some(true),
        ),
    ] {
        let (asked, user) = (asked(&table, request), User::default());
        let Asked { operation, def, sub, namespace, name } = &asked;
        let (operation, sub, namespace, old) = (*operation, *sub, *namespace, old.as_ref());
        let request = Request { operation, user: &user, def, sub, namespace, name, old, dry_run: false };
        let found = Matching::of(&selector, "rules").selects(&request, &object, &Cluster);
        match expect {
            Some(expect) => assert_eq!(found, Ok(expect), "{what}"),
            None => assert_eq!(found.expect_err(what).message, "namespaces \"m\" not found"),
        }
    }
}
