use kontiki_machinery::{
    Status,
    access::User,
    admission::{Guard, Lookup, Operation, Verdict},
    outcall::{Patience, Target},
};
use serde_json::json;
use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::*;
use kontiki_machinery::admission::Waiting;

const UID: &str = "u-1";

/// Answers with what it was told to, and keeps what it was asked.
struct Says {
    answer: Result<String, String>,
    asked: Mutex<Vec<(String, Value)>>,
}

impl Caller for Says {
    fn post<'a>(
        &'a self,
        target: &'a Target,
        document: Vec<u8>,
        patience: Patience,
    ) -> Waiting<'a, Result<Vec<u8>, String>> {
        let asked = (format!("{} {:?}", target.url(), patience.timeout), serde_json::from_slice(&document).unwrap());
        self.asked.lock().unwrap().push(asked);
        Box::pin(std::future::ready(self.answer.clone().map(String::into_bytes)))
    }

    fn uid(&self) -> String {
        UID.to_owned()
    }
}

fn registry() -> Registry {
    let addresses = "10.96.0.0/16".parse().expect("a range");
    let services = crate::rows::service::Ranges { addresses, node_ports: 30000..=32767 };
    crate::registry(&crate::Settings { services })
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nobody waits here"),
    }
}

type Verdicts = Vec<Result<Verdict, Status>>;

/// What comes of a webhook's answer (`edit` changes the webhook) to a request for a HorizontalPodAutoscaler, and what the
/// webhook was asked.
fn judged(
    phase: Phase,
    answer: Result<String, String>,
    edit: Value,
    dry_run: bool,
) -> (Verdicts, Vec<(String, Value)>) {
    let says = Arc::new(Says { answer, asked: Mutex::default() });
    let webhooks = Webhooks::new(phase, registry(), Arc::clone(&says) as Arc<dyn Caller>);
    let mut hook = json!({
        "name": "a.example.com", "clientConfig": {"service": {"namespace": "n", "name": "s", "path": "/p", "port": 443}},
        "rules": [{"operations": ["*"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"], "resources": ["*"]}],
        "matchPolicy": "Equivalent", "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 7,
        "admissionReviewVersions": ["v2", "v1"], "namespaceSelector": {}, "objectSelector": {}
    });
    for (field, value) in edit.as_object().unwrap() {
        hook[field] = value.clone();
    }
    let stored = json!({"webhooks": [hook]}).to_string();
    webhooks.changed(&ObjectKey::new(MUTATING[0], None, "c"), Some(stored.as_bytes()));
    let table = webhooks.context.registry.table();
    let def = table.find("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
    let user = User::new("somebody", &["friends"]);
    let (namespace, name) = (Some("n"), "h");
    let request =
        Request { operation: Operation::Create, user: &user, def, sub: None, namespace, name, old: None, dry_run };
    let object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "metrics": [{"type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let ask = |step: &Arc<dyn AsyncStep>| match phase {
        Phase::Mutating => ready(step.mutate(&request, &object, Instant::now())),
        Phase::Validating => ready(step.validate(&request, &object, Instant::now())),
    };
    let verdicts = webhooks.steps(phase, &request).iter().map(ask).collect();
    let asked = std::mem::take(&mut *says.asked.lock().unwrap());
    (verdicts, asked)
}

fn response(response: Value) -> Result<String, String> {
    Ok(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}).to_string())
}

#[test]
fn a_webhook_is_asked_in_its_own_version_and_changes_the_requests() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let patch = json!([{"op": "replace", "path": "/spec/targetCPUUtilizationPercentage", "value": 70}]);
    let patch = STANDARD.encode(patch.to_string());
    let says =
        json!({"uid": UID, "allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": ["be careful"]});
    let (verdicts, asked) = judged(Phase::Mutating, response(says), json!({}), false);
    let verdict = verdicts[0].as_ref().unwrap();
    let object = verdict.object.as_ref().unwrap();
    assert_eq!(object["apiVersion"], "autoscaling/v2");
    assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70, "{object}");
    assert_eq!(verdict.warnings, ["be careful"]);
    let (whom, review) = &asked[0];
    assert_eq!(whom, &format!("https://s.n.svc:443/p {:?}", Duration::from_secs(7)));
    let mut request = review["request"].clone();
    assert_eq!(request["object"]["spec"]["targetCPUUtilizationPercentage"], 50, "{request}");
    request["object"] = Value::Null;
    let kind = |version: &str| json!({"group": "autoscaling", "version": version, "kind": "HorizontalPodAutoscaler"});
    let resource =
        |version: &str| json!({"group": "autoscaling", "version": version, "resource": "horizontalpodautoscalers"});
    let expect = json!({
        "uid": UID, "kind": kind("v1"), "resource": resource("v1"), "requestKind": kind("v2"),
        "requestResource": resource("v2"), "operation": "CREATE", "name": "h", "namespace": "n", "dryRun": false,
        "userInfo": {"username": "somebody", "groups": ["friends"]}, "object": null, "oldObject": null,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}
    });
    assert_eq!(request, expect);
    assert_eq!((&review["apiVersion"], &review["kind"]), (&json!("admission.k8s.io/v1"), &json!("AdmissionReview")));
}

