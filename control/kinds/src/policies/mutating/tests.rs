use kontiki_machinery::access::User;
use serde_json::json;

use super::*;
use crate::policies::tests::{Cluster, registry};

/// A MutatingAdmissionPolicy about Deployments in a version, with such fields and mutations, and its binding.
fn policies(version: &str, fields: &Value, mutations: &[Value], binding: &Value) -> Policies {
    let rule = json!({"operations": ["*"], "apiGroups": ["apps"], "apiVersions": [version], "resources": ["deployments", "deployments/scale"]});
    let mut spec = json!({"failurePolicy": "Fail", "reinvocationPolicy": "Never",
        "matchConstraints": {"resourceRules": [rule]}, "mutations": mutations});
    let mut bound = json!({"policyName": "p"});
    for (to, from) in [(&mut spec, fields), (&mut bound, binding)] {
        to.as_object_mut().unwrap().extend(from.as_object().unwrap().clone());
    }
    let policies = Policies(Known::new(&registry(), BINDINGS));
    for (resource, name, spec) in [(POLICIES, "p", spec), (BINDINGS, "b", bound)] {
        let stored = json!({"metadata": {"name": name}, "spec": spec}).to_string();
        policies.changed(&ObjectKey::new(resource, None, name), Some(stored.as_bytes()));
    }
    policies
}

fn patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

fn configuration(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn deployment() -> Value {
    let container = json!({"name": "c", "image": "i"});
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "n", "labels": {"a": "b"}},
        "spec": {"replicas": 4, "selector": {"matchLabels": {"a": "b"}},
                 "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}}})
}

/// What becomes of a new Deployment.
fn mutated(policies: &Policies, old: Option<&Value>) -> Result<Value, Status> {
    let registry = registry();
    let table = registry.table();
    let def = table.find("apps", "v1", "deployments").unwrap();
    let (user, namespace) = (User::new("admin", &["devs"]), Some("n"));
    let operation = if old.is_some() { Operation::Update } else { Operation::Create };
    let request = Request { operation, user: &user, def, sub: None, namespace, name: "", old, dry_run: false };
    let mut object = deployment();
    def.strategy.default(&mut object);
    let mut cluster = Cluster(registry.clone());
    for mutator in policies.mutators(&request, &object, &cluster)? {
        mutator.mutate(&request, &mut object, &mut cluster)?;
    }
    Ok(object)
}

fn one(mutation: Value) -> Result<Value, Status> {
    mutated(&policies("v1", &json!({}), &[mutation], &json!({})), None)
}

#[test]
fn mutations_change_objects() {
    for (what, mutation, pointer, expect) in [
        ("a patch", patch("[JSONPatch{op: 'replace', path: '/spec/replicas', value: object.spec.replicas + 1}]"), "/spec/replicas", json!(5)),
        ("a key that is escaped", patch("[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('x/y'), value: 'z'}]"), "/metadata/labels/x~1y", json!("z")),
        ("an object as a value", patch("[JSONPatch{op: 'add', path: '/spec/template/spec/securityContext', value: Object.spec.template.spec.securityContext{runAsUser: 7}}]"), "/spec/template/spec/securityContext/runAsUser", json!(7)),
        ("a test that does not hold", patch("[JSONPatch{op: 'test', path: '/spec/replicas', value: 3}, JSONPatch{op: 'remove', path: '/spec/replicas'}]"), "/spec/replicas", json!(4)),
        ("a test that holds", patch("[JSONPatch{op: 'test', path: '/spec/replicas', value: 4}, JSONPatch{op: 'replace', path: '/spec/replicas', value: 1}]"), "/spec/replicas", json!(1)),
        ("defaults follow", patch("[JSONPatch{op: 'remove', path: '/spec/replicas'}]"), "/spec/replicas", json!(1)),
        ("a name stays", patch("[JSONPatch{op: 'replace', path: '/metadata/name', value: 'other'}]"), "/metadata/name", json!("d")),
        ("a configuration", configuration("Object{spec: Object.spec{replicas: 2}}"), "/spec/replicas", json!(2)),
        ("labels are merged", configuration("Object{metadata: Object.metadata{labels: {'c': 'd'}}}"), "/metadata/labels", json!({"a": "b", "c": "d"})),
        ("containers are merged by name", configuration("Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
            containers: object.spec.template.spec.containers.map(c, Object.spec.template.spec.containers{name: c.name, imagePullPolicy: 'Never'}) +
                [Object.spec.template.spec.containers{name: 'side', image: 's'}]}}}}"), "/spec/template/spec/containers/0/imagePullPolicy", json!("Never")),
        ("what is optional", configuration("Object{spec: Object.spec{?replicas: has(object.spec.paused) ? optional.of(9) : optional.none()}}"), "/spec/replicas", json!(4)),
    ] {
        let object = one(mutation).unwrap_or_else(|status| panic!("{what}: {}", status.message));
        assert_eq!(object.pointer(pointer), Some(&expect), "{what}: {object}");
        assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("Deployment"), &json!("apps/v1")), "{what}");
    }
}

