//! Flow schemas and priority levels as objects say them (`flowcontrol.apiserver.k8s.io/v1`, KEP-1040), and which schema
//! a request belongs to.

use std::collections::BTreeMap;

use kontiki_machinery::access::{Attributes, User};
use serde::Deserialize;
use serde_json::Value;

/// What upstream's servers begin with: recorded from one.
const DEFAULTS: &str = include_str!("../../data/flowcontrol.json");
/// What takes whatever nothing else does; and the level of its schema.
const CATCH_ALL: &str = "catch-all";
const EXEMPT: &str = "exempt";

#[derive(Clone, Debug, Deserialize)]
struct Object<S> {
    metadata: Metadata,
    spec: S,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    uid: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Defaults {
    flow_schemas: Vec<Value>,
    priority_levels: Vec<Value>,
}

/// One priority level, as its object says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LevelSpec {
    pub name: String,
    pub uid: String,
    pub shares: u32,
    /// Parts of a hundred of its own seats that others may use.
    pub lendable: u32,
    /// Parts of a hundred of its own seats that it may use of others; `None`: whatever is free.
    pub borrowing: Option<u32>,
    pub response: Response,
}

/// What becomes of requests that find no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// None needs one.
    Exempt,
    /// They are refused.
    Reject,
    /// They wait.
    Queue {
        /// Number of queues.
        queues: u32,
        /// Of which each flow may use this many.
        hand: u32,
        /// Requests of one queue that may wait.
        length: u32,
    },
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawLevel {
    r#type: String,
    limited: RawLimited,
    exempt: RawLimited,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawLimited {
    nominal_concurrency_shares: Option<u32>,
    lendable_percent: Option<u32>,
    borrowing_limit_percent: Option<u32>,
    limit_response: RawResponse,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawResponse {
    r#type: String,
    queuing: RawQueuing,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawQueuing {
    queues: u32,
    hand_size: u32,
    queue_length_limit: u32,
}

impl Default for RawQueuing {
    fn default() -> Self {
        Self { queues: 64, hand_size: 8, queue_length_limit: 50 }
    }
}

impl From<Object<RawLevel>> for LevelSpec {
    fn from(Object { metadata, spec }: Object<RawLevel>) -> Self {
        let exempt = spec.r#type == "Exempt";
        let limited = if exempt { spec.exempt } else { spec.limited };
        let RawQueuing { queues, hand_size, queue_length_limit } = limited.limit_response.queuing;
        let queue = Response::Queue {
            queues: queues.max(1),
            hand: hand_size.clamp(1, queues.max(1)),
            length: queue_length_limit,
        };
        let response = match limited.limit_response.r#type.as_str() {
            _ if exempt => Response::Exempt,
            "Queue" => queue,
            _ => Response::Reject,
        };
        Self {
            name: metadata.name,
            uid: metadata.uid,
            shares: limited.nominal_concurrency_shares.unwrap_or(if exempt { 0 } else { 30 }),
            lendable: limited.lendable_percent.unwrap_or(0).min(100),
            borrowing: limited.borrowing_limit_percent,
            response,
        }
    }
}

/// One flow schema.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    pub name: String,
    pub uid: String,
    pub level: String,
    precedence: i64,
    distinguisher: String,
    rules: Vec<Rule>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSchema {
    priority_level_configuration: Metadata,
    matching_precedence: Option<i64>,
    distinguisher_method: RawMethod,
    rules: Vec<Rule>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawMethod {
    r#type: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<PathRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    // Exactly one is there, which says what kind of subject it is.
    user: Option<Name>,
    group: Option<Name>,
    service_account: Option<Name>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Name {
    name: String,
    namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PathRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    paths: Vec<String>,
}

impl From<Object<RawSchema>> for Schema {
    fn from(Object { metadata, spec }: Object<RawSchema>) -> Self {
        Self {
            name: metadata.name,
            uid: metadata.uid,
            level: spec.priority_level_configuration.name,
            precedence: spec.matching_precedence.unwrap_or(1000),
            distinguisher: spec.distinguisher_method.r#type,
            rules: spec.rules,
        }
    }
}

/// Everything that is configured.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// In the order in which they are asked.
    pub schemas: Vec<Schema>,
    pub levels: Vec<LevelSpec>,
}

impl Settings {
    /// What the objects say. What upstream calls mandatory is there in any case, and where there are none of a kind, all
    /// of upstream's are. A schema without its level counts for nothing.
    pub fn of(schemas: &[Value], levels: &[Value]) -> Self {
        let defaults: Defaults = serde_json::from_str(DEFAULTS).expect("the defaults are JSON");
        let levels = merged::<RawLevel, LevelSpec>(levels, &defaults.priority_levels, |level| &level.name);
        let schemas = merged::<RawSchema, Schema>(schemas, &defaults.flow_schemas, |schema| &schema.name);
        let levels: Vec<LevelSpec> = levels.into_values().collect();
        let mut schemas: Vec<Schema> = schemas.into_values().collect();
        schemas.retain(|schema| levels.iter().any(|level| level.name == schema.level));
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self { schemas, levels }
    }

    /// The place of the first schema that matches a request, or else of the one that takes whatever no other does.
    pub fn classify(&self, user: &User, asked: &Attributes<'_>) -> usize {
        let found = self.schemas.iter().position(|schema| schema.matches(user, asked));
        let catch_all = || self.schemas.iter().position(|schema| schema.name == CATCH_ALL);
        found.or_else(catch_all).unwrap_or_default()
    }
}

fn merged<R, T>(objects: &[Value], defaults: &[Value], name: fn(&T) -> &String) -> BTreeMap<String, T>
where
    R: for<'de> Deserialize<'de>,
    T: From<Object<R>>,
{
    let read = |value: &Value| serde_json::from_value::<Object<R>>(value.clone()).ok().map(T::from);
    let mandatory = |item: &T| objects.is_empty() || [CATCH_ALL, EXEMPT].contains(&name(item).as_str());
    let mut all: BTreeMap<String, T> = BTreeMap::new();
    // What is there replaces what would be.
    for item in defaults.iter().filter_map(read).filter(mandatory).chain(objects.iter().filter_map(read)) {
        all.insert(name(&item).clone(), item);
    }
    all
}

impl Schema {
    fn matches(&self, user: &User, asked: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| rule.subjects.iter().any(|subject| subject.is(user)) && rule.covers(asked))
    }

    /// What tells the flows of a schema apart.
    pub fn flow<'a>(&self, user: &'a User, asked: &'a Attributes<'_>) -> &'a str {
        match self.distinguisher.as_str() {
            "ByUser" => &user.name,
            "ByNamespace" => asked.namespace,
            _ => "",
        }
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        let any = |name: &Name, own: &str| name.name == "*" || name.name == own;
        if let Some(name) = &self.user {
            return any(name, &user.name);
        }
        if let Some(name) = &self.group {
            return name.name == "*" || user.groups.contains(&name.name);
        }
        let own = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let account = self.service_account.as_ref().zip(own);
        account.is_some_and(|(account, (namespace, name))| account.namespace == namespace && any(account, name))
    }
}

