//! Who decides what may be done, as a file says it (`AuthorizationConfiguration`, KEP-3221). Upstream:
//! `k8s.io/apiserver/pkg/apis/apiserver/validation` and `pkg/kubeapiserver/authorizer`.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use kontiki_machinery::schema::duration::GoDuration;
use serde::Deserialize;
use serde_json::json;

use crate::{
    FieldError, Path,
    expressions::credentials::{About, Compiled},
    options::{
        self,
        Shape::{self, Fields, List, Plain},
    },
    rows::vocab::{Errors, subdomain_errors},
};

const KIND: &str = "AuthorizationConfiguration";
/// In the order in which they are shown.
const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
const MOST_CONDITIONS: usize = 64;
const LONGEST: GoDuration = GoDuration(30_000_000_000);

const SHAPE: Shape = Fields(&[(
    "authorizers",
    List(&Fields(&[
        ("type", Plain),
        ("name", Plain),
        (
            "webhook",
            Fields(&[
                ("authorizedTTL", Plain),
                ("cacheAuthorizedRequests", Plain),
                ("unauthorizedTTL", Plain),
                ("cacheUnauthorizedRequests", Plain),
                ("timeout", Plain),
                ("subjectAccessReviewVersion", Plain),
                ("matchConditionSubjectAccessReviewVersion", Plain),
                ("failurePolicy", Plain),
                ("connectionInfo", Fields(&[("type", Plain), ("kubeConfigFile", Plain)])),
                ("matchConditions", List(&Fields(&[("expression", Plain)]))),
            ]),
        ),
    ])),
)]);

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    authorizers: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    r#type: String,
    name: String,
    webhook: Option<Hook>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Span,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Span,
    cache_unauthorized_requests: Option<bool>,
    timeout: Span,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: Connection,
    match_conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Connection {
    r#type: String,
    kube_config_file: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    expression: String,
}

/// A duration in Go's notation.
#[derive(Clone, Copy)]
struct Span(GoDuration);

