//! Kinds that are questions: TokenReview and the access reviews. Nothing is stored; they are
//! answered by the code that judges requests.

use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::auth::access::{Attributes, common_rules};
use crate::auth::identity::MASTERS;
use crate::call::{Answer, Call, Input, Object};
use crate::object::{metadata_mut, texts};
use crate::verbs::create::now;
use crate::{Status, User, codec, sub};

type Review = for<'a> fn(&'a mut Call, Input) -> BoxFuture<'a, Result<Answer, Status>>;

/// Kinds that are answered, not stored.
const REVIEWS: &[(&str, &str, Review)] = &[
    ("authentication.k8s.io", "tokenreviews", |call, input| Box::pin(token_review(call, input))),
    ("authentication.k8s.io", "selfsubjectreviews", |call, input| Box::pin(self_review(call, input))),
    ("authorization.k8s.io", "selfsubjectaccessreviews", |call, input| Box::pin(access_review(call, input))),
    ("authorization.k8s.io", "subjectaccessreviews", |call, input| Box::pin(access_review(call, input))),
    ("authorization.k8s.io", "localsubjectaccessreviews", |call, input| Box::pin(access_review(call, input))),
    ("authorization.k8s.io", "selfsubjectrulesreviews", |call, input| Box::pin(rules_review(call, input))),
    ("", "bindings", |call, input| Box::pin(old_binding(call, input))),
];

/// Who answers a POST to this call's collection, if it is a question.
pub(crate) fn reviewer(call: &Call) -> Option<Review> {
    let found = REVIEWS.iter().find(|(group, plural, _)| *group == call.def.group && *plural == call.def.plural);
    found.map(|(_, _, review)| *review)
}

fn decoded(call: &mut Call, input: Input) -> Result<Value, Status> {
    call.params.dry_run("CreateOptions")?;
    let validation = call.params.field_validation("CreateOptions")?;
    let mut review = codec::decode_object(call, input, validation)?;
    call.fit_namespace(&mut review)?;
    Ok(review)
}

fn answered(mut review: Value, status: Value) -> Answer {
    review["status"] = status;
    Answer::Object { code: 201, object: Object::Built(review) }
}

async fn old_binding(call: &mut Call, input: Input) -> Result<Answer, Status> {
    let dry_run = call.params.dry_run("CreateOptions")?;
    let binding = decoded(call, input)?;
    sub::binding::create_by_collection(call, &binding, dry_run).await
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

async fn token_review(call: &mut Call, input: Input) -> Result<Answer, Status> {
    let review = decoded(call, input)?;
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences = texts(&review["spec"]["audiences"]);
    let status = match call.api.token_user(token, &audiences).await {
        Ok(found) => {
            let mut status = json!({"authenticated": true, "user": user_info(&found.user)});
            if !found.audiences.is_empty() {
                status["audiences"] = json!(found.audiences);
            }
            status
        }
        Err(why) => json!({"user": {}, "error": why}),
    };
    Ok(answered(review, status))
}

async fn self_review(call: &mut Call, input: Input) -> Result<Answer, Status> {
    let mut review = decoded(call, input)?;
    metadata_mut(&mut review).insert("creationTimestamp".into(), now().into());
    let status = json!({"userInfo": user_info(&call.user)});
    Ok(answered(review, status))
}

async fn access_review(call: &mut Call, input: Input) -> Result<Answer, Status> {
    let review = decoded(call, input)?;
    let spec = &review["spec"];
    let user = if call.def.plural.starts_with("self") { call.user.clone() } else { asked_user(spec) };
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let errors = call.def.strategy.validate(&review);
    if !errors.is_empty() {
        return Err(call.invalid("", &errors));
    }
    let text = |part: &'_ Value, field: &str| part[field].as_str().unwrap_or_default().to_owned();
    let asked = if resource.is_object() { resource } else { path };
    let (verb, plural, group, subresource) =
        (text(asked, "verb"), text(resource, "resource"), text(resource, "group"), text(resource, "subresource"));
    let (namespace, name, path) = (text(resource, "namespace"), text(resource, "name"), text(path, "path"));
    let attributes = Attributes {
        verb: &verb,
        resource: &plural,
        group: &group,
        subresource: &subresource,
        namespace: &namespace,
        name: &name,
        path: &path,
        node: None,
    };
    let allowed = call.api.allowed(&user, &attributes);
    Ok(answered(review, json!({ "allowed": allowed })))
}

fn asked_user(spec: &Value) -> User {
    User {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&spec["groups"]),
        extra: spec["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), texts(v))).collect(),
    }
}

async fn rules_review(call: &mut Call, input: Input) -> Result<Answer, Status> {
    let review = decoded(call, input)?;
    if review["spec"]["namespace"].as_str().unwrap_or_default().is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (creates, paths) = common_rules();
    let mut resource_rules: Vec<Value> = creates
        .iter()
        .map(|(group, plural)| json!({"verbs": ["create"], "apiGroups": [group], "resources": [plural]}))
        .collect();
    let mut path_rules = vec![json!({"verbs": ["get"], "nonResourceURLs": paths})];
    if call.user.in_group(MASTERS) {
        resource_rules.insert(0, json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        path_rules.insert(0, json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    // What a node may do depends on its pods and cannot be listed.
    let incomplete = crate::auth::node::node_name(&call.user).is_some();
    let mut status = json!({"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": incomplete});
    if incomplete {
        status["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    Ok(answered(review, status))
}
