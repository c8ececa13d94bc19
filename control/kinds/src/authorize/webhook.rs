//! A webhook that decides what may be done (`SubjectAccessReview`). Upstream:
//! `k8s.io/apiserver/plugin/pkg/authorizer/webhook`.
//!
//! Deviations: a call that fails is not made again for the same request; a request that nobody allows because a webhook
//! could not be asked is refused with 403, not with 500.

use std::sync::Arc;

use kontiki_cel::Schema;
use kontiki_machinery::{
    access::{AsyncAuthorizer, Attributes, Decision, Said, User, When},
    admission::Waiting,
    outcall::{Caller, Patience, Target},
};
use kontiki_model::selector::{Operator, Requirement};
use serde_json::{Map, Value, json};

use super::config::Settings;
use crate::{
    kept::{self, Kept},
    rows::value::text,
};

/// Answers that are remembered.
const ANSWERS: usize = 8192;
/// From so many bytes of what the user chooses on, an answer is not remembered.
const LONGEST: usize = 10_000;

/// A webhook.
pub(super) struct Webhook {
    caller: Arc<dyn Caller>,
    target: Target,
    settings: Settings,
    kept: Kept<Said>,
}

impl Webhook {
    pub fn new(caller: Arc<dyn Caller>, target: Target, settings: Settings) -> Self {
        Self { caller, target, settings, kept: Kept::new(ANSWERS) }
    }

    /// What a failure means.
    fn failed(&self, why: String) -> Said {
        let decision = if self.settings.denies { Decision::Deny } else { Decision::NoOpinion };
        Said { decision, reason: why }
    }

    /// Whether it is to be asked.
    fn meets(&self, spec: &Value) -> Result<bool, String> {
        let schema = Schema::any_json();
        let mut failed = Vec::new();
        for condition in &self.settings.conditions {
            match condition.holds(spec, &schema) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => failed.push(format!("cel evaluation error: {why}")),
            }
        }
        crate::status::aggregate(failed).map_or(Ok(true), Err)
    }

    async fn ask(&self, user: &User, asked: &Attributes<'_>, when: When) -> Said {
        let mut spec = spec(user, asked);
        match self.meets(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion.into(),
            Err(why) => return self.failed(why),
        }
        sent(&mut spec, &self.settings.version);
        let key = kept::key([spec.to_string().as_str()]);
        if let Some(said) = self.kept.get(&key, when.now) {
            return said;
        }
        let patience = Patience { timeout: self.settings.timeout, deadline: when.deadline };
        let document = self.review(spec).to_string().into_bytes();
        let body = self.caller.post(&self.target, document, patience).await;
        match body.and_then(|body| answer(&body)) {
            Ok(said) => {
                let allowed = said.decision == Decision::Allow;
                let time = if allowed { self.settings.authorized } else { self.settings.unauthorized };
                if is_short(asked) {
                    self.kept.put(key, said.clone(), when.now, time);
                }
                said
            }
            Err(why) => self.failed(why),
        }
    }

    fn review(&self, spec: Value) -> Value {
        json!({
            "kind": "SubjectAccessReview",
            "apiVersion": format!("authorization.k8s.io/{}", self.settings.version),
            "metadata": {},
            "spec": spec,
            "status": {"allowed": false},
        })
    }
}

impl AsyncAuthorizer for Webhook {
    fn authorize<'a>(&'a self, user: &'a User, asked: &'a Attributes<'a>, when: When) -> Waiting<'a, Said> {
        Box::pin(self.ask(user, asked, when))
    }

    fn unlisted(&self, _: &User) -> Option<&'static str> {
        Some("webhook authorizer does not support user rule resolution")
    }
}

fn is_short(asked: &Attributes<'_>) -> bool {
    let parts = [
        asked.namespace,
        asked.verb,
        asked.group,
        asked.version,
        asked.resource,
        asked.subresource,
        asked.name,
        asked.path,
    ];
    parts.iter().map(|part| part.len()).sum::<usize>() < LONGEST
}

/// The question, every field of it, as expressions see it.
fn spec(user: &User, asked: &Attributes<'_>) -> Value {
    let mut spec = json!({"user": user.name, "groups": user.groups, "uid": user.uid, "extra": user.extra});
    if asked.resource.is_empty() {
        spec["nonResourceAttributes"] = json!({"path": asked.path, "verb": asked.verb});
        return spec;
    }
    let mut about = json!({
        "namespace": asked.namespace,
        "verb": asked.verb,
        "group": asked.group,
        "version": asked.version,
        "resource": asked.resource,
        "subresource": asked.subresource,
        "name": asked.name,
    });
    let fields = asked.fields.iter().map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]}));
    let fields: Vec<Value> = fields.collect();
    if !fields.is_empty() {
        about["fieldSelector"] = json!({ "requirements": fields });
    }
    let labels: Vec<Value> = asked.labels.iter().filter_map(required).collect();
    if !labels.is_empty() {
        about["labelSelector"] = json!({ "requirements": labels });
    }
    spec["resourceAttributes"] = about;
    spec
}

