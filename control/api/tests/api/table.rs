//! One walk over the resource table: for every kind, every verb, every language of patches, watches, Tables, dry runs, every
//! form and discovery agree with the row.

use std::collections::BTreeSet;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use kontiki_kinds::{ResourceDef, Verb, Verbs};
use kontiki_machinery::decode::{decode_cbor, decode_yaml};
use kontiki_machinery::encode::protobuf;
use serde_json::{Value, json};

use crate::common::{World, admin, collection, groups, least};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const CBOR: &str = "application/cbor";
const YAML: &str = "application/yaml";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const METADATA: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const MERGE: &str = "application/merge-patch+json";

/// A row, with the paths of its collection and of the one object that there is of it.
struct Walk<'a> {
    world: &'a World,
    def: &'a ResourceDef,
    all: String,
    one: String,
}

/// What is asked.
#[derive(Clone, Copy)]
struct Ask<'a> {
    method: &'a str,
    accept: &'a str,
    media: &'a str,
    body: &'a [u8],
}

impl Ask<'_> {
    const GET: Self = Ask { method: "GET", accept: JSON, media: "", body: b"" };
}

async fn answer(world: &World, path: &str, ask: Ask<'_>) -> (u16, BodyDataStream) {
    let request = http::Request::builder().method(ask.method).uri(path).header("accept", ask.accept);
    let request = if ask.media.is_empty() { request } else { request.header("content-type", ask.media) };
    let response = world.api.answer(Some(admin()), request.body(Body::from(ask.body.to_vec())).unwrap()).await;
    (response.status().as_u16(), response.into_body().into_data_stream())
}

async fn bytes(world: &World, path: &str, ask: Ask<'_>) -> (u16, Bytes) {
    let (code, body) = answer(world, path, ask).await;
    (code, Body::from_stream(body).collect().await.unwrap().to_bytes())
}

