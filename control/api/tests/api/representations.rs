//! What a client may ask for: each form of an object, a list, a watch, a Status, discovery and OpenAPI says the same.

use kontiki_machinery::encode::protobuf;

use crate::common::groups;
use crate::common::{World, admin, collection, least};
use axum::body::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use http_body_util::BodyExt;
use kontiki_kinds::{ResourceDef, Verb};
use kontiki_machinery::decode::{decode_cbor, decode_protobuf, decode_yaml};
use serde_json::{Value, json};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const CBOR: &str = "application/cbor";
const MAPS: &str = "/api/v1/namespaces/a/configmaps";

async fn response(world: &World, path: &str, headers: &[(&str, &str)]) -> Response<Body> {
    let request = headers.iter().fold(http::Request::get(path), |request, (name, value)| request.header(*name, *value));
    world.api.answer(Some(admin()), request.body(Body::empty()).unwrap()).await
}

/// Code, content type and body.
async fn get(world: &World, path: &str, accept: &str) -> (u16, String, Bytes) {
    let response = response(world, path, &[("accept", accept)]).await;
    let (code, media) = (response.status().as_u16(), response.headers().get("content-type").cloned());
    let media = media.map(|media| media.to_str().unwrap().to_owned()).unwrap_or_default();
    (code, media, response.into_body().collect().await.unwrap().to_bytes())
}

async fn first_piece(world: &World, path: &str, accept: &str) -> (String, Bytes) {
    let response = response(world, path, &[("accept", accept)]).await;
    let media = response.headers()["content-type"].to_str().unwrap().to_owned();
    (media, response.into_body().into_data_stream().next().await.unwrap().unwrap())
}

/// Length-delimited fields of a message.
fn fields(mut message: &[u8]) -> Vec<(u8, &[u8])> {
    let mut out = Vec::new();
    while let Some((key, rest)) = message.split_first() {
        assert_eq!(key & 7, 2, "a length-delimited field");
        let (mut length, mut used) = (0usize, 0);
        loop {
            length |= usize::from(rest[used] & 127) << (7 * used);
            used += 1;
            if rest[used - 1] < 128 {
                break;
            }
        }
        out.push((key >> 3, &rest[used..used + length]));
        message = &rest[used + length..];
    }
    out
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut length) = (vec![number << 3 | 2], bytes.len());
    while length > 127 {
        out.push(u8::try_from(length & 127).unwrap() | 128);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    [&out[..], bytes].concat()
}

fn enveloped(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [&b"k8s\0"[..], &field(1, &meta), &field(2, message)].concat()
}

/// The type and the enveloped object of the first frame.
fn event(bytes: &[u8]) -> (String, &[u8]) {
    let length = usize::try_from(u32::from_be_bytes(bytes[..4].try_into().unwrap())).unwrap();
    let event = fields(&bytes[4..4 + length]);
    assert_eq!((event[0].0, event[1].0), (1, 2));
    (String::from_utf8(event[0].1.to_vec()).unwrap(), fields(event[1].1)[0].1)
}

/// Objects as their type has them, so that forms that leave out what is empty can be compared.
fn settled(def: &ResourceDef, mut object: Value) -> Value {
    def.schema.normalize(&mut object);
    object
}