#[test]
fn failures_are_refusals_in_upstreams_words() {
    let invalid = |why: &str| (403, "Invalid", format!("policy 'p' with binding 'b' denied request: {why}"));
    for (mutation, expect) in [
        (
            patch("[JSONPatch{op: 'add', path: '/spec/x/y', value: object.nope}]"),
            invalid(
                "expression '[JSONPatch{op: 'add', path: '/spec/x/y', value: object.nope}]' resulted in error: no such key: nope",
            ),
        ),
        (patch("[JSONPatch{op: 'remove', path: '/spec/nope'}]"), invalid("JSON Patch: ")),
        (
            patch("[JSONPatch{op: 'replace', path: '/spec/replicas', value: 'many'}]"),
            (500, "InternalError", "Internal error occurred: ".into()),
        ),
        (
            patch("[JSONPatch{op: 'add', path: '/spec/nope', value: 1}]"),
            (
                500,
                "InternalError",
                "Internal error occurred: strict decoding error: unknown field \"spec.nope\"".into(),
            ),
        ),
        (patch("[]"), invalid("must evaluate to list(JSONPatch) but got list(dyn)")),
        (
            configuration("Object{spec: Object.wrong{}}"),
            invalid("type mismatch: unexpected type name \"Object.wrong\", expected \"Object.spec\""),
        ),
        (
            configuration("Object{spec: Object.spec{nope: 1}}"),
            invalid(
                "error applying patch: failed to convert patch object to typed object: .spec.nope: field not declared in schema",
            ),
        ),
        (
            configuration("Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'x': 'y'}}}}"),
            invalid(
                "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
            ),
        ),
    ] {
        let shown = mutation.to_string();
        let status = one(mutation).expect_err(&shown);
        let (code, reason, message) = expect;
        assert_eq!((status.code, status.reason.as_str()), (code, reason), "{shown}: {}", status.message);
        assert!(status.message.starts_with(&message), "{shown}: {}", status.message);
        if code == 403 {
            assert_eq!(status.details.unwrap().causes[0].message, status.message, "{shown}");
        }
    }
}

#[test]
fn who_is_asked_with_what_says_the_policy() {
    let three = || patch("[JSONPatch{op: 'replace', path: '/spec/replicas', value: int(params.data.max)}]");
    let plus = || patch("[JSONPatch{op: 'replace', path: '/spec/replicas', value: variables.n + 1}]");
    let broken = || patch("[JSONPatch{op: 'add', path: '/spec/x', value: object.nope}]");
    let param = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}});
    let named = |name: &str, action: &str| json!({"paramRef": {"name": name, "parameterNotFoundAction": action}});
    let none = json!({});
    let n = json!({"variables": [{"name": "n", "expression": "object.spec.replicas"}]});
    let when =
        |text: &str| json!({"matchConditions": [{"name": "c", "expression": text}], "variables": n["variables"]});
    for (what, fields, mutations, binding, expect) in [
        ("a parameter", param.clone(), vec![three()], named("limits", "Deny"), Ok(3)),
        ("no parameter", param.clone(), vec![three()], named("nope", "Allow"), Ok(4)),
        ("a missing one", param, vec![three()], named("nope", "Deny"), Err("Forbidden")),
        ("variables see what the mutation before made", n.clone(), vec![plus(), plus()], none.clone(), Ok(6)),
        ("a condition that holds", when("request.operation == 'CREATE'"), vec![plus()], none.clone(), Ok(5)),
        ("one that does not", when("request.operation == 'DELETE'"), vec![plus()], none.clone(), Ok(4)),
        ("one that fails", when("object.nope == 1"), vec![plus()], none.clone(), Err("Invalid")),
        (
            "a failure that is ignored",
            json!({"failurePolicy": "Ignore", "variables": n["variables"]}),
            vec![broken(), plus()],
            none.clone(),
            Ok(5),
        ),
        (
            "a namespace that is not meant",
            n.clone(),
            vec![plus()],
            json!({"matchResources": {"namespaceSelector": {"matchLabels": {"team": "b"}}}}),
            Ok(4),
        ),
    ] {
        let found = mutated(&policies("v1", &fields, &mutations, &binding), None);
        let found = found.map(|object| object["spec"]["replicas"].as_i64().unwrap()).map_err(|status| status.reason);
        assert_eq!(found, expect.map_err(str::to_owned), "{what}");
    }
    let update = mutated(&policies("v1", &n, &[plus()], &none), Some(&deployment()));
    assert_eq!(update.unwrap()["spec"]["replicas"], 5, "an update is mutated too");
}

#[test]
fn nothing_is_left_to_change_of_what_is_deleted() {
    let (registry, policies) =
        (registry(), policies("*", &json!({}), &[patch("[JSONPatch{op: 'remove', path: '/spec'}]")], &json!({})));
    let table = registry.table();
    let def = table.find("apps", "v1", "deployments").unwrap();
    let (user, old) = (User::default(), deployment());
    let (operation, namespace) = (Operation::Delete, Some("n"));
    let request =
        Request { operation, user: &user, def, sub: None, namespace, name: "d", old: Some(&old), dry_run: false };
    assert!(policies.mutators(&request, &Value::Null, &Cluster(registry.clone())).unwrap().is_empty());
}
