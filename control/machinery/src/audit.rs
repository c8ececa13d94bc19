//! Audit: which requests are recorded, how much of each, and as what. `audit.k8s.io/v1`, as upstream's
//! `apiserver/pkg/audit` has it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::access::{Attributes, User};

/// How much of a request is recorded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who asked for what and when, and what came of it.
    Metadata,
    /// What was sent, too.
    Request,
    /// And what was answered.
    RequestResponse,
}

/// When a record is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum Stage {
    /// Before anything is done.
    RequestReceived,
    /// The head of an answer that goes on for long is sent.
    ResponseStarted,
    /// All of the answer is sent.
    ResponseComplete,
    /// There is a fault of ours.
    Panic,
}

impl Stage {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// A policy: the first rule that fits a request decides.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: Option<Map<String, Value>>,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a policy says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How much is recorded.
    pub level: Level,
    omitted: Vec<Stage>,
    /// Whether who owns which field is left out of what is recorded.
    pub omits_managed_fields: bool,
}

impl Verdict {
    /// Whether a record is made at a stage.
    #[must_use]
    pub fn records(&self, stage: Stage) -> bool {
        self.level > Level::None && !self.omitted.contains(&stage)
    }
}

impl Policy {
    /// Reads a policy's document.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn read(document: Value) -> Result<Self, String> {
        let policy: Self = serde_json::from_value(document).map_err(|error| error.to_string())?;
        if (policy.api_version.as_str(), policy.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            return Err(format!("it is a {} of {}, not a Policy of audit.k8s.io/v1", policy.kind, policy.api_version));
        }
        if policy.rules.is_empty() {
            return Err("it has no rules".to_owned());
        }
        for (at, rule) in policy.rules.iter().enumerate() {
            rule.check().map_err(|why| format!("rules[{at}]: {why}"))?;
        }
        Ok(policy)
    }

    /// What it says of a request.
    #[must_use]
    pub fn judge(&self, user: &User, asked: &Attributes<'_>) -> Verdict {
        let rule = self.rules.iter().find(|rule| rule.fits(user, asked));
        let own = rule.map_or(&[][..], |rule| &rule.omit_stages);
        Verdict {
            level: rule.map_or(Level::None, |rule| rule.level),
            omitted: self.omit_stages.iter().chain(own).copied().collect(),
            omits_managed_fields: rule.and_then(|rule| rule.omit_managed_fields).unwrap_or(self.omit_managed_fields),
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|text| text == wanted)
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        let of_paths = !self.non_resource_urls.is_empty();
        if of_paths && (!self.resources.is_empty() || !self.namespaces.is_empty()) {
            return Err("resources and namespaces do not go together with nonResourceURLs".to_owned());
        }
        let bad = |url: &&String| *url != "*" && (!url.starts_with('/') || url.trim_end_matches('*').contains('*'));
        if let Some(url) = self.non_resource_urls.iter().find(bad) {
            return Err(format!("nonResourceURLs: {url:?} is no path, which may end with *"));
        }
        match self.resources.iter().find(|own| !own.resource_names.is_empty() && own.resources.is_empty()) {
            Some(_) => Err("resourceNames need resources".to_owned()),
            None => Ok(()),
        }
    }

    fn fits(&self, user: &User, asked: &Attributes<'_>) -> bool {
        let of = |list: &[String], fits: bool| list.is_empty() || fits;
        if !of(&self.users, has(&self.users, &user.name))
            || !of(&self.user_groups, user.groups.iter().any(|group| has(&self.user_groups, group)))
            || !of(&self.verbs, has(&self.verbs, asked.verb))
        {
            return false;
        }
        let is_resource = !asked.resource.is_empty();
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return is_resource
                && of(&self.namespaces, has(&self.namespaces, asked.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|own| own.fits(asked)));
        }
        self.non_resource_urls.is_empty()
            || (!is_resource && self.non_resource_urls.iter().any(|spec| path_fits(asked.path, spec)))
    }
}

fn path_fits(path: &str, spec: &str) -> bool {
    spec == "*" || spec == path || (spec.ends_with('*') && path.starts_with(spec.trim_end_matches('*')))
}

impl Resources {
    fn fits(&self, asked: &Attributes<'_>) -> bool {
        if self.group != asked.group {
            return false;
        }
        let named = self.resource_names.is_empty() || has(&self.resource_names, asked.name);
        self.resources.is_empty() || (named && self.resources.iter().any(|spec| resource_fits(spec, asked)))
    }
}

/// `*`, `pods`, `pods/log`, `pods/*` or `*/scale`.
fn resource_fits(spec: &str, asked: &Attributes<'_>) -> bool {
    let (resource, sub) = spec.split_once('/').map_or((spec, ""), |(resource, sub)| (resource, sub));
    match (resource, sub) {
        ("*", "") => true,
        ("*", sub) => !asked.subresource.is_empty() && sub == asked.subresource,
        (resource, "*") => resource == asked.resource,
        (resource, sub) => resource == asked.resource && sub == asked.subresource,
    }
}