#[test]
fn whatever_a_webhook_answers_is_a_verdict_or_a_status() {
    let mutating = Phase::Mutating;
    let validating = Phase::Validating;
    let allowed = || json!({"uid": UID, "allowed": true});
    let with = |fields: Value| {
        let mut said = json!({"uid": UID, "allowed": true});
        fields.as_object().unwrap().iter().for_each(|(field, value)| said[field] = value.clone());
        response(said)
    };
    let failed = |why: &str| format!("500 Internal error occurred: failed calling webhook \"a.example.com\": {why}");
    let invalid = |why: &str| failed(&format!("received invalid webhook response: {why}"));
    let refused = |why: &str| format!("admission webhook \"a.example.com\" denied the request{why}");
    for (what, phase, answer, edit, expect) in [
        ("yes", validating, response(allowed()), json!({}), "ok".to_owned()),
        (
            "no",
            validating,
            with(json!({"allowed": false})),
            json!({}),
            format!("400 {}", refused(" without explanation")),
        ),
        (
            "no, with a reason",
            mutating,
            with(json!({"allowed": false, "status": {"message": "why", "code": 403}})),
            json!({}),
            format!("403 {}", refused(": why")),
        ),
        (
            "a refusal of success",
            mutating,
            with(json!({"allowed": false, "status": {"reason": "Because", "code": 200, "status": "Success"}})),
            json!({}),
            format!("400 {}", refused(": Because")),
        ),
        (
            "a code beyond HTTP",
            mutating,
            with(json!({"allowed": false, "status": {"message": "x", "code": 65_000}})),
            json!({}),
            format!("500 {}", refused(": x")),
        ),
        ("no answer", mutating, Err("EOF".into()), json!({}), failed("failed to call webhook: EOF")),
        ("no answer, which is ignored", mutating, Err("EOF".into()), json!({"failurePolicy": "Ignore"}), "ok".into()),
        (
            "no JSON",
            mutating,
            Ok("hello".into()),
            json!({}),
            failed(
                "failed to call webhook: couldn't get version/kind; json parse error: expected value at line 1 column 1",
            ),
        ),
        ("no response", mutating, Ok("{}".into()), json!({}), invalid("webhook response was absent")),
        ("a list", mutating, Ok("[]".into()), json!({}), invalid("webhook response was absent")),
        (
            "another's answer",
            mutating,
            with(json!({"uid": "other"})),
            json!({}),
            invalid("expected response.uid=\"u-1\", got \"other\""),
        ),
        (
            "another type",
            mutating,
            Ok(json!({"kind": "Pod", "apiVersion": "v1", "response": allowed()}).to_string()),
            json!({}),
            invalid("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /v1, Kind=Pod"),
        ),
        (
            "the earlier version may leave out much",
            validating,
            Ok(json!({"response": {"allowed": true}}).to_string()),
            json!({"admissionReviewVersions": ["v1beta1", "v1"]}),
            "ok".into(),
        ),
        (
            "a patch by who may not",
            validating,
            with(json!({"patch": "W10=", "patchType": "JSONPatch"})),
            json!({}),
            invalid("validating webhook may not return response.patch"),
        ),
        (
            "a patch of no type",
            mutating,
            with(json!({"patch": "W10="})),
            json!({}),
            invalid("webhook returned response.patch but not response.patchType"),
        ),
        ("an empty patch", mutating, with(json!({"patch": "W10=", "patchType": "JSONPatch"})), json!({}), "ok".into()),
        (
            "a patch of what is not there",
            mutating,
            // [{"op":"remove","path":"/x"}]
            with(json!({"patch": "W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL3gifV0=", "patchType": "JSONPatch"})),
            json!({}),
            "500 Internal error occurred: ".into(),
        ),
        (
            "a patch that is none",
            mutating,
            with(json!({"patch": "e30=", "patchType": "JSONPatch"})),
            json!({}),
            failed("received undecodable patch in webhook response: it is no list of operations"),
        ),
        (
            "a version that nobody speaks",
            mutating,
            response(allowed()),
            json!({"admissionReviewVersions": ["v7"]}),
            failed("could not create admission objects: webhook does not accept known AdmissionReview versions"),
        ),
    ] {
        let (verdicts, _) = judged(phase, answer, edit, false);
        let found = refusal(&verdicts[0]).map_or("ok".into(), |status| format!("{} {}", status.code, status.message));
        assert!(found.starts_with(&expect), "{what}: {found}");
    }
}