async fn value(world: &World, path: &str, ask: Ask<'_>) -> (u16, Value) {
    let (code, body) = bytes(world, path, ask).await;
    (code, serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{} {path}: {code} {body:?}", ask.method)))
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_else(|| panic!("no version: {object}"))
}

impl<'a> Walk<'a> {
    fn new(world: &'a World, def: &'a ResourceDef) -> Self {
        let all = collection(def);
        let one = format!("{all}/{}", groups::name(def));
        Self { world, def, all, one }
    }

    async fn send(&self, method: &str, path: &str, media: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        value(self.world, path, Ask { method, accept: JSON, media, body: body.as_bytes() }).await
    }

    async fn get(&self) -> (u16, Value) {
        value(self.world, &self.one, Ask::GET).await
    }

    /// The list of this one object, in a form.
    async fn list(&self, accept: &str) -> Value {
        let path = format!("{}?fieldSelector=metadata.name={}", self.all, groups::name(self.def));
        let (code, list) = value(self.world, &path, Ask { accept, ..Ask::GET }).await;
        assert_eq!(code, 200, "LIST {path}: {list}");
        list
    }

    /// Asks for something with `dryRun=All`, and sees that nothing is written.
    async fn dry(&self, method: &str, path: &str, media: &str, body: &Value) -> (u16, Value) {
        let before = self.world.store.snapshot().revision();
        let found = self.send(method, &format!("{path}?dryRun=All&fieldManager=dry"), media, body).await;
        assert_eq!(self.world.store.snapshot().revision(), before, "{method} {path} was dry");
        found
    }

    /// Makes the object, after a rehearsal.
    async fn create(&self) -> Value {
        let least = least(self.def);
        let (code, rehearsed) = self.dry("POST", &self.all, JSON, &least).await;
        assert_eq!(code, 201, "dry POST {}: {rehearsed}", self.all);
        assert_eq!(self.get().await.0, 404, "{}", self.one);
        let (code, made) = self.send("POST", &self.all, JSON, &least).await;
        assert_eq!(code, 201, "POST {}: {made}", self.all);
        assert_eq!((&made["kind"], &made["apiVersion"]), (&json!(self.def.kind), &json!(self.def.api_version())));
        let (code, again) = self.send("POST", &self.all, JSON, &least).await;
        assert_eq!((code, &again["reason"]), (409, &json!("AlreadyExists")), "{again}");
        made
    }

    /// Every form of the object and of its list says what was made.
    async fn read(&self, made: &Value) {
        let Self { world, def, one, .. } = self;
        assert_eq!(&self.get().await, &(200, made.clone()), "GET {one}");
        let (_, text) = bytes(world, one, Ask { accept: YAML, ..Ask::GET }).await;
        assert_eq!(&decode_yaml(&text).unwrap().value, made, "{one} in YAML");
        let (_, partial) = value(world, one, Ask { accept: METADATA, ..Ask::GET }).await;
        assert_eq!((&partial["kind"], &partial["metadata"]), (&json!("PartialObjectMetadata"), &made["metadata"]));
        let list = self.list(JSON).await;
        assert_eq!((&list["kind"], &list["items"][0]["metadata"]), (&json!(def.list_kind), &made["metadata"]));
        let (_, single) = value(world, one, Ask { accept: TABLE, ..Ask::GET }).await;
        let columns = kontiki_machinery::table::columns(&def.api_version(), &def.kind);
        for table in [single, self.list(TABLE).await] {
            assert_eq!((&table["kind"], &table["columnDefinitions"]), (&json!("Table"), columns), "{one}");
            let row = &table["rows"][0];
            let cells = row["cells"].as_array().unwrap_or_else(|| panic!("no cells: {table}"));
            assert_eq!(
                (cells.len(), table["rows"].as_array().map(Vec::len)),
                (columns.as_array().unwrap().len(), Some(1))
            );
            assert_eq!(row["object"]["metadata"], made["metadata"], "{one}");
        }
    }

    /// What went out in a form comes in again in that form, and changes nothing.
    async fn put_back(&self, made: &Value) {
        let has_protobuf = protobuf::Shape::of(self.def.schema.name()).is_some();
        for media in [JSON, YAML, CBOR, PROTOBUF] {
            if media == PROTOBUF && !has_protobuf {
                continue;
            }
            let (code, body) = bytes(self.world, &self.one, Ask { accept: media, ..Ask::GET }).await;
            assert_eq!(code, 200, "{} in {media}", self.one);
            let ask = Ask { method: "PUT", accept: CBOR, media, body: &body };
            let (code, answer) = bytes(self.world, &self.one, ask).await;
            let answer = decode_cbor(&answer).unwrap().value;
            assert_eq!((code, &answer), (200, made), "PUT {} in {media}", self.one);
        }
    }

    /// Labels the object in every way there is; gives how many that are.
    async fn change(&self, made: &Value) -> usize {
        let Self { def, one, .. } = self;
        let label = |name: &str| json!({"metadata": {"labels": {name: "yes"}}});
        let mut put = made.clone();
        put["metadata"]["labels"]["put"] = "yes".into();
        let mut applied = json!({"apiVersion": def.api_version(), "kind": def.kind});
        applied["metadata"] = json!({"name": groups::name(def), "labels": {"apply": "yes"}});
        let json_patch = json!([{"op": "add", "path": "/metadata/labels/json", "value": "yes"}]);
        let ways = [
            ("put", "PUT", JSON, put.clone()),
            ("json", "PATCH", "application/json-patch+json", json_patch),
            ("merge", "PATCH", MERGE, label("merge")),
            ("strategic", "PATCH", "application/strategic-merge-patch+json", label("strategic")),
            ("apply", "PATCH", "application/apply-patch+yaml", applied),
        ];
        let (mut now, count) = (made.clone(), ways.len());
        for (name, method, media, body) in ways {
            let (code, rehearsed) = self.dry(method, one, media, &body).await;
            assert_eq!((code, &rehearsed["metadata"]["labels"][name]), (200, &json!("yes")), "dry {name} {one}");
            let before = version(&now).to_owned();
            let (code, changed) = self.send(method, &format!("{one}?fieldManager=walk"), media, &body).await;
            assert_eq!((code, &changed["metadata"]["labels"][name]), (200, &json!("yes")), "{name} {one}: {changed}");
            assert!(version(&changed) != before && self.get().await == (200, changed.clone()), "{name} {one}");
            now = changed;
        }
        let (code, stale) = self.send("PUT", one, JSON, &put).await;
        assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")), "PUT {one}: {stale}");
        let (code, _) = self.send("PATCH", one, "text/plain", &json!({})).await;
        assert_eq!(code, 415, "PATCH {one}");
        count
    }

    /// Parts that can be read say what the row has them say, and take what they said.
    async fn parts(&self) {
        // What is behind a proxy is no matter of the row.
        for sub in self.def.subresources.iter().filter(|sub| sub.name != "proxy") {
            let path = format!("{}/{}", self.one, sub.name);
            let has = |verb| sub.verbs.contains(verb);
            // One to resize a pod has to find its node, whatever it asks for.
            if has(Verb::Get) && has(Verb::Update) && sub.name != "resize" {
                let (code, part) = value(self.world, &path, Ask::GET).await;
                assert_eq!((code, &part["kind"]), (200, &json!(sub.kind)), "GET {path}: {part}");
                let (code, same) = self.send("PUT", &path, JSON, &part).await;
                assert_eq!((code, &same), (200, &part), "PUT {path}");
                let (code, same) = self.send("PATCH", &path, MERGE, &json!({})).await;
                assert_eq!((code, &same), (200, &part), "PATCH {path}");
            }
            for (verb, method) in [(Verb::Update, "PUT"), (Verb::Create, "POST"), (Verb::Delete, "DELETE")] {
                if !has(verb) {
                    let (code, _) = self.send(method, &path, JSON, &json!({})).await;
                    assert_eq!(code, 405, "{method} {path}");
                }
            }
        }
    }

    /// Deletes the object, after attempts that must not.
    async fn delete(&self) {
        let Self { def, one, .. } = self;
        let (code, _) = self.dry("DELETE", one, JSON, &json!({"dryRun": ["All"]})).await;
        assert_eq!((code, self.get().await.0), (200, 200), "dry DELETE {one}");
        let (code, other) = self.send("DELETE", one, JSON, &json!({"preconditions": {"uid": "other"}})).await;
        assert_eq!((code, &other["reason"]), (409, &json!("Conflict")), "DELETE {one}: {other}");
        let (code, gone) = value(self.world, one, Ask { method: "DELETE", ..Ask::GET }).await;
        assert_eq!(code, 200, "DELETE {one}: {gone}");
        self.let_go().await;
        if def.verbs.contains(Verb::DeleteCollection) {
            self.send("POST", &self.all, JSON, &least(def)).await;
            let path = format!("{}?fieldSelector=metadata.name={}", self.all, groups::name(def));
            let (code, gone) = value(self.world, &path, Ask { method: "DELETE", ..Ask::GET }).await;
            assert_eq!(code, 200, "DELETE {path}: {gone}");
            self.let_go().await;
        }
    }

    /// What holds a deleted object does so no longer.
    async fn let_go(&self) {
        let (code, held) = self.get().await;
        if code == 200 {
            assert!(held["metadata"]["deletionTimestamp"].is_string(), "{} is on its way out: {held}", self.one);
            match self.def.subresource("finalize") {
                Some(_) => {
                    let none = json!({"metadata": {"name": groups::name(self.def)}, "spec": {"finalizers": []}});
                    self.send("PUT", &format!("{}/finalize", self.one), JSON, &none).await;
                }
                None => {
                    self.send("PATCH", &self.one, MERGE, &json!({"metadata": {"finalizers": null}})).await;
                }
            }
        }
        assert_eq!(self.get().await.0, 404, "{}", self.one);
    }

    /// A watch from `made` on, as JSON and as Tables, told of as many changes and of the end.
    async fn watched(&self, made: &Value, changes: usize) {
        let name = groups::name(self.def);
        let path = format!(
            "{}?watch=1&resourceVersion={}&fieldSelector=metadata.name={name}&timeoutSeconds=60",
            self.all,
            version(made)
        );
        for accept in [JSON, TABLE] {
            let (code, mut stream) = answer(self.world, &path, Ask { accept, ..Ask::GET }).await;
            assert_eq!(code, 200, "WATCH {path}");
            let mut seen = Vec::new();
            while seen.last() != Some(&json!("DELETED")) {
                let line = stream.next().await.unwrap_or_else(|| panic!("WATCH {path} ended after {seen:?}")).unwrap();
                let event: Value = serde_json::from_slice(&line).unwrap();
                let found = if accept == TABLE { &event["object"]["rows"][0]["object"] } else { &event["object"] };
                assert_eq!(found["metadata"]["name"], name, "WATCH {path}: {event}");
                seen.push(event["type"].clone());
            }
            let (last, modified) = seen.split_last().unwrap();
            assert!(*last == "DELETED" && modified.iter().all(|kind| kind == "MODIFIED"), "WATCH {path}: {seen:?}");
            assert!(modified.len() >= changes, "WATCH {path}: {seen:?}");
        }
    }

    /// Methods that the row does not have are refused as such.
    async fn refused(&self) {
        let verbs = &self.def.verbs;
        let ways = [
            (Verb::Create, "POST", &self.all),
            (Verb::List, "GET", &self.all),
            (Verb::DeleteCollection, "DELETE", &self.all),
            (Verb::Get, "GET", &self.one),
            (Verb::Update, "PUT", &self.one),
            (Verb::Patch, "PATCH", &self.one),
            (Verb::Delete, "DELETE", &self.one),
        ];
        for (_, method, path) in ways.into_iter().filter(|(verb, ..)| !verbs.contains(*verb)) {
            let (code, body) = bytes(self.world, path, Ask { method, media: MERGE, body: b"{}", ..Ask::GET }).await;
            assert_eq!(code, 405, "{method} {path}: {body:?}");
        }
        if !verbs.contains(Verb::Watch) {
            let (code, _) = bytes(self.world, &format!("{}?watch=1", self.all), Ask::GET).await;
            assert_eq!(code, 405, "WATCH {}", self.all);
        }
    }
}

/// A list of texts, or nothing where discovery leaves an empty one out.
fn texts(known: &Value) -> Vec<&str> {
    known.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Verbs as a set: their order says nothing.
fn verbs(known: &Value) -> BTreeSet<String> {
    texts(known).into_iter().map(str::to_owned).collect()
}

fn own(verbs: Verbs) -> BTreeSet<String> {
    self::verbs(&json!(verbs))
}

/// Both forms of discovery have the row as it is.
async fn discovered(world: &World, def: &ResourceDef) {
    let (root, core) = if def.group.is_empty() { ("/api", true) } else { ("/apis", false) };
    let (_, list) = value(world, &format!("{root}/{}", def.api_version()), Ask::GET).await;
    let resources = list["resources"].as_array().unwrap();
    let named = |name: &str| resources.iter().find(|row| row["name"] == name).cloned().unwrap_or_default();
    let row = named(def.plural.as_ref());
    assert_eq!((&row["kind"], &row["singularName"]), (&json!(def.kind), &json!(def.singular)), "{row}");
    assert_eq!((verbs(&row["verbs"]), &row["namespaced"]), (own(def.verbs), &json!(def.namespaced())), "{row}");
    assert_eq!(
        (texts(&row["shortNames"]), texts(&row["categories"])),
        (texts(&json!(def.short)), texts(&json!(def.categories)))
    );
    let (_, groups) = value(world, root, Ask { accept: AGGREGATED, ..Ask::GET }).await;
    let items = groups["items"].as_array().unwrap();
    let group = items.iter().find(|group| core || group["metadata"]["name"] == def.group.as_ref()).unwrap();
    let version = group["versions"].as_array().unwrap().iter().find(|known| known["version"] == def.version.as_ref());
    let rows = version.unwrap()["resources"].as_array().unwrap();
    let known = rows.iter().find(|row| row["resource"] == def.plural.as_ref()).unwrap();
    assert_eq!((&known["responseKind"]["kind"], verbs(&known["verbs"])), (&json!(def.kind), own(def.verbs)), "{known}");
    let scope = if def.namespaced() { "Namespaced" } else { "Cluster" };
    assert_eq!((&known["scope"], texts(&known["shortNames"])), (&json!(scope), texts(&json!(def.short))), "{known}");
    for sub in &def.subresources {
        let plain = named(&format!("{}/{}", def.plural, sub.name));
        let parts = known["subresources"].as_array().unwrap();
        let part = parts.iter().find(|part| part["subresource"] == sub.name.as_ref()).unwrap();
        let (kind, expect) = (json!(sub.kind), own(sub.verbs));
        assert_eq!((&plain["kind"], verbs(&plain["verbs"])), (&kind, expect.clone()), "{plain}");
        assert_eq!((&part["responseKind"]["kind"], verbs(&part["verbs"])), (&kind, expect), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_patch_form_and_discovery_agree_with_the_row() {
    let world = World::new().await;
    let table = world.api.registry().table();
    let (mut walked, mut asked) = (0, 0);
    for def in table.rows() {
        let walk = Walk::new(&world, def);
        discovered(&world, def).await;
        walk.refused().await;
        if !def.verbs.contains(Verb::Watch) {
            asked += 1;
            continue;
        }
        let made = walk.create().await;
        walk.read(&made).await;
        walk.put_back(&made).await;
        let changes = walk.change(&made).await;
        walk.parts().await;
        walk.delete().await;
        walk.watched(&made, changes).await;
        walked += 1;
    }
    println!("{walked} kinds walked, {asked} that are not stored asked");
    assert!(walked > 55 && asked >= 8, "{walked} {asked}");
}