/// What is known of a request, for its records.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Of this request alone.
    pub id: String,
    /// Path and query.
    pub uri: String,
    /// The verb.
    pub verb: String,
    /// Who asked.
    pub user: User,
    /// For whom, if for another.
    pub impersonated: Option<User>,
    /// Where from.
    pub sources: Vec<String>,
    /// The client's own name for itself.
    pub agent: String,
    /// What it is about, if it is a resource.
    pub object: Option<Value>,
    /// When it came.
    pub received: Timestamp,
}

impl Subject {
    /// What a request for a resource is about.
    #[must_use]
    pub fn object_of(asked: &Attributes<'_>, version: &str) -> Option<Value> {
        if asked.resource.is_empty() {
            return None;
        }
        let fields = [
            ("resource", asked.resource),
            ("namespace", asked.namespace),
            ("name", asked.name),
            ("apiGroup", asked.group),
            ("apiVersion", version),
            ("subresource", asked.subresource),
        ];
        let said = fields.into_iter().filter(|(_, value)| !value.is_empty());
        Some(said.map(|(field, value)| (field.to_owned(), value.into())).collect::<Map<_, _>>().into())
    }
}

/// What came of a request, as far as it is known and wanted.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The code, and the answer if it is a Status.
    pub status: Option<Value>,
    /// What was sent.
    pub request: Option<Value>,
    /// What was answered.
    pub response: Option<Value>,
    /// What admission has to say of it, by keys.
    pub annotations: BTreeMap<String, String>,
}

/// Annotations whose keys begin so hold parts of objects, and are not told where these are not.
const PATCHES: &str = "patch.webhook.admission.k8s.io/";

fn show(user: &User) -> Value {
    let mut shown = json!({"username": user.name});
    for (field, value) in [("uid", json!(user.uid)), ("groups", json!(user.groups)), ("extra", json!(user.extra))] {
        let empty = value.as_str() == Some("") || value == json!([]) || value == json!({});
        if !empty {
            shown[field] = value;
        }
    }
    shown
}

/// One record.
#[must_use]
pub fn event(verdict: &Verdict, stage: Stage, subject: &Subject, outcome: &Outcome, now: Timestamp) -> Value {
    let micros = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let mut event = json!({
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": format!("{:?}", verdict.level),
        "auditID": subject.id,
        "stage": stage.name(),
        "requestURI": subject.uri,
        "verb": subject.verb,
        "user": show(&subject.user),
        "sourceIPs": subject.sources,
        "requestReceivedTimestamp": micros(subject.received),
        "stageTimestamp": micros(now),
    });
    if let Some(user) = &subject.impersonated {
        event["impersonatedUser"] = show(user);
    }
    if !subject.agent.is_empty() {
        event["userAgent"] = subject.agent.as_str().into();
    }
    let body = |level: Level, value: &Option<Value>| {
        let mut value = value.clone().filter(|_| verdict.level >= level)?;
        if verdict.omits_managed_fields {
            forget_owners(&mut value);
        }
        Some(value)
    };
    let parts = [
        ("objectRef", subject.object.clone()),
        ("responseStatus", outcome.status.clone()),
        ("requestObject", body(Level::Request, &outcome.request)),
        ("responseObject", body(Level::RequestResponse, &outcome.response)),
    ];
    for (field, value) in parts {
        if let Some(value) = value {
            event[field] = value;
        }
    }
    let told = |key: &str| verdict.level >= Level::Request || !key.starts_with(PATCHES);
    let annotations = outcome.annotations.iter().filter(|(key, _)| told(key));
    let annotations: Map<String, Value> =
        annotations.map(|(key, value)| (key.clone(), value.as_str().into())).collect();
    if !annotations.is_empty() {
        event["annotations"] = Value::Object(annotations);
    }
    event
}