fn refusal(answer: &Result<Verdict, Status>) -> Option<&Status> {
    match answer {
        Ok(verdict) => verdict.refusal.as_deref(),
        Err(status) => Some(status),
    }
}

#[test]
fn who_is_refused_is_warned_as_well() {
    let says = json!({"uid": UID, "allowed": false, "warnings": ["be careful"], "auditAnnotations": {"a": "b"}});
    for phase in [Phase::Mutating, Phase::Validating] {
        let (verdicts, _) = judged(phase, response(says.clone()), json!({}), false);
        let verdict = verdicts[0].as_ref().unwrap();
        assert!(verdict.refusal.is_some());
        assert_eq!((&verdict.warnings[..], verdict.annotations.len()), (&["be careful".to_owned()][..], 1));
    }
}

#[test]
fn a_dry_run_is_not_shown_to_who_cannot_bear_it() {
    let yes = || response(json!({"uid": UID, "allowed": true}));
    let (verdicts, asked) = judged(Phase::Validating, yes(), json!({"sideEffects": "Some"}), true);
    let status = verdicts[0].as_ref().unwrap_err();
    let text = "admission webhook \"a.example.com\" does not support dry run";
    assert_eq!((status.code, status.message.as_str(), asked.len()), (400, text, 0));
    let (verdicts, asked) = judged(Phase::Validating, yes(), json!({"sideEffects": "NoneOnDryRun"}), true);
    assert!(verdicts[0].is_ok());
    assert_eq!(asked[0].1["request"]["dryRun"], true);
    assert_eq!(asked[0].1["request"]["options"]["dryRun"], json!(["All"]));
}

#[test]
fn webhooks_stand_in_the_order_of_their_configurations() {
    let says = Arc::new(Says { answer: Err(String::new()), asked: Mutex::default() });
    let webhooks = Webhooks::new(Phase::Mutating, registry(), says);
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]});
    let hook = |name: &str| json!({"name": name, "clientConfig": {"url": "https://h"}, "rules": [rule]});
    let put = |name: &str, hooks: &[&str]| {
        let hooks: Vec<_> = hooks.iter().map(|name| hook(name)).collect();
        let stored = json!({"webhooks": hooks}).to_string();
        webhooks.changed(&ObjectKey::new(MUTATING[0], None, name), Some(stored.as_bytes()));
    };
    let order = |group: &str, version: &str, plural: &str| {
        let table = webhooks.context.registry.table();
        let (user, def) = (User::default(), table.find(group, version, plural).unwrap());
        let (operation, namespace, name) = (Operation::Create, None, "x");
        let request = Request { operation, user: &user, def, sub: None, namespace, name, old: None, dry_run: false };
        let steps = webhooks.steps(Phase::Mutating, &request);
        steps.iter().map(|step| step.name().to_owned()).collect::<Vec<_>>().join(" ")
    };
    put("b", &["y", "x", "y"]);
    put("a", &["z"]);
    assert_eq!(order("", "v1", "nodes"), "a/z/0 b/y/0 b/x/0 b/y/1");
    put("b", &["w"]);
    assert_eq!(order("", "v1", "nodes"), "a/z/0 b/w/0");
    assert_eq!(
        order("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"),
        "",
        "nobody judges judges"
    );
    webhooks.changed(&ObjectKey::new(MUTATING[0], None, "a"), None);
    assert_eq!(order("", "v1", "nodes"), "b/w/0");
}