/// What is demanded of a label. What reviews have no word for is left out: less is demanded then.
fn required(requirement: &Requirement) -> Option<Value> {
    let key = &requirement.key;
    Some(match &requirement.operator {
        Operator::In(values) => json!({"key": key, "operator": "In", "values": values}),
        Operator::NotIn(values) => json!({"key": key, "operator": "NotIn", "values": values}),
        Operator::Exists => json!({"key": key, "operator": "Exists"}),
        Operator::DoesNotExist => json!({"key": key, "operator": "DoesNotExist"}),
        Operator::Gt(_) | Operator::Lt(_) => return None,
    })
}

/// The question as it is sent: without what is empty, and in the version's words.
fn sent(spec: &mut Value, version: &str) {
    let Some(fields) = spec.as_object_mut() else { return };
    drop_empty(fields);
    for part in ["resourceAttributes", "nonResourceAttributes"] {
        if let Some(part) = fields.get_mut(part).and_then(Value::as_object_mut) {
            drop_empty(part);
        }
    }
    if version == "v1beta1"
        && let Some(groups) = fields.remove("groups")
    {
        fields.insert("group".to_owned(), groups);
    }
}

fn drop_empty(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    });
}

/// What an answer means.
///
/// # Errors
/// It is none.
fn answer(body: &[u8]) -> Result<Said, String> {
    let review: Value = serde_json::from_slice(body).map_err(|why| format!("the answer is no review: {why}"))?;
    if text(&review, "kind") != "SubjectAccessReview" {
        return Err("the answer is no review".to_owned());
    }
    let status = &review["status"];
    let reason = text(status, "reason").to_owned();
    Ok(match (status["allowed"] == true, status["denied"] == true) {
        (_, true) => Said { decision: Decision::Deny, reason },
        (true, false) => Said { decision: Decision::Allow, reason },
        (false, false) => Said { decision: Decision::NoOpinion, reason },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_what_is_asked_and_nothing_empty() {
        let user = User::new("ann", &["g"]);
        let labels = [
            Requirement { key: "a".into(), operator: Operator::NotIn(vec!["b".into()]) },
            Requirement { key: "c".into(), operator: Operator::Gt(1) },
        ];
        let asked = Attributes {
            verb: "list",
            version: "v1",
            resource: "pods",
            namespace: "n",
            fields: &[("spec.nodeName", "x")],
            labels: &labels,
            ..Attributes::default()
        };
        let mut found = spec(&user, &asked);
        assert_eq!((&found["uid"], &found["resourceAttributes"]["name"]), (&json!(""), &json!("")));
        sent(&mut found, "v1");
        let attributes = json!({
            "verb": "list", "version": "v1", "resource": "pods", "namespace": "n",
            "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["x"]}]},
            "labelSelector": {"requirements": [{"key": "a", "operator": "NotIn", "values": ["b"]}]},
        });
        assert_eq!(found, json!({"user": "ann", "groups": ["g"], "resourceAttributes": attributes}));
        let mut found = spec(&user, &Attributes { verb: "get", path: "/x", ..Attributes::default() });
        sent(&mut found, "v1beta1");
        assert_eq!(
            found,
            json!({"user": "ann", "group": ["g"], "nonResourceAttributes": {"verb": "get", "path": "/x"}})
        );
    }

    #[test]
    fn an_answer_is_a_decision_or_an_error() {
        for (status, expect) in [
            (json!({"allowed": true}), Decision::Allow),
            (json!({"allowed": true, "denied": true}), Decision::Deny),
            (json!({"allowed": false, "denied": true, "reason": "no"}), Decision::Deny),
            (json!({"allowed": false}), Decision::NoOpinion),
            (json!({"allowed": "true"}), Decision::NoOpinion),
            (json!({}), Decision::NoOpinion),
        ] {
            let body = json!({"kind": "SubjectAccessReview", "status": status}).to_string();
            assert_eq!(answer(body.as_bytes()).map(|said| said.decision), Ok(expect), "{status}");
        }
        for body in ["", "[]", "{}", "{\"kind\": \"Status\"}"] {
            assert!(answer(body.as_bytes()).is_err(), "{body}");
        }
    }
}
