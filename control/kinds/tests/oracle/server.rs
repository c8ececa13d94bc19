//! The pure part of an API server: rows, strategies and patches over a map of objects.
//!
//! What belongs to the real one (preconditions, allocation of real addresses, deletion, requests
//! that are refused before they reach a strategy) is left out or faked, and not compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kontiki_kinds::rows::service::Ranges;
use kontiki_machinery::access::User;
use kontiki_machinery::admission::{self, Guard, Lookup, Member, Operation};
use kontiki_machinery::allocation::Pool;
use kontiki_machinery::subresource::View;
use kontiki_machinery::{
    FieldError, GroupResource, Handler, ResourceDef, Status, Table, meta, patch, table, validate_create,
    validate_update,
};
use kontiki_model::resource::{NAMESPACES, SERVICE_ACCOUNTS};
use serde_json::{Value, json};

use crate::script::{NAMESPACE, Request};

pub const NOW: &str = "2026-01-01T00:00:00Z";

pub struct Server {
    kinds: Arc<Table>,
    steps: Vec<Member>,
    objects: BTreeMap<String, Value>,
    /// Stands in for chance.
    drawn: u64,
}

impl Default for Server {
    fn default() -> Self {
        let addresses = "10.96.0.0/16".parse().expect("a range");
        let services = Ranges { addresses, node_ports: 30000..=32767 };
        let kinds = kontiki_kinds::registry(&kontiki_kinds::Settings { services }).table();
        let settings = kontiki_kinds::admission::Settings { default_toleration_seconds: 300 };
        let steps = kontiki_kinds::admission::chain(&settings);
        Self { kinds, steps, objects: BTreeMap::new(), drawn: 0 }
    }
}

/// The objects that scripts made; what they take for granted is there as well.
struct Seen<'a>(&'a BTreeMap<String, Value>);

impl Lookup for Seen<'_> {
    fn object(
        &mut self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        name: &str,
        _guard: Guard,
    ) -> Result<Option<Value>, Status> {
        let found = self.0.get(&format!("{resource}/{}/{name}", namespace.unwrap_or(""))).cloned();
        Ok(found.or_else(|| match resource {
            NAMESPACES => Some(json!({})),
            SERVICE_ACCOUNTS => Some(json!({"automountServiceAccountToken": false})),
            _ => None,
        }))
    }

    fn objects(&self, resource: GroupResource<'_>) -> Result<Vec<Value>, Status> {
        let prefix = format!("{resource}/");
        Ok(self.0.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, object)| object.clone()).collect())
    }

    fn random(&mut self) -> u64 {
        0
    }

    fn now(&self) -> Timestamp {
        NOW.parse().expect("a time")
    }
}

/// Status code, body, warnings.
pub type Answer = (u16, Value, Vec<String>);

struct Route {
    def: Arc<ResourceDef>,
    namespace: Option<String>,
    name: Option<String>,
    sub: Option<String>,
}

fn route(kinds: &Table, path: &str) -> Option<Route> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", ns, plural, more @ ..] if kinds.find(group, version, plural).is_some() => {
            (Some((*ns).to_owned()), [&[*plural], more].concat())
        }
        rest => (None, rest.to_vec()),
    };
    let def = Arc::clone(kinds.find(group, version, rest.first()?)?);
    let nth = |n: usize| rest.get(n).map(|part| (*part).to_owned());
    Some(Route { def, namespace, name: nth(1), sub: nth(2) })
}

impl Route {
    fn key(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.def.stored_as(), self.namespace.as_deref().unwrap_or(""))
    }
}

impl Server {
    /// Answers a request; `None` if it is not for the pure part.
    pub fn handle(&mut self, request: &Request) -> Option<Answer> {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let route = route(&self.kinds, path)?;
        let dry = query.contains("dryRun=All");
        match (request.verb.as_str(), &route.name) {
            (verb, Some(name)) if view(&route).is_some() => {
                self.view(&route, &*view(&route)?, verb, request.body.clone(), name, dry)
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
            objects.iter().map(|obj| table::row(&route.def, obj, table::IncludeObject::None, now)).collect();
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
                path => {
                    let known = route.def.fields.iter().any(|field| field == path);
                    known.then(|| route.def.strategy.field(obj, path))
                }
            };
            if items.iter().any(|obj| found(obj).is_none()) {
                return Some((400, Value::Null, Vec::new()));
            }
            items.retain(|obj| (found(obj).as_deref() == Some(value)) == wanted);
        }
        Some((200, json!({ "items": items }), Vec::new()))
    }

    fn create(&mut self, route: &Route, body: Value, dry: bool) -> Option<Answer> {
        let def = &*route.def;
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
        if let Err(answer) = self.admit(route, None, &mut obj) {
            return Some(answer);
        }
        let errors = validate_create(def, &obj);
        if !errors.is_empty() {
            return Some(refused(def, &obj, &errors));
        }
        self.allocate(def, None, &mut obj);
        warnings.extend(def.strategy.warnings(&obj, None));
        self.keep(route, &obj, dry);
        Some((201, obj, warnings))
    }