/// A cluster without objects, in which somebody may paint.
struct Empty;

impl Lookup for Empty {
    fn object(&mut self, _: GroupResource<'_>, _: Option<&str>, _: &str, _: Guard) -> Result<Option<Value>, Status> {
        Ok(None)
    }

    fn objects(&self, _: GroupResource<'_>) -> Result<Vec<Value>, Status> {
        Ok(Vec::new())
    }

    fn allows(&self, user: &User, asked: &kontiki_machinery::access::Attributes<'_>) -> bool {
        user.name == "somebody" && asked.verb == "paint" && asked.resource == "horizontalpodautoscalers"
    }

    fn random(&mut self) -> u64 {
        0
    }

    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}

/// Whether a webhook with such conditions is to be asked about a new object of three.
fn meets(conditions: &[&str], ignored: bool) -> Result<bool, String> {
    let conditions: Vec<Value> = conditions.iter().map(|text| json!({"name": "c", "expression": text})).collect();
    let hook = json!({
        "name": "a.example.com", "clientConfig": {"url": "https://h"}, "matchConditions": conditions,
        "rules": [{"operations": ["*"], "apiGroups": ["autoscaling"], "apiVersions": ["v2"], "resources": ["*"]}],
        "failurePolicy": if ignored { "Ignore" } else { "Fail" }, "sideEffects": "None", "admissionReviewVersions": ["v1"],
    });
    let says: Arc<dyn Caller> = Arc::new(Says { answer: Err("nobody is called".into()), asked: Mutex::default() });
    let webhooks = Webhooks::new(Phase::Validating, registry(), says);
    let stored = json!({"webhooks": [hook]}).to_string();
    webhooks.changed(&ObjectKey::new(VALIDATING[0], None, "c"), Some(stored.as_bytes()));
    let table = webhooks.context.registry.table();
    let def = table.find("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
    let (user, operation) = (User::new("somebody", &["friends"]), Operation::Create);
    let (namespace, name) = (Some("n"), "h");
    let request = Request { operation, user: &user, def, sub: None, namespace, name, old: None, dry_run: false };
    let object = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3}});
    let step = webhooks.steps(Phase::Validating, &request).remove(0);
    step.handles(Phase::Validating, &request, &object, &mut Empty).map_err(|status| status.message)
}

#[test]
fn conditions_say_whether_a_webhook_is_asked() {
    let refused = |why: &str| Err(format!("horizontalpodautoscalers.autoscaling \"h\" is forbidden: {why}"));
    let missing = "expression 'object.nope == 1' resulted in error: no such key: nope";
    for (conditions, ignored, expect) in [
        (&["true"][..], false, Ok(true)),
        (&["object.spec.maxReplicas == 3", "oldObject == null"], false, Ok(true)),
        (&["object.spec.maxReplicas == 3", "request.operation == 'UPDATE'"], false, Ok(false)),
        (&["request.userInfo.groups.exists(g, g == 'friends')"], false, Ok(true)),
        (&["authorizer.requestResource.check('paint').allowed()"], false, Ok(true)),
        (&["authorizer.requestResource.check('sell').allowed()"], false, Ok(false)),
        (&["object.nope == 1"], false, refused(missing)),
        (&["object.nope == 1", "object.nope == 1 || true", "false"], false, Ok(false)),
        (&["object.nope == 1"], true, Ok(false)),
    ] {
        assert_eq!(meets(conditions, ignored), expect, "{conditions:?}");
    }
}