fn holds(list: &[String], item: &str) -> bool {
    list.iter().any(|known| known == "*" || known == item)
}

impl Rule {
    fn covers(&self, asked: &Attributes<'_>) -> bool {
        if asked.resource.is_empty() {
            return self.non_resource_rules.iter().any(|rule| rule.covers(asked));
        }
        self.resource_rules.iter().any(|rule| rule.covers(asked))
    }
}

impl ResourceRule {
    fn covers(&self, asked: &Attributes<'_>) -> bool {
        let in_scope = match asked.namespace {
            "" => self.cluster_scope,
            namespace => holds(&self.namespaces, namespace),
        };
        let named = self.resources.iter().any(|known| match known.split_once('/') {
            _ if known == "*" => true,
            Some((resource, sub)) => resource == asked.resource && sub == asked.subresource,
            None => known == asked.resource && asked.subresource.is_empty(),
        });
        in_scope && named && holds(&self.verbs, asked.verb) && holds(&self.api_groups, asked.group)
    }
}

impl PathRule {
    fn covers(&self, asked: &Attributes<'_>) -> bool {
        let path = self.paths.iter().any(|known| match known.strip_suffix('*') {
            Some(prefix) => asked.path.starts_with(prefix),
            None => known == asked.path,
        });
        path && holds(&self.verbs, asked.verb)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn about<'a>(verb: &'a str, resource: &'a str, group: &'a str, namespace: &'a str) -> Attributes<'a> {
        Attributes { verb, resource, group, namespace, ..Attributes::default() }
    }

    #[test]
    fn requests_find_upstreams_schemas() {
        let settings = Settings::of(&[], &[]);
        let node = User::new("system:node:a", &["system:nodes", "system:authenticated"]);
        let account = |name: &str| User::new(name, &["system:serviceaccounts", "system:authenticated"]);
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        for (user, asked, expect) in [
            (User::new("a", &["system:masters", "system:authenticated"]), about("list", "pods", "", ""), "exempt"),
            (User::new("a", &["system:unauthenticated"]), path("/livez"), "probes"),
            (User::new("a", &["system:authenticated"]), path("/version"), "global-default"),
            (node.clone(), about("update", "leases", "coordination.k8s.io", "kube-node-lease"), "system-node-high"),
            (node.clone(), Attributes { subresource: "status", ..about("patch", "nodes", "", "") }, "system-node-high"),
            (node, about("list", "pods", "", ""), "system-nodes"),
            (
                account("system:serviceaccount:kube-system:x"),
                about("get", "pods", "", "a"),
                "kube-system-service-accounts",
            ),
            (account("system:serviceaccount:a:x"), about("get", "pods", "", "a"), "service-accounts"),
            (User::new("nobody", &[]), about("get", "pods", "", "a"), "catch-all"),
        ] {
            assert_eq!(settings.schemas[settings.classify(&user, &asked)].name, expect, "{} {asked:?}", user.name);
        }
    }

    #[test]
    fn what_is_mandatory_is_there_whatever_the_objects_say() {
        let level = json!({"metadata": {"name": "own", "uid": "u"}, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 7}}});
        let schema = json!({"metadata": {"name": "s"}, "spec": {"matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "own"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "a"}}],
                "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["n"]}]}]}});
        let dangling = json!({"metadata": {"name": "t"}, "spec": {"priorityLevelConfiguration": {"name": "none"}}});
        let settings = Settings::of(&[schema, dangling], &[level, json!("rubbish")]);
        let names: Vec<&str> = settings.schemas.iter().map(|schema| schema.name.as_str()).collect();
        assert_eq!(names, ["exempt", "s", "catch-all"]);
        let own = settings.levels.iter().find(|level| level.name == "own").expect("it is there");
        assert_eq!((own.shares, own.response), (7, Response::Reject));
        let user = User::new("a", &["system:authenticated"]);
        let found = |namespace| &settings.schemas[settings.classify(&user, &about("get", "pods", "", namespace))].name;
        assert_eq!((found("n").as_str(), found("m").as_str()), ("s", "catch-all"));
    }
}