fn of_protobuf(bytes: &[u8]) -> Value {
    decode_protobuf(bytes).unwrap().value
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_says_the_same_in_every_form() {
    let world = World::new().await;
    for def in world.api.registry().table().rows().iter().filter(|def| def.verbs.contains(Verb::Watch)) {
        let path = collection(def);
        let made = world.post(&path, least(def)).await;
        let (one, expect) = (format!("{path}/{}", groups::name(def)), settled(def, made.clone()));

        let (code, media, bytes) = get(&world, &one, PROTOBUF).await;
        if protobuf::Shape::of(def.schema.name()).is_none() {
            assert_eq!(code, 406, "{one} has no form in protobuf");
            continue;
        }
        assert_eq!((code, media.as_str()), (200, PROTOBUF), "{one}");
        assert_eq!(settled(def, of_protobuf(&bytes)), expect, "{one} in protobuf");
        let (code, media, bytes) = get(&world, &one, CBOR).await;
        assert_eq!((code, media.as_str()), (200, CBOR), "{one}");
        assert_eq!(decode_cbor(&bytes).unwrap().value, made, "{one} in CBOR");
        let (_, _, bytes) = get(&world, &one, "application/yaml").await;
        assert_eq!(decode_yaml(&bytes).unwrap().value, made, "{one} in YAML");

        let list = format!("{path}?fieldSelector=metadata.name={}", groups::name(def));
        let (code, _, bytes) = get(&world, &list, PROTOBUF).await;
        assert_eq!(code, 200, "{list}");
        let envelope = fields(&bytes[4..]);
        let items: Vec<_> = fields(envelope[1].1).into_iter().filter(|(number, _)| *number == 2).collect();
        assert_eq!(items.len(), 1, "{list}");
        let item = enveloped(&def.api_version(), &def.kind, items[0].1);
        assert_eq!(settled(def, of_protobuf(&item)), expect, "{list} in protobuf");
        let (_, _, bytes) = get(&world, &list, CBOR).await;
        let items = &decode_cbor(&bytes).unwrap().value["items"];
        assert_eq!(items[0]["metadata"], made["metadata"], "{list} in CBOR");

        let watch = format!("{path}?watch=1&fieldSelector=metadata.name={}", groups::name(def));
        let (media, frame) = first_piece(&world, &watch, PROTOBUF).await;
        assert_eq!(media, "application/vnd.kubernetes.protobuf;stream=watch");
        let (kind, object) = event(&frame);
        assert_eq!((kind.as_str(), settled(def, of_protobuf(object))), ("ADDED", expect), "{watch}");
        let (media, item) = first_piece(&world, &watch, CBOR).await;
        assert_eq!(media, "application/cbor-seq");
        assert_eq!(decode_cbor(&item).unwrap().value, json!({"type": "ADDED", "object": made}), "{watch}");
        // The next kind may be another view of it.
        let (code, _) = world.ask("DELETE", &one, Value::Null).await;
        assert_eq!(code, 200, "DELETE {one}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_alone_goes_out_in_every_form() {
    let world = World::new().await;
    let made = world.post(MAPS, json!({"metadata": {"name": "m"}, "data": {"a": "b"}})).await;
    let one = format!("{MAPS}/m");
    let expect = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": made["metadata"]});
    let asked = |media: &str| format!("{media};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let (_, _, bytes) = get(&world, &one, &asked(CBOR)).await;
    assert_eq!(decode_cbor(&bytes).unwrap().value, expect);
    let (code, _, bytes) = get(&world, &one, &asked(PROTOBUF)).await;
    assert_eq!(code, 200);
    let envelope = fields(&bytes[4..]);
    assert_eq!(fields(envelope[0].1), [(1, &b"meta.k8s.io/v1"[..]), (2, &b"PartialObjectMetadata"[..])]);
    assert_eq!(fields(envelope[1].1).len(), 1, "nothing but the metadata");
    let (_, _, list) = get(&world, MAPS, &format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")).await;
    assert_eq!(fields(fields(&list[4..])[1].1)[1].1, envelope[1].1, "an item of the list");
    let (_, frame) = first_piece(&world, &format!("{MAPS}?watch=1"), &asked(PROTOBUF)).await;
    assert_eq!(event(&frame), ("ADDED".to_owned(), &bytes[..]));
    let (_, line) = first_piece(&world, &format!("{MAPS}?watch=1"), &asked("application/json")).await;
    assert_eq!(serde_json::from_slice::<Value>(&line).unwrap(), json!({"type": "ADDED", "object": expect}));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_watched_row_by_row() {
    let world = World::new().await;
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    world.post(MAPS, json!({"metadata": {"name": "m"}})).await;
    let answer = response(&world, &format!("{MAPS}?watch=1"), &[("accept", table)]).await;
    let mut stream = answer.into_body().into_data_stream();
    let mut next = async || serde_json::from_slice::<Value>(&stream.next().await.unwrap().unwrap()).unwrap();
    let added = next().await;
    assert!(added["object"]["columnDefinitions"].is_array(), "{added}");
    let (_, changed) = world.merge(&format!("{MAPS}/m"), json!({"data": {"a": "b"}})).await;
    let modified = next().await;
    assert_eq!((&modified["type"], &modified["object"]["columnDefinitions"]), (&json!("MODIFIED"), &Value::Null));
    let row = &modified["object"]["rows"][0];
    assert_eq!((&row["cells"][0], &row["object"]["metadata"]), (&json!("m"), &changed["metadata"]), "{modified}");
    assert_eq!(modified["object"]["metadata"], json!({"resourceVersion": changed["metadata"]["resourceVersion"]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_discovery_have_the_form_asked_for() {
    let world = World::new().await;
    let (code, media, bytes) = get(&world, &format!("{MAPS}/none"), PROTOBUF).await;
    let status = of_protobuf(&bytes);
    assert_eq!((code, media.as_str(), &status["reason"]), (404, PROTOBUF, &json!("NotFound")), "{status}");
    assert_eq!((&status["details"]["name"], &status["details"]["kind"]), (&json!("none"), &json!("configmaps")));
    for path in ["/api", "/apis", "/apis/apps", "/api/v1"] {
        let (code, media, bytes) = get(&world, path, PROTOBUF).await;
        assert_eq!((code, media.as_str()), (200, PROTOBUF), "{path}");
        let kind = of_protobuf(&bytes)["kind"].clone();
        assert_eq!(kind, world.get(path).await.1["kind"], "{path}");
    }
    let (_, _, bytes) = get(&world, "/apis/apps/v1", PROTOBUF).await;
    let list = fields(&bytes[4..]);
    let (_, in_json) = world.get("/apis/apps/v1").await;
    let resources = fields(list[1].1).into_iter().filter(|(number, _)| *number == 2).count();
    assert_eq!(resources, in_json["resources"].as_array().unwrap().len());
    for (method, path, expect) in [("PUT", "/apis", 200), ("PATCH", "/apis/apps", 200), ("PUT", "/api/v1", 405)] {
        let (code, _) = world.ask(method, path, json!({})).await;
        assert_eq!(code, expect, "{method} {path}");
    }
    let one = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let found = response(&world, "/apis", &[("accept", &format!("application/json,{one}"))]).await;
    assert_eq!(found.headers()["content-type"], one);
    let tag = found.headers()["etag"].to_str().unwrap().to_owned();
    let known = response(&world, "/apis", &[("accept", one), ("if-none-match", &tag)]).await;
    assert_eq!(known.status().as_u16(), 304);
    let (code, media, _) = get(&world, "/version", PROTOBUF).await;
    assert_eq!((code, media.as_str()), (406, PROTOBUF));
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_documents_are_kept_by_their_hash() {
    const V2: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    const V3: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
    let world = World::new().await;
    let (code, media, bytes) = get(&world, "/openapi/v2", V2).await;
    assert_eq!((code, media.as_str()), (200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"));
    let document = fields(&bytes);
    assert!(document.contains(&(1, &b"2.0"[..])), "the version of the format");
    let definitions = document.iter().find(|(number, _)| *number == 9).expect("definitions").1;
    let (_, in_json) = world.get("/openapi/v2").await;
    assert_eq!(fields(definitions).len(), in_json["definitions"].as_object().unwrap().len());

    let (_, index) = world.get("/openapi/v3").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let found = response(&world, &url, &[]).await;
    assert_eq!(found.status().as_u16(), 200);
    assert_eq!(found.headers()["cache-control"].to_str().unwrap(), "public, immutable");
    let tag = found.headers()["etag"].to_str().unwrap().to_owned();
    assert!(url.ends_with(&format!("hash={}", tag.trim_matches('"'))), "{tag} {url}");
    let known = response(&world, &url, &[("if-none-match", &tag)]).await;
    assert_eq!(known.status().as_u16(), 304);
    let moved = response(&world, "/openapi/v3/apis/apps/v1?hash=old", &[]).await;
    assert_eq!((moved.status().as_u16(), moved.headers()["location"].to_str().unwrap()), (301, url.as_str()));
    let (code, _, bytes) = get(&world, &url, V3).await;
    assert_eq!((code, fields(&bytes).iter().any(|field| *field == (1, &b"3.0.0"[..]))), (200, true));
    assert_eq!(get(&world, &url, "text/html").await.0, 406);
    let (_, document) = world.get(&url).await;
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"], "TCP");
    assert_eq!(schemas["io.k8s.api.core.v1.Container"]["properties"]["name"]["default"], "");
    assert_eq!(schemas["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"]["default"], json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_come_in_every_form() {
    let world = World::new().await;
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "c"}, "data": {"k": "AAEC"}});
    let schema = kontiki_machinery::schema::get("io.k8s.api.core.v1.Secret");
    let body = kontiki_machinery::encode::cbor::object(&object, schema);
    let request = http::Request::post("/api/v1/namespaces/a/secrets").header("content-type", CBOR);
    let answer = world.api.answer(Some(admin()), request.body(Body::from(body)).unwrap()).await;
    assert_eq!(answer.status().as_u16(), 201);
    let (_, read) = world.get("/api/v1/namespaces/a/secrets/c").await;
    assert_eq!(read["data"], object["data"]);
    let (_, _, bytes) = get(&world, "/api/v1/namespaces/a/secrets/c", PROTOBUF).await;
    let request = http::Request::put("/api/v1/namespaces/a/secrets/c").header("content-type", PROTOBUF);
    let answer = world.api.answer(Some(admin()), request.body(Body::from(bytes)).unwrap()).await;
    assert_eq!(answer.status().as_u16(), 200, "what went out comes in again");
    assert_eq!(world.get("/api/v1/namespaces/a/secrets/c").await.1, read, "and changes nothing");
}
