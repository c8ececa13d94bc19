//! What is told of policies by the types of what they are meant for.

use std::sync::OnceLock;

use bytes::Bytes;
use kontiki_machinery::Registry;
use kontiki_model::ObjectKey;

use super::*;
use crate::custom::DEFINITIONS;

/// All built-in kinds, and CronTabs.
fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(make)
}

fn make() -> Registry {
    let registry = super::super::tests::registry();
    let names = json!({"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList"});
    let template =
        json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
    let spec = json!({"type": "object", "properties": {
        "cronSpec": {"type": "string"}, "replicas": {"type": "integer"}, "template": template,
        "port": {"x-kubernetes-int-or-string": true}, "any": {"x-kubernetes-preserve-unknown-fields": true},
    }});
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let definition = json!({
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced", "names": names, "versions": [version]},
        "status": {"acceptedNames": names, "conditions": [{"type": "Established", "status": "True"}]},
    });
    let key = ObjectKey::new(DEFINITIONS, None, "crontabs.stable.example.com");
    registry.source().expect("a source").changed(&key, Some(Bytes::from(definition.to_string())));
    registry.settle();
    registry
}

fn rule(groups: &[&str], versions: &[&str], resources: &[&str]) -> Value {
    json!({"operations": ["*"], "apiGroups": groups, "apiVersions": versions, "resources": resources})
}

/// A policy with such rules, of one expression.
fn policy(rules: &[Value], expression: &str) -> Value {
    json!({"spec": {"matchConstraints": {"resourceRules": rules}, "validations": [{"expression": expression}]}})
}

fn with(mut policy: Value, field: &str, value: Value) -> Value {
    policy["spec"][field] = value;
    policy
}

/// Places and texts.
fn told(policy: &Value) -> Vec<(String, String)> {
    let found = checked(policy, &registry().table());
    let warnings = list(&found, "expressionWarnings");
    warnings.iter().map(|it| (text(it, "fieldRef").to_owned(), text(it, "warning").to_owned())).collect()
}

#[test]
fn warnings_are_told_in_upstreams_words() {
    let deployments = [rule(&["apps"], &["v1"], &["deployments"])];
    let both = [rule(&["apps"], &["v1"], &["replicasets"]), deployments[0].clone()];
    let mut confused = policy(&deployments, "object.spec.replicas > '1'");
    confused["spec"]["validations"][0]["messageExpression"] = "'got ' + object.spec.replicas".into();
    let crontabs = rule(&["stable.example.com"], &["v1"], &["crontabs"]);
    let texts = ["object.spec.replicas > '1'", "object.spec.maxRetries < 10", "object.spec.replicas > 1"];
    let custom =
        with(policy(&[crontabs], ""), "validations", json!(texts.map(|expression| json!({"expression": expression}))));
    let overload = "found no matching overload for";
    for (policy, expect) in [
        (
            policy(&deployments, "object.spec.foo == 1"),
            vec![(
                "spec.validations[0].expression",
                "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'foo'\n | object.spec.foo == 1\n | ...........^\n"
                    .to_owned(),
            )],
        ),
        (
            confused,
            vec![
                (
                    "spec.validations[0].expression",
                    format!(
                        "apps/v1, Kind=Deployment: ERROR: <input>:1:22: {overload} '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n"
                    ),
                ),
                (
                    "spec.validations[0].messageExpression",
                    format!(
                        "apps/v1, Kind=Deployment: ERROR: <input>:1:8: {overload} '_+_' applied to '(string, int)'\n | 'got ' + object.spec.replicas\n | .......^\n"
                    ),
                ),
            ],
        ),
        (
            policy(&both, "object.replicas > 1"),
            vec![(
                "spec.validations[0].expression",
                ["Deployment", "ReplicaSet"]
                    .map(|kind| format!("apps/v1, Kind={kind}: ERROR: <input>:1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^\n"))
                    .join("\n"),
            )],
        ),
        (
            custom,
            vec![
                (
                    "spec.validations[0].expression",
                    format!(
                        "stable.example.com/v1, Kind=CronTab: ERROR: <input>:1:22: {overload} '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n"
                    ),
                ),
                (
                    "spec.validations[1].expression",
                    "stable.example.com/v1, Kind=CronTab: ERROR: <input>:1:12: undefined field 'maxRetries'\n | object.spec.maxRetries < 10\n | ...........^\n"
                        .to_owned(),
                ),
            ],
        ),
    ] {
        let expect: Vec<_> = expect.into_iter().map(|(place, text)| (place.to_owned(), text)).collect();
        assert_eq!(told(&policy), expect);
    }
    assert_eq!(checked(&policy(&deployments, "object.spec.replicas > 1"), &registry().table()), json!({}));
}