    fn update(&mut self, route: &Route, verb: &str, body: Value, old: Value, dry: bool) -> Option<Answer> {
        let def = &*route.def;
        let old = self.shown(route, &old);
        let mut sent = old.clone();
        let known = &def.schema;
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
        if let Err(answer) = self.admit(route, Some(&old), &mut new) {
            return Some(answer);
        }
        let errors = validate_update(def, &new, &old, sub);
        if !errors.is_empty() {
            return Some(refused(def, &new, &errors));
        }
        self.allocate(def, Some(&old), &mut new);
        if sub.is_none() {
            warnings.extend(def.strategy.warnings(&new, Some(&old)));
        }
        self.keep(route, &new, dry);
        Some((200, new, warnings))
    }

    fn view(
        &mut self,
        route: &Route,
        view: &dyn View,
        verb: &str,
        body: Option<Value>,
        name: &str,
        dry: bool,
    ) -> Option<Answer> {
        let old = self.objects.get(&route.key(name))?.clone();
        let mut sent = view.of(&old);
        match verb {
            "TABLE" => {
                let now = NOW.parse().ok()?;
                let row = json!({"cells": view.row(&sent).iter().map(|cell| cell.at(now)).collect::<Vec<_>>()});
                return Some((200, json!({"rows": [row]}), Vec::new()));
            }
            "GET" => return Some((200, sent, Vec::new())),
            "PUT" => sent = body?,
            "JSON" => patch::json_patch(&mut sent, &body?).ok()?,
            _ => patch::merge_patch(&mut sent, &body?).ok()?,
        }
        view.schema().normalize(&mut sent);
        let errors = view.check(&sent);
        if !errors.is_empty() {
            let sub = route.def.subresource(route.sub.as_deref()?)?;
            let status = Status::invalid(&sub.group, &sub.kind, name, &errors);
            return Some((422, serde_json::to_value(status).expect("a Status is JSON"), Vec::new()));
        }
        let mut new = old.clone();
        view.apply(&mut new, &sent);
        route.def.strategy.prepare_update(&mut new, &old, None);
        self.keep(route, &new, dry);
        Some((200, view.of(&new), Vec::new()))
    }

    fn keep(&mut self, route: &Route, obj: &Value, dry: bool) {
        if !dry {
            let mut stored = obj.clone();
            route.def.strategy.to_storage(&mut stored);
            let name = obj["metadata"]["name"].as_str().unwrap_or_default();
            self.objects.insert(route.key(name), stored);
        }
    }

    fn admit(&self, route: &Route, old: Option<&Value>, obj: &mut Value) -> Result<(), Answer> {
        let (sub, namespace) = (route.sub.as_deref(), route.namespace.as_deref());
        let (operation, user) = (old.map_or(Operation::Create, |_| Operation::Update), &User::default());
        let request = admission::Request { operation, user, def: &route.def, sub, namespace, old, dry_run: false };
        for member in &self.steps {
            let Member::Pure(step) = member else { panic!("built-in steps wait for nobody") };
            let refused = |status: Status| (status.code, Value::Null, Vec::new());
            step.admit(&request, obj, &mut Seen(&self.objects)).map_err(refused)?;
        }
        Ok(())
    }

    fn allocate(&mut self, def: &ResourceDef, old: Option<&Value>, obj: &mut Value) {
        let held = old.map(|old| def.strategy.claims(old)).unwrap_or_default();
        let drawn = &mut self.drawn;
        let mut random = || {
            *drawn += 1;
            *drawn
        };
        let mut pool = Pool::new(held, &|_| true, &mut random, true);
        // What cannot be allocated is for the real server to refuse.
        let _ = def.strategy.allocate(obj, &mut pool);
    }
}

fn view(route: &Route) -> Option<Arc<dyn View>> {
    match &route.def.subresource(route.sub.as_deref()?)?.handler {
        Handler::View(view) => Some(Arc::clone(view)),
        _ => None,
    }
}

fn decode(def: &ResourceDef, mut obj: Value) -> Result<(Value, Vec<String>), Answer> {
    let known = &def.schema;
    let problems = known.check(&obj);
    if let Some(error) = problems.error {
        let status = Status::undecodable(&def.kind, &def.version, &def.kind, error);
        return Err((400, serde_json::to_value(status).expect("a Status is JSON"), Vec::new()));
    }
    let warnings = known.unknown_fields(&obj);
    known.normalize(&mut obj);
    Ok((obj, warnings))
}

fn refused(def: &ResourceDef, obj: &Value, errors: &[FieldError]) -> Answer {
    let name = obj["metadata"]["name"].as_str().unwrap_or_default();
    let status = Status::invalid(&def.storage.group, &def.kind, name, errors);
    (422, serde_json::to_value(status).expect("a Status is JSON"), Vec::new())
}

/// The answers name the namespace by a placeholder.
pub fn hide_namespace(text: &str) -> String {
    text.replace(NAMESPACE, "${ns}")
}
