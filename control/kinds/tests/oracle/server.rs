//! The pure part of an API server: rows, strategies and patches over a map of objects.
//!
//! What belongs to the real one (preconditions, allocation of real addresses, deletion, requests
//! that are refused before they reach a strategy) is left out or faked, and not compared.

use std::collections::BTreeMap;

use kontiki_kinds::rows::{node, pod, scale, service};
use kontiki_kinds::{FieldError, ResourceDef, Status, meta, patch, schema, table, validate_create, validate_update};
use serde_json::{Value, json};

use crate::script::{NAMESPACE, Request};

pub const NOW: &str = "2026-01-01T00:00:00Z";

#[derive(Default)]
pub struct Server {
    objects: BTreeMap<String, Value>,
    allocated: u16,
}

/// Status code, body, warnings.
pub type Answer = (u16, Value, Vec<String>);

struct Route {
    def: &'static ResourceDef,
    namespace: Option<String>,
    name: Option<String>,
    sub: Option<String>,
}

fn route(path: &str) -> Option<Route> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", ns, plural, more @ ..] if kontiki_kinds::find(group, version, plural).is_some() => {
            (Some((*ns).to_owned()), [&[*plural], more].concat())
        }
        rest => (None, rest.to_vec()),
    };
    let def = kontiki_kinds::find(group, version, rest.first()?)?;
    let nth = |n: usize| rest.get(n).map(|part| (*part).to_owned());
    Some(Route { def, namespace, name: nth(1), sub: nth(2) })
}

impl Route {
    fn key(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.def.storage, self.namespace.as_deref().unwrap_or(""))
    }
}

impl Server {
    /// Answers a request; `None` if it is not for the pure part.
    pub fn handle(&mut self, request: &Request) -> Option<Answer> {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let route = route(path)?;
        let dry = query.contains("dryRun=All");
        match (request.verb.as_str(), &route.name) {
            (verb, Some(name)) if route.sub.as_deref() == Some("scale") => {
                self.scale(&route, verb, request.body.clone(), name, dry)
            }
            ("POST", None) => self.create(&route, request.body.clone()?, dry),
            ("PUT" | "MERGE" | "STRATEGIC" | "JSON", Some(name)) => {
                if !["status", "finalize", "ephemeralcontainers", "resize"]
                    .contains(&route.sub.as_deref().unwrap_or("status"))
                {
                    return None;
                }
                let old = self.objects.get(&route.key(name))?.clone();
                self.update(&route, &request.verb, request.body.clone()?, old, dry)
            }
            ("GET", Some(name)) if route.sub.is_none() => {
                Some((200, self.shown(&route, self.objects.get(&route.key(name))?), Vec::new()))
            }
            ("TABLE", name) => self.table(&route, name.as_deref(), query),
            ("GET", None) => self.list(&route, query),
            ("DELETE", Some(name)) if !dry && route.sub.is_none() => {
                self.objects.remove(&route.key(name));
                None
            }
            _ => None,
        }
    }

    fn shown(&self, route: &Route, stored: &Value) -> Value {
        let mut obj = stored.clone();
        route.def.strategy.from_storage(&mut obj);
        obj
    }