#[test]
fn expressions_are_checked_against_the_types_of_kinds() {
    let of = |resource: &str| [rule(&["", "apps", "stable.example.com"], &["v1"], &[resource])];
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let params = |kind: Value, expression: &str| with(policy(&of("configmaps"), expression), "paramKind", kind);
    let variable = |value: &str, expression: &str| {
        with(policy(&of("deployments"), expression), "variables", json!([{"name": "x", "expression": value}]))
    };
    // Nothing is to be told where nothing is said.
    for (policy, expect) in [
        (policy(&of("deployments"), "oldObject == null || oldObject.spec.paused"), ""),
        (policy(&of("deployments"), "oldObject.spec.pause"), "undefined field 'pause'"),
        (policy(&of("deployments"), "object.metadata.labels.a == 'b' && object.kind == 'Deployment'"), ""),
        (policy(&of("deployments"), "object.metadata.creationTimestamp < timestamp('2020-01-01T00:00:00Z')"), ""),
        (policy(&of("deployments"), "object.spec.template.spec.containers.all(c, c.image.startsWith('a'))"), ""),
        (
            policy(&of("deployments"), "object.spec.template.spec.containers.all(c, c.img == '')"),
            "undefined field 'img'",
        ),
        (policy(&of("deployments"), "object.spec.replicas > 1 &&"), "Syntax error"),
        (policy(&of("deployments"), "request.foo == 1"), "undefined field 'foo'"),
        (policy(&of("deployments"), "namespaceObject.metadata.labels.a == 'b'"), ""),
        (policy(&of("deployments"), "authorizer.group('').resource('pods').check('get').allowed()"), ""),
        (
            policy(&of("deployments"), "authorizer.allowed()"),
            "found no matching overload for 'allowed' applied to 'kubernetes.authorization.Authorizer",
        ),
        (policy(&of("services"), "object.spec.ports.all(p, p.targetPort == 80 || p.targetPort == 'web')"), ""),
        (policy(&of("secrets"), "object.data.a == 'b'"), "applied to '(bytes, string)'"),
        // Upstream's types do not say what a quantity is.
        (policy(&of("pods"), "has(object.spec.containers[0].resources.limits)"), "undefined field 'limits'"),
        (policy(&of("crontabs"), "object.spec.cronSpec.startsWith('a') && object.spec.port == 80"), ""),
        (policy(&of("crontabs"), "object.spec.template.metadata.labels.a == object.metadata.labels.a"), ""),
        (policy(&of("crontabs"), "object.spec.any == 1"), "undefined field 'any'"),
        (params(config.clone(), "object.data.a == params.data.a"), ""),
        (params(config.clone(), "object.data.a == params.dat.a"), "undefined field 'dat'"),
        (params(config.clone(), "object == params"), "applied to '(ConfigMap0, ConfigMap1)'"),
        (params(json!({"apiVersion": "no.such/v1", "kind": "Kind"}), "object.data.a == params.anything"), ""),
        (params(json!({"apiVersion": "a/b/c", "kind": "Kind"}), "params == null"), "undeclared reference to 'params'"),
        (params(Value::Null, "params == null"), "undeclared reference to 'params'"),
        (
            params(json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab"}), "params.spec.replicas > 'a'"),
            "applied to '(int, string)'",
        ),
        (variable("object.spec.replicas", "variables.x > 1"), ""),
        (variable("object.spec.replicas", "variables.x > '1'"), "applied to '(int, string)'"),
        (variable("object.spec.replicas", "variables.y > 1"), "undefined field 'y'"),
        (variable("object.spec.nope", "variables.x > 1 && variables.x == 'a'"), ""),
        (variable("object.spec", "variables.x.nope"), ""),
        (variable("[object.spec.replicas]", "variables.x[0] == 'a'"), "applied to '(int, string)'"),
    ] {
        let found = told(&policy);
        let text = found.first().map(|(_, text)| text.as_str()).unwrap_or_default();
        assert!(text.is_empty() == expect.is_empty() && text.contains(expect), "{}: {text}", policy["spec"]);
    }
}

#[test]
fn kinds_are_those_that_rules_name() {
    let many = ["configmaps", "endpoints", "events", "limitranges", "namespaces", "nodes", "persistentvolumes", "pods"];
    let many = [&many[..], &["podtemplates", "resourcequotas", "secrets", "serviceaccounts"]].concat();
    for (rules, expect) in [
        (vec![], ""),
        (vec![rule(&["apps"], &["v1"], &["deployments"])], "apps/v1/Deployment"),
        (vec![rule(&["apps"], &["v1"], &["Deployment"])], "apps/v1/Deployment"),
        (
            vec![rule(&["apps"], &["v1"], &["deployments"]), rule(&[""], &["v1"], &["pods"])],
            "/v1/Pod apps/v1/Deployment",
        ),
        (vec![rule(&["*"], &["v1"], &["deployments"])], ""),
        (vec![rule(&["apps", "*"], &["v1"], &["deployments"])], ""),
        (vec![rule(&["apps"], &["*"], &["deployments"])], ""),
        (vec![rule(&["apps"], &["v1"], &["*", "*/*", "pods/*", "deployments/status"])], ""),
        (vec![rule(&["apps"], &["v1"], &["*", "deployments"])], "apps/v1/Deployment"),
        (
            vec![rule(&["apps"], &["v1"], &["deployments"]), rule(&["apps"], &["*"], &["replicasets"])],
            "apps/v1/Deployment",
        ),
        (vec![rule(&["no.such"], &["v1"], &["kinds"]), rule(&["apps"], &["v9"], &["deployments"])], ""),
        (vec![rule(&["stable.example.com"], &["v1", "v2"], &["crontabs"])], "stable.example.com/v1/CronTab"),
        // As upstream's mapper: no group is any group.
        (vec![rule(&[""], &["v1"], &["events"])], "/v1/Event events.k8s.io/v1/Event"),
        (vec![rule(&["events.k8s.io"], &["v1"], &["events"])], "events.k8s.io/v1/Event"),
        (
            vec![rule(&[""], &["v1"], &many), rule(&["apps"], &["v1"], &["deployments"])],
            "/v1/ConfigMap /v1/Endpoints /v1/Event /v1/LimitRange /v1/Namespace /v1/Node /v1/PersistentVolume /v1/Pod \
             /v1/PodTemplate events.k8s.io/v1/Event",
        ),
    ] {
        let policy = policy(&rules, "true");
        let registry = registry();
        let table = registry.table();
        let found: Vec<String> = kinds(&policy["spec"], &table).keys().map(|kind| kind.join("/")).collect();
        assert_eq!(found.join(" "), expect);
    }
}

#[test]
fn every_kind_has_a_type_without_references() {
    for def in registry().table().rows() {
        let schema = openapi::resolved(def);
        let text = schema.to_string();
        assert!(!text.contains("\"$ref\":\""), "{}", def.kind);
        assert!(declare(&Schema::from_openapi(&schema), "T", true).is_some(), "{}", def.kind);
    }
}

#[test]
fn what_is_told_has_an_end() {
    let long = format!("object.nope == '{}'", "a".repeat(10_000));
    let validations: Vec<Value> = (0..50).map(|_| json!({"expression": long})).collect();
    let policy = with(policy(&[rule(&["apps"], &["v1"], &["deployments"])], ""), "validations", json!(validations));
    let found = told(&policy);
    let length: usize = found.iter().map(|(_, text)| text.len()).sum();
    assert!(found.len() > 3 && length <= MAX_TOLD, "{} {length}", found.len());
}