impl Default for Span {
    fn default() -> Self {
        Self(GoDuration(0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        GoDuration::parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Span {
    fn or(self, seconds: i64) -> GoDuration {
        if self.0 == GoDuration(0) { GoDuration(seconds * 1_000_000_000) } else { self.0 }
    }
}

fn time(of: GoDuration) -> Duration {
    Duration::from_nanos(u64::try_from(of.0).unwrap_or_default())
}

/// One of the chain.
pub(super) enum Choice {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook(Box<Settings>),
}

/// A webhook.
pub(super) struct Settings {
    /// Where it is, and as whom it is called.
    pub kubeconfig: String,
    /// Of the review that it is sent.
    pub version: String,
    pub timeout: Duration,
    /// How long a yes holds, and how long anything else.
    pub authorized: Duration,
    pub unauthorized: Duration,
    /// Whether what it cannot be asked is refused.
    pub denies: bool,
    pub conditions: Vec<Compiled>,
}

/// Reads a file. `look`: whether there is a file of this name, and it is one that can be read.
///
/// # Errors
/// What is wrong with it, in upstream's words and in one line.
pub(super) fn read(text: &[u8], look: &dyn Fn(&str) -> Result<(), String>) -> Result<Vec<Choice>, String> {
    let file: File =
        options::read(text, KIND, &SHAPE).map_err(|why| format!("failed to load {KIND} from file: {why}"))?;
    let (mut errs, mut choices) = (Errors::new(), Vec::new());
    check(&mut errs, &file, look, &mut choices);
    if !errs.is_empty() {
        return Err(options::said(&errs));
    }
    let misnamed = |entry: &&Entry| entry.r#type != "Webhook" && entry.name != entry.r#type.to_lowercase();
    if let Some(Entry { r#type: of, name, .. }) = file.authorizers.iter().find(misnamed) {
        return Err(format!("expected name {} for authorizer {of} instead of {name}", of.to_lowercase()));
    }
    Ok(choices)
}

fn check(errs: &mut Errors, file: &File, look: &dyn Fn(&str) -> Result<(), String>, choices: &mut Vec<Choice>) {
    let root = Path::new("authorizers");
    if file.authorizers.is_empty() {
        errs.push(FieldError::required(&root, "at least one authorization mode must be defined"));
    }
    let (mut types, mut names) = (BTreeSet::new(), HashSet::new());
    for (i, entry) in file.authorizers.iter().enumerate() {
        let (path, of) = (root.index(i), entry.r#type.as_str());
        let at = path.child("type");
        if of.is_empty() {
            errs.push(FieldError::required(at, ""));
            continue;
        }
        if !TYPES.contains(&of) {
            errs.push(FieldError::not_supported(at, of, &TYPES));
            continue;
        }
        if !types.insert(of) && of != "Webhook" {
            errs.push(FieldError::duplicate(at, of));
            continue;
        }
        named(errs, &path.child("name"), &entry.name, &mut names);
        match (of, &entry.webhook) {
            ("Webhook", None) => errs.push(FieldError::required(path.child("webhook"), "required when type=Webhook")),
            ("Webhook", Some(hook)) => choices.push(Choice::Webhook(Box::new(webhook(errs, &path, hook, look)))),
            (_, Some(_)) => {
                let why = "may only be specified when type=Webhook";
                errs.push(FieldError::invalid(path.child("webhook"), "non-null", why));
            }
            ("AlwaysAllow", None) => choices.push(Choice::AlwaysAllow),
            ("AlwaysDeny", None) => choices.push(Choice::AlwaysDeny),
            ("Node", None) => choices.push(Choice::Node),
            (_, None) => choices.push(Choice::Rbac),
        }
    }
}

fn named<'a>(errs: &mut Errors, path: &Path, name: &'a str, names: &mut HashSet<&'a str>) {
    let wrong = subdomain_errors(name);
    if name.is_empty() {
        errs.push(FieldError::required(path, ""));
    } else if names.contains(name) {
        errs.push(FieldError::duplicate(path, name));
    } else if !wrong.is_empty() {
        errs.push(FieldError::invalid(path, name, format!("authorizer name is invalid: {}", wrong.join(", "))));
    }
    names.insert(name);
}

fn webhook(errs: &mut Errors, path: &Path, hook: &Hook, look: &dyn Fn(&str) -> Result<(), String>) -> Settings {
    let (timeout, zero) = (hook.timeout.0, GoDuration(0));
    if timeout == zero {
        errs.push(FieldError::required(path.child("timeout"), ""));
    } else if timeout > LONGEST || timeout < zero {
        errs.push(FieldError::invalid(path.child("timeout"), timeout.to_string(), "must be > 0s and <= 30s"));
    }
    let (authorized, unauthorized) = (hook.authorized_ttl.or(300), hook.unauthorized_ttl.or(30));
    for (field, ttl) in [("authorizedTTL", authorized), ("unauthorizedTTL", unauthorized)] {
        if ttl < zero {
            errs.push(FieldError::invalid(path.child(field), ttl.to_string(), "must be > 0s"));
        }
    }
    one_of(errs, &path.child("subjectAccessReviewVersion"), &hook.subject_access_review_version, &["v1", "v1beta1"]);
    let (at, version) = (
        path.child("matchConditionSubjectAccessReviewVersion"),
        hook.match_condition_subject_access_review_version.as_str(),
    );
    match version {
        "v1" => {}
        "" if hook.match_conditions.is_empty() => {}
        "" => errs.push(FieldError::required(at, "required if match conditions are specified")),
        other => errs.push(FieldError::not_supported(at, other, &["v1"])),
    }
    one_of(errs, &path.child("failurePolicy"), &hook.failure_policy, &["NoOpinion", "Deny"]);
    connection(errs, &path.child("connectionInfo"), &hook.connection_info, look);
    let kept = |ttl: GoDuration, wanted: Option<bool>| if wanted == Some(false) { Duration::ZERO } else { time(ttl) };
    Settings {
        kubeconfig: hook.connection_info.kube_config_file.clone().unwrap_or_default(),
        version: hook.subject_access_review_version.clone(),
        timeout: time(timeout),
        authorized: kept(authorized, hook.cache_authorized_requests),
        unauthorized: kept(unauthorized, hook.cache_unauthorized_requests),
        denies: hook.failure_policy == "Deny",
        conditions: conditions(errs, &path.child("matchConditions"), &hook.match_conditions),
    }
}

fn one_of(errs: &mut Errors, path: &Path, value: &str, known: &[&str]) {
    if value.is_empty() {
        errs.push(FieldError::required(path, ""));
    } else if !known.contains(&value) {
        errs.push(FieldError::not_supported(path, value, known));
    }
}

fn connection(errs: &mut Errors, path: &Path, info: &Connection, look: &dyn Fn(&str) -> Result<(), String>) {
    let (of, file) = (path.child("type"), path.child("kubeConfigFile"));
    let named = info.kube_config_file.as_deref();
    match (info.r#type.as_str(), named) {
        ("", _) => errs.push(FieldError::required(of, "")),
        ("InClusterConfig", Some(named)) => {
            errs.push(FieldError::invalid(file, named, "can only be set when type=KubeConfigFile"));
        }
        ("InClusterConfig", None) => errs.push(FieldError::forbidden(of, "not allowed for the API server itself")),
        ("KubeConfigFile", None | Some("")) => errs.push(FieldError::required(file, "")),
        ("KubeConfigFile", Some(named)) if !named.starts_with('/') => {
            errs.push(FieldError::invalid(file, named, "must be an absolute path"));
        }
        ("KubeConfigFile", Some(named)) => {
            errs.extend(look(named).err().map(|why| FieldError::invalid(file, named, why)));
        }
        (other, named) => {
            let shown = json!({"Type": other, "KubeConfigFile": named});
            errs.push(FieldError::not_supported(of, shown, &["InClusterConfig", "KubeConfigFile"]));
        }
    }
}

fn conditions(errs: &mut Errors, path: &Path, conditions: &[Condition]) -> Vec<Compiled> {
    if conditions.len() > MOST_CONDITIONS {
        errs.push(FieldError::too_many(path, conditions.len(), MOST_CONDITIONS));
        return Vec::new();
    }
    let (mut seen, mut compiled) = (HashSet::new(), Vec::new());
    for (i, condition) in conditions.iter().enumerate() {
        let (at, text) = (path.index(i).child("expression"), condition.expression.as_str());
        if text.trim().is_empty() {
            errs.push(FieldError::required(at, ""));
        } else if !seen.insert(text) {
            errs.push(FieldError::duplicate(at, text));
        } else {
            match About::Access.condition(text) {
                Ok(made) => compiled.push(made),
                Err(why) => errs.push(FieldError::invalid(at, text, why)),
            }
        }
    }
    compiled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(authorizers: &str) -> String {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: {KIND}\nauthorizers: {authorizers}\n");
        let look = |name: &str| if name == "/there" { Ok(()) } else { Err("error loading file: gone".to_owned()) };
        read(text.as_bytes(), &look).map_or_else(|why| why, |choices| format!("{} chosen", choices.len()))
    }

    #[test]
    fn files_are_judged_as_upstream_judges_them() {
        let good = "timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, \
                    connectionInfo: {type: KubeConfigFile, kubeConfigFile: /there}";
        let hook = |fields: &str| format!("[{{type: Webhook, name: a, webhook: {{{fields}}}}}]");
        for (authorizers, expect) in [
            ("[{type: Node, name: node}, {type: RBAC, name: rbac}]", "2 chosen"),
            ("[]", "authorizers: Required value: at least one authorization mode must be defined"),
            ("[{name: x}]", "authorizers[0].type: Required value"),
            (
                "[{type: ABAC, name: abac}]",
                "authorizers[0].type: Unsupported value: \"ABAC\": supported values: \"AlwaysAllow\", \"AlwaysDeny\", \
                 \"Node\", \"RBAC\", \"Webhook\"",
            ),
            ("[{type: RBAC, name: rbac}, {type: RBAC, name: b}]", "authorizers[1].type: Duplicate value: \"RBAC\""),
            ("[{type: RBAC}]", "authorizers[0].name: Required value"),
            ("[{type: RBAC, name: other}]", "expected name rbac for authorizer RBAC instead of other"),
            (
                "[{type: RBAC, name: rbac, webhook: {}}]",
                "authorizers[0].webhook: Invalid value: \"non-null\": may only be specified when type=Webhook",
            ),
            ("[{type: Webhook, name: a}]", "authorizers[0].webhook: Required value: required when type=Webhook"),
            ("[{type: RBAC, nam: rbac}]", "strict decoding error: unknown field \"authorizers[0].nam\""),
            (&hook(good), "1 chosen"),
            (&hook(&format!("{good}, matchConditions: [{{expression: 'true'}}]")), "required if match conditions are"),
            (
                &hook(&good.replace("3s", "31s")),
                "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
            ),
            (&hook(&good.replace("3s", "x")), "time: invalid duration \"x\""),
            (&hook(&good.replace("Deny", "Ignore")), "supported values: \"NoOpinion\", \"Deny\""),
            (
                &hook(&good.replace("/there", "/gone")),
                "kubeConfigFile: Invalid value: \"/gone\": error loading file: gone",
            ),
            (
                &hook(&good.replace("/there", "there")),
                "kubeConfigFile: Invalid value: \"there\": must be an absolute path",
            ),
            (&hook(&format!("{good}, authorizedTTL: -1s")), "authorizedTTL: Invalid value: \"-1s\": must be > 0s"),
        ] {
            let found = outcome(authorizers);
            assert!(found.contains(expect), "{authorizers}: {found}");
        }
    }

    #[test]
    fn conditions_are_about_the_review() {
        let hook = |expression: &str| {
            let text = serde_json::Value::from(expression);
            outcome(&format!(
                "[{{type: Webhook, name: a, webhook: {{timeout: 3s, subjectAccessReviewVersion: v1, failurePolicy: Deny, \
                 connectionInfo: {{type: KubeConfigFile, kubeConfigFile: /there}}, \
                 matchConditionSubjectAccessReviewVersion: v1, matchConditions: [{{expression: {text}}}]}}}}]"
            ))
        };
        for (expression, expect) in [
            ("has(request.resourceAttributes) && request.resourceAttributes.namespace == 'a'", "1 chosen"),
            ("request.resourceAttributes.labelSelector.requirements.exists(r, r.key == 'a')", "1 chosen"),
            ("", "authorizers[0].matchConditions[0].expression: Required value"),
            ("request.user", "must evaluate to bool but got string"),
            ("request.nobody == 'a'", "compilation failed: ERROR: <input>:1:8: undefined field 'nobody'"),
            ("claims.a == 'a'", "undeclared reference to 'claims'"),
        ] {
            let found = hook(expression);
            assert!(found.contains(expect), "{expression}: {found}");
        }
    }
}