    fn all(&self, route: &Route) -> Vec<Value> {
        let prefix = route.key("");
        self.objects.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, obj)| self.shown(route, obj)).collect()
    }

    fn table(&self, route: &Route, name: Option<&str>, query: &str) -> Option<Answer> {
        if query.contains("Nonsense") || query.contains("Object") {
            return None;
        }
        let now = NOW.parse().ok()?;
        let objects = match name {
            Some(name) => vec![self.shown(route, self.objects.get(&route.key(name))?)],
            None => self.all(route),
        };
        let rows: Vec<Value> =
            objects.iter().map(|obj| table::row(route.def, obj, table::IncludeObject::None, now)).collect();
        Some((200, json!({ "rows": rows }), Vec::new()))
    }

    fn list(&self, route: &Route, query: &str) -> Option<Answer> {
        let selector = query.strip_prefix("fieldSelector=").filter(|selector| !selector.contains(['&', '%']))?;
        let mut items = self.all(route);
        for term in selector.split(',') {
            let (path, value) = term.split_once('=')?;
            let (path, wanted) = path.strip_suffix('!').map_or((path, true), |path| (path, false));
            let found = |obj: &Value| match path {
                "metadata.name" => obj["metadata"]["name"].as_str().map(str::to_owned),
                "metadata.namespace" => obj["metadata"]["namespace"].as_str().map(str::to_owned),
                path => route.def.strategy.field(obj, path),
            };
            if items.iter().any(|obj| found(obj).is_none()) {
                return Some((400, Value::Null, Vec::new()));
            }
            items.retain(|obj| (found(obj).as_deref() == Some(value)) == wanted);
        }
        Some((200, json!({ "items": items }), Vec::new()))
    }

    fn create(&mut self, route: &Route, body: Value, dry: bool) -> Option<Answer> {
        let def = route.def;
        let (mut obj, mut warnings) = match decode(def, body) {
            Ok(decoded) => decoded,
            Err(answer) => return Some(answer),
        };
        let meta = obj.as_object_mut()?.entry("metadata").or_insert_with(|| json!({})).as_object_mut()?;
        if let Some(namespace) = &route.namespace {
            meta.insert("namespace".into(), namespace.as_str().into());
        }
        let prefix = meta.get("generateName").and_then(Value::as_str).unwrap_or("").to_owned();
        if !prefix.is_empty() && meta.get("name").is_none() {
            meta.insert("name".into(), meta::generate_name(&prefix, [1; 5]).into());
        }
        meta::fill_system_fields(&mut obj, "11111111-2222-3333-4444-555555555555", NOW);
        def.strategy.default(&mut obj);
        def.strategy.prepare_create(&mut obj);
        if let Err(answer) = self.admit(def, &mut obj) {
            return Some(answer);
        }
        let errors = validate_create(def, &obj);
        if !errors.is_empty() {
            return Some(refused(def, &obj, &errors));
        }
        self.allocate(def, &mut obj);
        warnings.extend(def.strategy.warnings(&obj, None));
        self.keep(route, &obj, dry);
        Some((201, obj, warnings))
    }

    fn update(&mut self, route: &Route, verb: &str, body: Value, old: Value, dry: bool) -> Option<Answer> {
        let def = route.def;
        let old = self.shown(route, &old);
        let mut sent = old.clone();
        let known = schema::of(def);
        match verb {
            "PUT" => sent = body,
            "MERGE" => patch::merge_patch(&mut sent, &body).ok()?,
            "STRATEGIC" => sent = patch::strategic_merge(&sent, &body, known).ok()?,
            _ => patch::json_patch(&mut sent, &body).ok()?,
        }
        let (mut new, mut warnings) = match decode(def, sent) {
            Ok(decoded) => decoded,
            Err(answer) => return Some(answer),
        };
        let sub = route.sub.as_deref();
        def.strategy.default(&mut new);
        meta::keep_system_fields(&mut new, &old);
        if let Some(namespace) = &route.namespace {
            new["metadata"]["namespace"] = namespace.as_str().into();
        }
        def.strategy.prepare_update(&mut new, &old, sub);
        known.normalize(&mut new);
        if def.kind == "Pod" && sub.is_none() {
            pod::admit::tolerations(&mut new, 300);
        }
        let errors = validate_update(def, &new, &old, sub);
        if !errors.is_empty() {
            return Some(refused(def, &new, &errors));
        }
        self.allocate(def, &mut new);
        if sub.is_none() {
            warnings.extend(def.strategy.warnings(&new, Some(&old)));
        }
        self.keep(route, &new, dry);
        Some((200, new, warnings))
    }

    fn scale(&mut self, route: &Route, verb: &str, body: Option<Value>, name: &str, dry: bool) -> Option<Answer> {
        let old = self.objects.get(&route.key(name))?.clone();
        let mut sent = scale::of(&old);
        match verb {
            "TABLE" => {
                let row = json!({"cells": scale::row(&sent, NOW.parse().ok()?)});
                return Some((200, json!({"rows": [row]}), Vec::new()));
            }
            "GET" => return Some((200, sent, Vec::new())),
            "PUT" => sent = body?,
            "JSON" => patch::json_patch(&mut sent, &body?).ok()?,
            _ => patch::merge_patch(&mut sent, &body?).ok()?,
        }
        schema::get("io.k8s.api.autoscaling.v1.Scale")?.normalize(&mut sent);
        let errors = scale::check(&sent);
        if !errors.is_empty() {
            let status = Status::invalid("autoscaling", "Scale", name, &errors);
            return Some((422, serde_json::to_value(status).expect("a Status is JSON"), Vec::new()));
        }
        let mut new = old.clone();
        scale::apply(&mut new, &sent);
        route.def.strategy.prepare_update(&mut new, &old, None);
        self.keep(route, &new, dry);
        Some((200, scale::of(&new), Vec::new()))
    }

    fn keep(&mut self, route: &Route, obj: &Value, dry: bool) {
        if !dry {
            let mut stored = obj.clone();
            route.def.strategy.to_storage(&mut stored);
            let name = obj["metadata"]["name"].as_str().unwrap_or_default();
            self.objects.insert(route.key(name), stored);
        }
    }

    /// Admission that shows in nearly every answer.
    fn admit(&self, def: &ResourceDef, obj: &mut Value) -> Result<(), Answer> {
        match def.kind {
            "Pod" => {
                pod::admit::default_account(obj);
                let class = obj["spec"]["priorityClassName"].as_str().and_then(pod::admit::builtin_class);
                pod::admit::priority(obj, class).map_err(|_| (403, Value::Null, Vec::new()))?;
                let account = obj["spec"]["serviceAccountName"].as_str().unwrap_or_default();
                if let Some(account) = self.objects.get(&format!("serviceaccounts/{NAMESPACE}/{account}")) {
                    pod::admit::account(obj, account, "kube-api-access-abcde");
                }
                pod::admit::tolerations(obj, 300);
            }
            "Node" => node::admit_not_ready(obj),
            _ => {}
        }
        Ok(())
    }

    fn allocate(&mut self, def: &ResourceDef, obj: &mut Value) {
        if def.kind != "Service" {
            return;
        }
        if service::needs_cluster_ip(obj) && obj["spec"]["clusterIP"].is_null() {
            self.allocated += 1;
            let ip = format!("10.96.0.{}", self.allocated);
            obj["spec"]["clusterIPs"] = json!([ip]);
            obj["spec"]["clusterIP"] = json!(ip);
        }
        if service::needs_health_check_port(obj) && obj["spec"]["healthCheckNodePort"].is_null() {
            self.allocated += 1;
            obj["spec"]["healthCheckNodePort"] = json!(30_000 + self.allocated);
        }
        if service::needs_node_ports(obj) {
            for port in obj["spec"]["ports"].as_array_mut().into_iter().flatten() {
                if port["nodePort"].is_null() {
                    self.allocated += 1;
                    port["nodePort"] = json!(30_000 + self.allocated);
                }
            }
        }
    }
}

fn decode(def: &ResourceDef, mut obj: Value) -> Result<(Value, Vec<String>), Answer> {
    let known = schema::of(def);
    let problems = known.check(&obj);
    if let Some(error) = problems.error {
        let status = Status::undecodable(def.kind, def.version, def.kind, error);
        return Err((400, serde_json::to_value(status).expect("a Status is JSON"), Vec::new()));
    }
    let warnings = known.unknown_fields(&obj);
    known.normalize(&mut obj);
    Ok((obj, warnings))
}

fn refused(def: &ResourceDef, obj: &Value, errors: &[FieldError]) -> Answer {
    let name = obj["metadata"]["name"].as_str().unwrap_or_default();
    let status = Status::invalid(def.storage.group, def.kind, name, errors);
    (422, serde_json::to_value(status).expect("a Status is JSON"), Vec::new())
}

/// The answers name the namespace by a placeholder.
pub fn hide_namespace(text: &str) -> String {
    text.replace(NAMESPACE, "${ns}")
}
