//! The pure part of an API server: rows, strategies and patches over a map of objects.
//!
//! What belongs to the real one (preconditions, allocation of real addresses, deletion, requests
//! that are refused before they reach a strategy) is left out or faked, and not compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kontiki_kinds::custom::DEFINITIONS;
use kontiki_kinds::rows::service::Ranges;
use kontiki_machinery::access::User;
use kontiki_machinery::admission::{self, Guard, Lookup, Member, Operation};
use kontiki_machinery::allocation::Pool;
use kontiki_machinery::apply::keep_reset;
use kontiki_machinery::conversion::Conversions;
use kontiki_machinery::decode::decode_yaml;
use kontiki_machinery::resource::Author;
use kontiki_machinery::subresource::View;
use kontiki_machinery::{
    FieldError, GroupResource, Handler, Ownership, Registry, ResourceDef, Status, Table, meta, patch, table,
    validate_create, validate_update,
};
use kontiki_model::ObjectKey;
use kontiki_model::resource::{NAMESPACES, SERVICE_ACCOUNTS};
use serde_json::{Value, json};

use crate::script::{NAMESPACE, Request};

pub const NOW: &str = "2026-01-01T00:00:00Z";
const UID: &str = "11111111-2222-3333-4444-555555555555";

pub struct Server {
    registry: Registry,
    /// Its table as it is now.
    kinds: Arc<Table>,
    steps: Vec<Member>,
    objects: BTreeMap<String, Value>,
    /// Stands in for chance.
    drawn: u64,
    /// Who asks.
    user: User,
}