fn forget_owners(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: Value) -> Result<Policy, String> {
        Policy::read(
            json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules, "omitStages": ["RequestReceived"]}),
        )
    }

    #[test]
    fn policies_are_read_strictly() {
        for (rules, expect) in [
            (json!([{"level": "Metadata"}]), ""),
            (json!([]), "no rules"),
            (json!([{"level": "All"}]), "unknown variant `All`"),
            (json!([{"level": "None", "user": "x"}]), "unknown field `user`"),
            (json!([{"level": "None", "nonResourceURLs": ["/a"], "namespaces": ["b"]}]), "rules[0]: resources and"),
            (json!([{"level": "None", "nonResourceURLs": ["/a*b*"]}]), "is no path"),
            (json!([{"level": "None", "resources": [{"resourceNames": ["x"]}]}]), "need resources"),
        ] {
            match policy(rules.clone()) {
                Ok(_) => assert_eq!(expect, "", "{rules}"),
                Err(why) => assert!(!expect.is_empty() && why.contains(expect), "{rules}: {why}"),
            }
        }
        let other = Policy::read(json!({"apiVersion": "v1", "kind": "Policy", "rules": [{"level": "None"}]}));
        assert!(other.is_err_and(|why| why.contains("not a Policy of")));
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy = policy(json!([
            {"level": "None", "users": ["robot"], "verbs": ["get", "list"]},
            {"level": "None", "nonResourceURLs": ["/healthz*", "/version"]},
            {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets", "*/token", "pods/*"]}]},
            {"level": "Request", "userGroups": ["people"], "namespaces": [""], "omitStages": ["ResponseStarted"]},
            {"level": "RequestResponse", "resources": [{"group": "apps", "resources": ["deployments"], "resourceNames": ["web"]}]},
        ]))
        .expect("a policy");
        let robot = User::new("robot", &[]);
        let person = User::new("anna", &["people"]);
        let resource = |verb, group, resource, subresource, namespace, name| Attributes {
            verb,
            group,
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        };
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        for (what, user, asked, expect) in [
            ("a robot reads", &robot, resource("get", "", "secrets", "", "a", "x"), Level::None),
            ("and writes", &robot, resource("update", "", "secrets", "", "a", "x"), Level::Metadata),
            ("health", &person, path("/healthz/ping"), Level::None),
            (
                "a part of anything",
                &robot,
                resource("create", "", "serviceaccounts", "token", "a", "x"),
                Level::Metadata,
            ),
            ("any part of a pod", &robot, resource("get", "", "pods", "log", "a", "x"), Level::None),
            ("written", &robot, resource("update", "", "pods", "status", "a", "x"), Level::Metadata),
            ("the pod itself", &robot, resource("update", "", "pods", "", "a", "x"), Level::Metadata),
            ("no namespace", &person, resource("get", "", "nodes", "", "", "n"), Level::Request),
            ("a path is in none", &person, path("/logs"), Level::None),
            ("by name", &robot, resource("update", "apps", "deployments", "", "a", "web"), Level::RequestResponse),
            ("another name", &robot, resource("update", "apps", "deployments", "", "a", "x"), Level::None),
            ("its status", &robot, resource("update", "apps", "deployments", "status", "a", "web"), Level::None),
        ] {
            let verdict = policy.judge(user, &asked);
            assert_eq!(verdict.level, expect, "{what}");
            assert!(!verdict.records(Stage::RequestReceived), "{what}: the policy leaves it out");
            let started = expect > Level::None && expect != Level::Request;
            assert_eq!(verdict.records(Stage::ResponseStarted), started, "{what}");
        }
    }

    #[test]
    fn a_record_has_what_its_level_wants() {
        let asked = Attributes {
            verb: "update",
            resource: "things",
            group: "g",
            namespace: "a",
            name: "x",
            ..Attributes::default()
        };
        let subject = Subject {
            id: "1".into(),
            uri: "/apis/g/v1/namespaces/a/things/x".into(),
            verb: "update".into(),
            user: User::new("anna", &["people"]),
            impersonated: None,
            sources: vec!["10.0.0.1".into()],
            agent: "kubectl".into(),
            object: Subject::object_of(&asked, "v1"),
            received: Timestamp::UNIX_EPOCH,
        };
        let owned = json!({"metadata": {"name": "x", "managedFields": [{}]}});
        let outcome = Outcome {
            status: Some(json!({"metadata": {}, "code": 200})),
            request: Some(owned.clone()),
            response: Some(owned.clone()),
            annotations: BTreeMap::from(
                [("p/k", "v"), ("patch.webhook.admission.k8s.io/round_0_index_0", "{}")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned())),
            ),
        };
        for (level, omits, request, response) in [
            (Level::Metadata, false, None, None),
            (Level::Request, false, Some(&owned), None),
            (Level::RequestResponse, false, Some(&owned), Some(&owned)),
            (
                Level::RequestResponse,
                true,
                Some(&json!({"metadata": {"name": "x"}})),
                Some(&json!({"metadata": {"name": "x"}})),
            ),
        ] {
            let verdict = Verdict { level, omitted: Vec::new(), omits_managed_fields: omits };
            let event = event(&verdict, Stage::ResponseComplete, &subject, &outcome, Timestamp::UNIX_EPOCH);
            assert_eq!((event.get("requestObject"), event.get("responseObject")), (request, response), "{level:?}");
            assert_eq!(event["user"], json!({"username": "anna", "groups": ["people"]}));
            let told = event["annotations"].as_object().map(Map::len);
            assert_eq!(told, Some(if level >= Level::Request { 2 } else { 1 }), "{level:?}");
            assert_eq!(
                event["objectRef"],
                json!({"resource": "things", "namespace": "a", "name": "x", "apiGroup": "g", "apiVersion": "v1"})
            );
            assert_eq!(event["stageTimestamp"], "1970-01-01T00:00:00.000000Z");
        }
    }
}
