//! Clients that would bring a server down, and one that was expelled.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Request;
use kontiki_api::fairness::Limits;
use kontiki_api::{Api, User};
use kontiki_gate::{Gate, Limits as Places};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::served::{TlsClient, serve};
use crate::common::{World, admin, ask_of};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
/// A machine that is busy with other tests is slow.
const LONG: Duration = Duration::from_secs(30);

/// What comes until the connection is over.
async fn rest(client: &mut TlsClient) -> String {
    let mut rest = Vec::new();
    // However it ends: cut off is over as well.
    let _ = tokio::time::timeout(LONG, client.read_to_end(&mut rest)).await.expect("the connection ends");
    String::from_utf8_lossy(&rest).into_owned()
}

async fn get(client: &mut TlsClient, path: &str) -> std::io::Result<String> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.write_all(head.as_bytes()).await?;
    let mut answer = vec![0; 12];
    client.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_let_go() {
    let world = World::new().await;
    let gate = Gate::default();
    let served = serve(&world, &world.api, gate.clone()).await;
    let administrator = world.authority.issue("admin", "system:masters");
    let (mut silent, mut halting) =
        (served.connect(&administrator).await.unwrap(), served.connect(&administrator).await.unwrap());
    halting.write_all(b"PRI * HTTP").await.unwrap();
    assert_eq!((rest(&mut silent).await, rest(&mut halting).await), (String::new(), String::new()));
    while gate.figures().open > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_only_so_many_connections() {
    let world = World::new().await;
    let gate = Gate::new(Places { per_address: 2, total: 100 });
    let served = serve(&world, &world.api, gate.clone()).await;
    let administrator = world.authority.issue("admin", "system:masters");
    let mut first = served.connect(&administrator).await.unwrap();
    let _second = served.connect(&administrator).await.unwrap();
    assert!(served.connect(&administrator).await.is_err(), "there is no third");
    assert_eq!(get(&mut first, "/livez").await.unwrap(), "HTTP/1.1 200", "those that there are work");
    drop(first);
    while gate.figures().open > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(get(&mut served.connect(&administrator).await.unwrap(), "/livez").await.unwrap(), "HTTP/1.1 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_expelled_loses_a_watch_that_runs() {
    let world = World::new().await;
    let gate = Gate::default();
    let served = serve(&world, &world.api, gate.clone()).await;
    let [thief, honest] = ["thief", "honest"].map(|name| world.authority.issue(name, "system:masters"));
    let watch = format!("{MAPS}?watch=true");
    let (mut stolen, mut own) = (served.connect(&thief).await.unwrap(), served.connect(&honest).await.unwrap());
    for client in [&mut stolen, &mut own] {
        assert_eq!(get(client, &watch).await.unwrap(), "HTTP/1.1 200");
    }
    gate.bar(std::sync::Arc::new(|shown| {
        let (_, parsed) = x509_parser::parse_x509_certificate(shown).unwrap();
        parsed.subject().iter_common_name().any(|name| name.as_str() == Ok("thief"))
    }));
    assert!(!rest(&mut stolen).await.ends_with("0\r\n\r\n"), "cut off, not ended in order");
    // With TLS 1.3 the client's part of the handshake is over before the server has seen the certificate.
    let again = match served.connect(&thief).await {
        Ok(mut client) => get(&mut client, "/livez").await,
        Err(error) => Err(error),
    };
    assert!(again.is_err(), "{again:?}");
    world.post(MAPS, json!({"metadata": {"name": "seen"}})).await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\"seen\"") {
        assert!(tokio::time::timeout(LONG, own.read_buf(&mut seen)).await.unwrap().unwrap() > 0, "the other goes on");
    }
}

/// A body that begins and never ends.
fn endless(begin: usize) -> Body {
    let first = Ok::<_, std::io::Error>(Bytes::from(vec![b' '; begin]));
    Body::from_stream(stream::iter([first]).chain(stream::pending()))
}

async fn post(api: &Api, path: &str, body: &str) -> (u16, Value) {
    ask_of(api, Some(admin()), ("POST", path, "application/json"), body.to_owned()).await
}

fn map(name: &str, bytes: usize) -> String {
    json!({"metadata": {"name": name}, "data": {"a": "x".repeat(bytes)}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bodies_together_take_only_so_much() {
    let world = World::new().await;
    let api = world.beside(|config| config.limits = Limits { bytes_in_flight: 1 << 20, ..Limits::default() });
    let slow = {
        let api = api.clone();
        tokio::spawn(async move {
            let request = Request::post(MAPS).header("content-type", "application/json");
            api.answer(Some(admin()), request.body(endless(900 << 10)).unwrap()).await
        })
    };
    let charged = |api: Api| async move {
        let (_, text) = ask_of(&api, Some(admin()), ("GET", "/metrics", ""), String::new()).await;
        let text = text.as_str().unwrap_or_default().to_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("kontiki_api_body_bytes_charged "));
        line.and_then(|line| line.parse::<usize>().ok()).unwrap()
    };
    while charged(api.clone()).await < 900 << 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (code, refused) = post(&api, MAPS, &map("large", 200 << 10)).await;
    assert_eq!((code, &refused["details"]["retryAfterSeconds"]), (429, &json!(1)), "{refused}");
    assert_eq!(post(&api, MAPS, &map("small", 100)).await.0, 201, "what fits goes on");
    slow.abort();
    let _ = slow.await;
    assert_eq!(post(&api, MAPS, &map("large", 200 << 10)).await.0, 201);
    // A few values in little text take as much as many bytes.
    let (code, _) = post(&api, MAPS, &format!("{{\"data\":[{}0]}}", "0,".repeat(100_000))).await;
    assert_eq!(code, 400, "it is read, alone, and is no ConfigMap");
    assert_eq!(charged(api.clone()).await, 0, "all is given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_has_no_use_for_a_large_body() {
    let world = World::new().await;
    let ask = |bytes: usize| {
        let body = json!({"metadata": {"annotations": {"a": "x".repeat(bytes)}}}).to_string();
        let somebody = User::new("somebody", &["system:masters"]);
        let world = &world;
        async move { world.ask_as(Some(somebody), "POST", REVIEWS, "application/json", body).await }
    };
    let (code, refused) = ask(100 << 10).await;
    assert_eq!((code, refused["message"].as_str()), (413, Some("Request entity too large: limit is 65536")));
    assert_eq!(post(&world.api, MAPS, &map("large", 100 << 10)).await.0, 201, "other kinds have it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_store_has_stopped_says_so() {
    let world = World::new().await;
    let get = |path: &'static str| {
        let api = world.api.clone();
        async move {
            let (code, text) = ask_of(&api, Some(admin()), ("GET", path, ""), String::new()).await;
            (code, text.as_str().unwrap_or_default().to_owned())
        }
    };
    let (code, text) = get("/readyz?verbose").await;
    assert_eq!(code, 200, "{text}");
    for line in ["[+]etcd ok", "[+]etcd-readiness ok", "[+]raft-leader ok", "readyz check passed"] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    for path in ["/livez", "/livez/etcd", "/readyz/etcd-readiness", "/healthz?exclude=etcd&exclude=odd"] {
        assert_eq!(get(path).await.0, 200, "{path}");
    }
    world.store.shutdown().await;
    for (path, expect, line) in [
        ("/livez", 500, "[-]etcd failed: the store has stopped"),
        ("/livez?exclude=etcd", 200, "ok"),
        ("/readyz", 500, "[-]etcd-readiness failed: "),
        ("/readyz/etcd-readiness", 500, "internal server error: etcd-readiness: "),
        ("/readyz/ping", 200, "ok"),
        ("/readyz/odd", 404, "404 page not found"),
        ("/readyz?exclude=odd", 500, "warn: some health checks cannot be excluded: no matches for \"odd\""),
    ] {
        let (code, text) = get(path).await;
        assert_eq!(code, expect, "{path}: {text}");
        assert!(text.lines().any(|found| found.starts_with(line)), "{path}: {line} in {text}");
    }
}
