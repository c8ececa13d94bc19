//! Kinds that are questions: TokenReview and the access reviews. Nothing is stored; they are
//! answered by the code that judges requests.

use kontiki_machinery::access::Attributes;
use kontiki_machinery::resource::Review;
use kontiki_model::selector::{Operator, Requirement, Selector};
use serde_json::{Value, json};

use crate::call::{Answer, Call, Input, Object};
use crate::clock::format_time;
use crate::object::{metadata_mut, texts};
use crate::{Status, User, codec};

/// Answers the question that is POSTed to this call's collection.
pub(crate) async fn answer(call: &mut Call, asked: Review, input: Input) -> Result<Answer, Status> {
    match asked {
        Review::Token => token_review(call, input).await,
        Review::SelfSubject => self_review(call, input).await,
        Review::SelfAccess | Review::Access => access_review(call, asked, input).await,
        Review::SelfRules => rules_review(call, input).await,
    }
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
    let status = match call.api.token_user(token, &audiences, call.deadline).await {
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
    metadata_mut(&mut review).insert("creationTimestamp".into(), format_time(call.api.now()).into());
    let status = json!({"userInfo": user_info(&call.user)});
    Ok(answered(review, status))
}

async fn access_review(call: &mut Call, asked_by: Review, input: Input) -> Result<Answer, Status> {
    let review = decoded(call, input)?;
    let spec = &review["spec"];
    let user = if asked_by == Review::SelfAccess { call.user.clone() } else { asked_user(spec) };
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let errors = call.def.strategy.validate(&review);
    if !errors.is_empty() {
        // Upstream finds out who owns the fields of everything that is sent, and shows that with its metadata.
        let owned = call.track(None, review.clone(), call.api.now()).await?;
        let errors = call.def.strategy.validate(&owned);
        // It names no kind here.
        return Err(Status::invalid(&call.def.group, "", "", &errors));
    }
    let text = |part: &'_ Value, field: &str| part[field].as_str().unwrap_or_default().to_owned();
    let asked = if resource.is_object() { resource } else { path };
    let (verb, plural, group, subresource) =
        (text(asked, "verb"), text(resource, "resource"), text(resource, "group"), text(resource, "subresource"));
    let (namespace, name, path) = (text(resource, "namespace"), text(resource, "name"), text(path, "path"));
    let (version, labels) = (text(resource, "version"), demanded_labels(&resource["labelSelector"]));
    let fields = exact_fields(&resource["fieldSelector"]);
    let fields: Vec<(&str, &str)> = fields.iter().map(|(path, value)| (path.as_str(), value.as_str())).collect();
    let attributes = Attributes {
        verb: &verb,
        resource: &plural,
        group: &group,
        subresource: &subresource,
        namespace: &namespace,
        name: &name,
        path: &path,
        fields: &fields,
        version: &version,
        labels: &labels,
    };
    let judged = call.api.judge(&user, &attributes, call.deadline).await?;
    let mut status = json!({"allowed": judged.allowed});
    let reason = call.api.explain(&user, &attributes, &judged);
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    Ok(answered(review, status))
}

/// The fields that a selector of a review demands one value of.
fn exact_fields(selector: &Value) -> Vec<(String, String)> {
    let one = |requirement: &Value| match (requirement["operator"].as_str(), &texts(&requirement["values"])[..]) {
        (Some("In"), [value]) => Some((requirement["key"].as_str()?.to_owned(), value.clone())),
        _ => None,
    };
    let raw = selector["rawSelector"].as_str().unwrap_or_default().split(',');
    let raw = raw.filter_map(|term| term.split_once('=').filter(|(path, _)| !path.ends_with('!')));
    let raw = raw.map(|(path, value)| (path.trim().to_owned(), value.trim_start_matches('=').trim().to_owned()));
    selector["requirements"].as_array().into_iter().flatten().filter_map(one).chain(raw).collect()
}

/// What a selector of a review demands of labels. What cannot be read demands nothing.
fn demanded_labels(selector: &Value) -> Vec<Requirement> {
    let raw = selector["rawSelector"].as_str().filter(|raw| !raw.is_empty());
    if let Some(raw) = raw {
        return Selector::parse(raw).map(|selector| selector.requirements).unwrap_or_default();
    }
    let one = |requirement: &Value| {
        let values = texts(&requirement["values"]);
        let operator = match requirement["operator"].as_str()? {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => return None,
        };
        Some(Requirement { key: requirement["key"].as_str()?.to_owned(), operator })
    };
    selector["requirements"].as_array().into_iter().flatten().filter_map(one).collect()
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
    let namespace = review["spec"]["namespace"].as_str().unwrap_or_default();
    let authorizers = call.api.authorizers();
    let rules = authorizers.iter().flat_map(|member| member.rules(&call.user, namespace));
    let (mut resource_rules, mut path_rules) = (Vec::new(), Vec::new());
    for rule in rules {
        if !rule.resources.is_empty() {
            let mut shown = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                shown["resourceNames"] = json!(rule.names);
            }
            resource_rules.push(shown);
        }
        if !rule.paths.is_empty() {
            path_rules.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
        }
    }
    let unlisted: Vec<&str> = authorizers.iter().filter_map(|authorizer| authorizer.unlisted(&call.user)).collect();
    let mut status = json!({"resourceRules": resource_rules, "nonResourceRules": path_rules,
                            "incomplete": !unlisted.is_empty()});
    if !unlisted.is_empty() {
        status["evaluationError"] = unlisted.join(", ").into();
    }
    Ok(answered(review, status))
}