impl Default for Server {
    fn default() -> Self {
        let addresses = "10.96.0.0/16".parse().expect("a range");
        let services = Ranges { addresses, node_ports: 30000..=32767 };
        let registry = kontiki_kinds::registry(&kontiki_kinds::Settings { services });
        let kinds = registry.table();
        let settings = kontiki_kinds::admission::Settings::default();
        let steps = kontiki_kinds::admission::chain(&settings);
        Self { registry, kinds, steps, objects: BTreeMap::new(), drawn: 0, user: admin() }
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

    fn within(&self, resource: GroupResource<'_>, namespace: &str) -> Result<Vec<Value>, Status> {
        let prefix = format!("{resource}/{namespace}/");
        Ok(self.0.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, object)| object.clone()).collect())
    }

    fn write_along(&mut self, _: GroupResource<'_>, _: Option<&str>, _: &str, _: &Value) -> Result<(), Status> {
        Ok(())
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
        // The API adds the group of everybody whom it knows.
        let user = request.user.as_ref().map(|(name, group)| User::new(name, &[group, "system:authenticated"]));
        self.user = user.unwrap_or_else(admin);
        let parameter = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name));
        let agent = request.agent.as_deref().unwrap_or("oracle").split('/').next();
        let asked = Asked {
            manager: parameter("fieldManager=").or(agent).unwrap_or_default(),
            force: parameter("force=").is_some_and(|force| force != "false"),
            dry: query.contains("dryRun=All"),
        };
        // Parameters are for the API to refuse.
        if asked.manager.len() > 128 || request.verb != "APPLY" && query.contains("force=") {
            return None;
        }
        let answer = self.answer(&route, request, query, &asked)?;
        Some(if request.managed_fields { answer } else { without_owners(answer) })
    }

    fn answer(&mut self, route: &Route, request: &Request, query: &str, asked: &Asked<'_>) -> Option<Answer> {
        match (request.verb.as_str(), &route.name) {
            ("APPLY", Some(name)) => self.apply(route, name, config(request)?, query, asked),
            (verb, Some(name)) if view(route).is_some() => {
                self.view(route, &*view(route)?, verb, request.body.clone(), name, asked)
            }
            ("POST", None) => self.create(route, request.body.clone()?, asked),
            ("PUT" | "MERGE" | "STRATEGIC" | "JSON", Some(name)) => {
                if !["status", "finalize", "ephemeralcontainers", "resize", "approval"]
                    .contains(&route.sub.as_deref().unwrap_or("status"))
                {
                    return None;
                }
                let old = self.objects.get(&route.key(name))?.clone();
                let body = request.body.clone()?;
                // Preconditions belong to the API.
                if request.verb == "PUT"
                    && !route.def.strategy.allow_unconditional_update()
                    && body["metadata"].get("resourceVersion").is_none()
                {
                    return None;
                }
                self.update(route, &request.verb, body, &old, asked)
            }
            ("GET", Some(name)) if route.sub.is_none() => {
                let old = route.def.deprecation.as_ref().filter(|_| route.def.schema.structural().is_some());
                let warnings = old.map(ToString::to_string).into_iter().collect();
                Some((200, self.shown(route, self.objects.get(&route.key(name))?), warnings))
            }
            ("TABLE", name) => self.table(route, name.as_deref(), query),
            ("GET", None) => self.list(route, query),
            ("DELETE", Some(name)) if !asked.dry && route.sub.is_none() => {
                self.objects.remove(&route.key(name));
                None
            }
            _ => None,
        }
    }

    fn shown(&self, route: &Route, stored: &Value) -> Value {
        let mut obj = stored.clone();
        if route.def.is_view() {
            route.def.strategy.from_storage(&mut obj);
            obj["apiVersion"] = route.def.api_version().into();
            obj["kind"] = route.def.kind.as_ref().into();
        }
        obj
    }

    /// An object that was written, as it is read from now on.
    fn as_read(&self, route: &Route, obj: Value) -> Value {
        if !route.def.is_converted() {
            return obj;
        }
        let mut stored = obj;
        route.def.strategy.to_storage(&mut stored);
        self.shown(route, &stored)
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
        let def = &route.def;
        let list = json!({"kind": format!("{}List", def.kind), "apiVersion": def.api_version(), "items": items});
        Some((200, list, Vec::new()))
    }

    fn create(&mut self, route: &Route, body: Value, asked: &Asked<'_>) -> Option<Answer> {
        let other = |field: &str, own: &str| body[field].as_str().is_some_and(|said| said != own);
        if route.def.schema.structural().is_some()
            && (other("kind", &route.def.kind) || other("apiVersion", &route.def.api_version()))
        {
            // The API compares them.
            return None;
        }
        let (mut obj, warnings) = match decode(&route.def, body) {
            Ok(decoded) => decoded,
            Err(answer) => return Some(answer),
        };
        route.def.strategy.default(&mut obj);
        owners(&self.kinds, route, |owners| owners.update(None, &mut obj, asked.manager));
        self.make(route, obj, warnings, asked.dry)
    }

    /// Stores a new object, of which it is known who owns it.
    fn make(&mut self, route: &Route, mut obj: Value, mut warnings: Vec<String>, dry: bool) -> Option<Answer> {
        let def = &*route.def;
        let meta = obj.as_object_mut()?.entry("metadata").or_insert_with(|| json!({})).as_object_mut()?;
        if let Some(namespace) = &route.namespace {
            meta.insert("namespace".into(), namespace.as_str().into());
        }
        let prefix = meta.get("generateName").and_then(Value::as_str).unwrap_or("").to_owned();
        if !prefix.is_empty() && meta.get("name").is_none() {
            meta.insert("name".into(), meta::generate_name(&prefix, [1; 5]).into());
        }
        meta::fill_system_fields(&mut obj, UID, NOW);
        def.strategy.prepare_create(&mut obj);
        def.strategy.stamp(&mut obj, None, None, Author { user: &self.user, now: NOW });
        if let Err(answer) = self.admit(route, None, &mut obj) {
            return Some(answer);
        }
        let errors = validate_create(def, &obj);
        if !errors.is_empty() {
            return Some(refused(def, &obj, &errors));
        }
        def.forget_empty(&mut obj);
        self.allocate(def, None, &mut obj);
        warnings.extend(def.strategy.warnings(&obj, None));
        self.keep(route, &obj, dry);
        warnings
            .extend(def.deprecation.as_ref().filter(|_| def.schema.structural().is_some()).map(ToString::to_string));
        Some((201, self.as_read(route, obj), warnings))
    }

    fn update(&mut self, route: &Route, verb: &str, body: Value, old: &Value, asked: &Asked<'_>) -> Option<Answer> {
        let def = &*route.def;
        let old = self.shown(route, old);
        let mut sent = old.clone();
        let known = &def.schema;
        match verb {
            // The API refuses it.
            "PUT" if !def.strategy.allow_unconditional_update() && body["metadata"]["resourceVersion"].is_null() => {
                return None;
            }
            "PUT" => sent = body,
            "MERGE" => patch::merge_patch(&mut sent, &body).ok()?,
            "STRATEGIC" if known.structural().is_some() => return None,
            "STRATEGIC" => sent = patch::strategic_merge(&sent, &body, known).ok()?,
            _ => patch::json_patch(&mut sent, &body).ok()?,
        }
        let (mut new, warnings) = match decode(def, sent) {
            Ok(decoded) => decoded,
            Err(answer) => return Some(answer),
        };
        def.strategy.default(&mut new);
        owners(&self.kinds, route, |owners| owners.update(Some(&old), &mut new, asked.manager));
        self.change(route, new, &old, warnings, asked.dry)
    }

    /// Stores what an object has become, of which it is known who owns it.
    fn change(
        &mut self,
        route: &Route,
        mut new: Value,
        old: &Value,
        mut warnings: Vec<String>,
        dry: bool,
    ) -> Option<Answer> {
        let def = &*route.def;
        let sub = route.sub.as_deref();
        meta::keep_system_fields(&mut new, old);
        if let Some(namespace) = &route.namespace {
            new["metadata"]["namespace"] = namespace.as_str().into();
        }
        def.strategy.prepare_update(&mut new, old, sub);
        def.strategy.stamp(&mut new, Some(old), sub, Author { user: &self.user, now: NOW });
        def.normalize(&mut new);
        if let Err(answer) = self.admit(route, Some(old), &mut new) {
            return Some(answer);
        }
        let errors = validate_update(def, &new, old, sub);
        if !errors.is_empty() {
            return Some(refused(def, &new, &errors));
        }
        def.forget_empty(&mut new);
        self.allocate(def, Some(old), &mut new);
        if sub.is_none() {
            warnings.extend(def.strategy.warnings(&new, Some(old)));
        }
        self.keep(route, &new, dry);
        Some((200, new, warnings))
    }

    fn apply(&mut self, route: &Route, name: &str, config: Value, query: &str, asked: &Asked<'_>) -> Option<Answer> {
        if !query.contains("fieldManager=") || asked.manager.is_empty() || asked.manager.contains('%') {
            return None;
        }
        let def = &*route.def;
        let live = self.objects.get(&route.key(name)).map(|stored| self.shown(route, stored));
        if let Some(view) = view(route) {
            return self.apply_view(route, &*view, &live?, &config, asked);
        }
        if live.is_none() && route.sub.is_some() {
            return None;
        }
        let applied =
            owners(&self.kinds, route, |owners| owners.apply(live.as_ref(), &config, asked.manager, asked.force));
        let mut new = match applied {
            Ok(new) => new,
            Err(error) => return Some(failed(&error.status())),
        };
        if config["metadata"]["name"] != name
            || config["metadata"]["namespace"].as_str().is_some_and(|own| own != NAMESPACE)
        {
            return None;
        }
        def.schema.normalize(&mut new);
        def.strategy.default(&mut new);
        match live {
            Some(live) => self.change(route, new, &live, Vec::new(), asked.dry),
            None if new["metadata"]["uid"].is_string() => None,
            None => self.make(route, new, Vec::new(), asked.dry),
        }
    }

    fn apply_view(
        &mut self,
        route: &Route,
        view: &dyn View,
        old: &Value,
        config: &Value,
        asked: &Asked<'_>,
    ) -> Option<Answer> {
        let applied =
            owners(&self.kinds, route, |owners| owners.apply_view(view, old, config, asked.manager, asked.force));
        match applied {
            Ok(sent) => self.put_view(route, view, sent, old, asked.dry),
            Err(error) => Some(failed(&error.status())),
        }
    }

    fn view(
        &mut self,
        route: &Route,
        view: &dyn View,
        verb: &str,
        body: Option<Value>,
        name: &str,
        asked: &Asked<'_>,
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
        owners(&self.kinds, route, |owners| owners.update_view(view, &old, &mut sent, asked.manager));
        self.put_view(route, view, sent, &old, asked.dry)
    }

    fn put_view(&mut self, route: &Route, view: &dyn View, mut sent: Value, old: &Value, dry: bool) -> Option<Answer> {
        let name = old["metadata"]["name"].as_str().unwrap_or_default();
        view.schema().normalize(&mut sent);
        let errors = view.check(&sent);
        if !errors.is_empty() {
            let sub = route.def.subresource(route.sub.as_deref()?)?;
            let status = Status::invalid(&sub.group, &sub.kind, name, &errors);
            return Some((422, serde_json::to_value(status).expect("a Status is JSON"), Vec::new()));
        }
        let mut new = old.clone();
        view.apply(&mut new, &sent);
        owners(&self.kinds, route, |owners| owners.take_view(view, &mut new, &sent));
        route.def.strategy.prepare_update(&mut new, old, None);
        self.keep(route, &new, dry);
        Some((200, view.of(&new), Vec::new()))
    }

    fn keep(&mut self, route: &Route, obj: &Value, dry: bool) {
        if !dry {
            let mut stored = obj.clone();
            route.def.strategy.to_storage(&mut stored);
            let name = obj["metadata"]["name"].as_str().unwrap_or_default();
            if route.def.group_resource() == DEFINITIONS {
                self.establish(name, &mut stored);
            }
            self.objects.insert(route.key(name), stored);
        }
    }

    /// What a definition's controller does when nobody else wants its names, and what follows.
    fn establish(&mut self, name: &str, definition: &mut Value) {
        let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason});
        definition["status"]["acceptedNames"] = definition["spec"]["names"].clone();
        definition["status"]["conditions"] =
            json!([condition("NamesAccepted", "NoConflicts"), condition("Established", "InitialNamesAccepted")]);
        let source = self.registry.source().expect("kinds come from definitions");
        source.changed(&ObjectKey::new(DEFINITIONS, None, name), Some(definition.to_string().into()));
        self.registry.settle();
        self.kinds = self.registry.table();
    }

    fn admit(&self, route: &Route, old: Option<&Value>, obj: &mut Value) -> Result<(), Answer> {
        let (sub, namespace) = (route.sub.as_deref(), route.namespace.as_deref());
        let (operation, user) = (old.map_or(Operation::Create, |_| Operation::Update), &self.user);
        let request =
            admission::Request { operation, user, def: &route.def, sub, namespace, name: "", old, dry_run: false };
        for member in &self.steps {
            let Member::Pure(step) = member else { panic!("built-in steps wait for nobody") };
            let refused = |status: Status| (status.code, Value::Null, Vec::new());
            if step.handles(operation) {
                step.admit(&request, obj, &mut Seen(&self.objects)).map_err(refused)?;
            }
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

/// How a request is to be done.
struct Asked<'a> {
    manager: &'a str,
    force: bool,
    dry: bool,
}

fn owners<R>(table: &Table, route: &Route, run: impl FnOnce(&Ownership<'_>) -> R) -> R {
    let sub = route.sub.as_deref().and_then(|sub| route.def.subresource(sub));
    let conversions = &Conversions::default();
    run(&Ownership { table, def: &route.def, sub: sub.map(AsRef::as_ref), now: NOW, conversions })
}

/// What is to be applied; nothing that is an object is not for the pure part.
fn config(request: &Request) -> Option<Value> {
    let value = match &request.raw {
        Some(text) => decode_yaml(text.as_bytes()).ok()?.value,
        None => request.body.clone()?,
    };
    if value.is_null() { Some(json!({})) } else { Some(value).filter(Value::is_object) }
}

fn failed(status: &Status) -> Answer {
    (status.code, serde_json::to_value(status).expect("a Status is JSON"), Vec::new())
}

fn without_owners((status, mut body, warnings): Answer) -> Answer {
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    (status, body, warnings)
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
    keep_reset(&mut obj);
    def.normalize(&mut obj);
    Ok((obj, warnings))
}

fn refused(def: &ResourceDef, obj: &Value, errors: &[FieldError]) -> Answer {
    let name = obj["metadata"]["name"].as_str().unwrap_or_default();
    let asks = matches!(def.creation, kontiki_machinery::resource::Creation::Review(_));
    let status = Status::invalid(&def.storage.group, if asks { "" } else { &def.kind }, name, errors);
    (422, serde_json::to_value(status).expect("a Status is JSON"), Vec::new())
}

/// And what they name by its uid.
pub fn hide_uid(text: &str) -> String {
    text.replace(UID, "<uid>")
}

/// The answers name the namespace by a placeholder.
pub fn hide_namespace(text: &str) -> String {
    text.replace(NAMESPACE, "${ns}")
}

/// Who asks, where a request names nobody.
fn admin() -> User {
    User::new("", &["system:masters"])
}
