use super::*;
use kontiki_machinery::{
    access::{Attributes, User},
    admission::Guard,
};

/// A namespace `n`, a ConfigMap `limits` in it; `admin` may do all, nobody else anything.
pub(super) struct Cluster(pub(super) Registry);

impl Lookup for Cluster {
    fn object(&mut self, _: GroupResource<'_>, _: Option<&str>, _: &str, _: Guard) -> Result<Option<Value>, Status> {
        Ok(None)
    }

    fn objects(&self, resource: GroupResource<'_>) -> Result<Vec<Value>, Status> {
        Ok(match resource.resource {
            "namespaces" => vec![json!({"metadata": {"name": "n", "labels": {"team": "a"}}})],
            "configmaps" => vec![json!({"metadata": {"name": "limits", "namespace": "n"}, "data": {"max": "3"}})],
            _ => Vec::new(),
        })
    }

    fn row(&self, group: &str, version: &str, kind: &str) -> Option<Arc<kontiki_machinery::ResourceDef>> {
        self.0.table().find_kind(group, version, kind).cloned()
    }

    fn allows(&self, user: &User, asked: &Attributes<'_>) -> bool {
        user.name == "admin" && asked.verb == "paint"
    }

    fn random(&mut self) -> u64 {
        0
    }

    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}

pub(super) fn registry() -> Registry {
    let addresses = "10.96.0.0/16".parse().expect("a range");
    let services = crate::rows::service::Ranges { addresses, node_ports: 30000..=32767 };
    crate::registry(&crate::Settings { services })
}

/// What becomes of a new Deployment of four under a policy and a binding: the refusal, or warnings.
fn judged(policy: Value, binding: Value) -> Result<Vec<String>, Status> {
    let registry = registry();
    let rule = json!({"operations": ["*"], "apiGroups": ["apps"], "apiVersions": ["*"], "resources": ["deployments"]});
    let mut spec = json!({"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [rule]}});
    let mut bound = json!({"policyName": "p", "validationActions": ["Deny"]});
    for (to, from) in [(&mut spec, policy), (&mut bound, binding)] {
        to.as_object_mut().expect("an object").extend(from.as_object().expect("an object").clone());
    }
    let step = Policies(Known::new(&registry, BINDINGS));
    for (resource, name, spec) in [(POLICIES, "p", spec), (BINDINGS, "b", bound)] {
        let stored = json!({"metadata": {"name": name}, "spec": spec}).to_string();
        step.changed(&ObjectKey::new(resource, None, name), Some(stored.as_bytes()));
    }
    let table = registry.table();
    let def = table.find("apps", "v1", "deployments").expect("a row");
    let user = User::new("admin", &["devs"]);
    let (operation, namespace) = (Operation::Create, Some("n"));
    let request = Request { operation, user: &user, def, sub: None, namespace, name: "", old: None, dry_run: false };
    let object = json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {"replicas": 4}});
    let mut cluster = Cluster(registry.clone());
    step.validate(&request, &object, &mut cluster)?;
    step.warn(&request, &object, &mut cluster)
}

#[test]
fn policies_deny_what_does_not_hold() {
    let say = |rule: Value| json!({"validations": [rule]});
    let params = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.spec.replicas <= int(params.data.max)", "messageExpression": "'at most ' + params.data.max"}]});
    let named = |name: &str| json!({"paramRef": {"name": name, "parameterNotFoundAction": "Deny"}});
    let composed = json!({"variables": [
            {"name": "n", "expression": "object.spec.replicas"}, {"name": "twice", "expression": "variables.n * 2"},
            {"name": "unused", "expression": "1 / 0 == 1"}],
        "validations": [{"expression": "variables.twice < 8", "messageExpression": "string(variables.twice)"}]});
    let when = |condition: &str| json!({"matchConditions": [{"name": "c", "expression": condition}], "validations": [{"expression": "false"}]});
    let ignoring = json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.nope == 1"}]});
    let none = json!({});
    for (policy, binding, expect) in [
        (say(json!({"expression": "object.spec.replicas == 4"})), &none, ""),
        (say(json!({"expression": "object.spec.replicas < 4"})), &none, "failed expression: object.spec.replicas < 4"),
        (say(json!({"expression": "false", "message": " no "})), &none, "no"),
        (
            say(json!({"expression": "object.nope == 1"})),
            &none,
            "expression 'object.nope == 1' resulted in error: no such key: nope",
        ),
        (ignoring, &none, ""),
        (
            say(json!({"expression": "request.userInfo.username != 'admin' && oldObject == null"})),
            &none,
            "failed expression: request.userInfo.username != 'admin' && oldObject == null",
        ),
        (
            say(json!({"expression": "namespaceObject.metadata.labels.team == 'b'"})),
            &none,
            "failed expression: namespaceObject.metadata.labels.team == 'b'",
        ),
        (say(json!({"expression": "authorizer.requestResource.check('paint').allowed()"})), &none, ""),
        (
            say(json!({"expression": "authorizer.requestResource.check('sell').allowed()"})),
            &none,
            "failed expression: authorizer.requestResource.check('sell').allowed()",
        ),
        (
            say(json!({"expression": "authorizer.serviceAccount('n', 's').requestResource.check('paint').allowed()"})),
            &none,
            "compilation error: compilation failed: ERROR",
        ),
        (params.clone(), &named("limits"), "at most 3"),
        (
            params.clone(),
            &named("nope"),
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction",
        ),
        (composed, &none, "8"),
        (when("request.operation == 'DELETE'"), &none, ""),
        (when("request.operation == 'CREATE'"), &none, "failed expression: false"),
        (
            say(json!({"expression": "false"})),
            &json!({"matchResources": {"namespaceSelector": {"matchLabels": {"team": "b"}}}}),
            "",
        ),
        (say(json!({"expression": "false"})), &json!({"validationActions": ["Audit"]}), ""),
    ] {
        let shown = policy.to_string();
        let found = judged(policy, binding.clone()).err().map(|status| status.message).unwrap_or_default();
        assert!(found.is_empty() == expect.is_empty() && found.contains(expect), "{shown}: {found}");
    }
}

#[test]
fn refusals_carry_the_reason_and_the_policy() {
    for (reason, code) in [("Forbidden", 403), ("Invalid", 422), ("RequestEntityTooLarge", 413)] {
        let status =
            judged(json!({"validations": [{"expression": "false", "message": "m", "reason": reason}]}), json!({}));
        let status = status.expect_err("it is denied");
        let why = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: m";
        assert_eq!((status.code, status.reason.as_str()), (code, reason));
        assert_eq!(status.message, format!("deployments.apps \"d\" is forbidden: {why}"));
        assert_eq!(status.details.expect("details").causes[0].message, why);
    }
}

#[test]
fn a_binding_may_only_warn() {
    let warned = judged(
        json!({"validations": [{"expression": "false", "message": "m"}]}),
        json!({"validationActions": ["Warn"]}),
    );
    let expect = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': m";
    assert_eq!(warned.expect("it passes"), [expect]);
}
