//! The phases of a write, over a real store: their order, what waits, what runs again, time and chance.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::{World, admin, ask_of};
use crate::steps::{Kind, Log, Meanwhile, Says, Waits, chain, waits};
use axum::body::Body;
use jiff::Timestamp;
use kontiki_api::clock::{Clock, Entropy};
use kontiki_api::{Api, User};
use kontiki_machinery::access::{self, AsyncAuthorizer, Attributes, Decision, Said, When};
use kontiki_machinery::admission::Waiting;
use kontiki_model::{GroupResource, ObjectKey};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/a/configmaps";
const PODS: &str = "/api/v1/namespaces/a/pods";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

async fn ask(api: &Api, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let media = if method == "PATCH" { MERGE } else { JSON };
    ask_of(api, Some(admin()), (method, path, media), body).await
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn phases_come_in_order_and_steps_are_asked_again_as_they_want() {
    let world = World::new().await;
    for (at, (what, notation, expect)) in [
        ("pure steps", "p q", "p q p' q'"),
        ("one that waits and changes nothing", "p W q", "p W q p' q' W'"),
        ("after a change the pure ones run again", "p W* q", "p W q p q p' q' W'"),
        ("an earlier one that wants it too", "p A? W* q", "p A W q p A q p' q' A' W'"),
        ("an earlier one that does not is left alone", "A W*", "A W A' W'"),
        ("its own change is no reason", "A?* p", "A p p p' A'"),
        ("a later one's is", "A?* B?*", "A B A A' B'"),
        ("no more than once", "A?* B?* C?*", "A B C A B A' B' C'"),
    ]
    .into_iter()
    .enumerate()
    {
        let log = Log::default();
        let api = world.beside(|config| config.admission.extend(chain(notation, &log)));
        let (collection, name) = (MAPS.to_owned(), format!("m{at}"));
        let (code, made) = ask(&api, "POST", &collection, map(&name)).await;
        assert_eq!((code, log.take().as_str()), (201, expect), "{what}: {made}");
        let changing = notation.split(' ').filter(|word| word.contains('*'));
        let (_, stored) = world.get(&format!("{MAPS}/{name}")).await;
        for word in changing {
            assert_eq!(stored["metadata"]["annotations"][&word[..1]], "was here", "{what}: {stored}");
        }
        assert_eq!(stored, made, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_write_is_judged_and_a_dry_run_says_so() {
    let world = World::new().await;
    let log = Log::default();
    let gone = Waits { name: "D".into(), log: log.clone(), deletes: true, ..Waits::default() };
    let warns = Waits { name: "W".into(), log: log.clone(), says: Says::Warns, ..Waits::default() };
    let api =
        world.beside(|config| config.admission.extend([chain("p", &log), vec![waits(warns), waits(gone)]].concat()));
    let one = format!("{MAPS}/m");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    for (method, path, body, code, expect) in [
        ("POST", format!("{MAPS}?dryRun=All"), map("m"), 201, "p~ W~ p'~ W'~"),
        ("POST", MAPS.into(), map("m"), 201, "p W p' W'"),
        ("PATCH", format!("{one}?dryRun=All"), label.clone(), 200, "p~ W~ p'~ W'~"),
        ("PATCH", one.clone(), label, 200, "p W p' W'"),
        ("PUT", one.clone(), map("m"), 200, "p W p' W'"),
        ("DELETE", format!("{one}?dryRun=All"), Value::Null, 200, "D~ D'~"),
        ("DELETE", one.clone(), Value::Null, 200, "D D'"),
    ] {
        let before = world.store.snapshot().revision();
        let request = http::Request::builder().method(method).uri(&path);
        let request = request.header("content-type", if method == "PATCH" { MERGE } else { JSON });
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = api.answer(Some(admin()), request.body(Body::from(body)).unwrap()).await;
        assert_eq!((response.status().as_u16(), log.take().as_str()), (code, expect), "{method} {path}");
        let warnings: Vec<_> = response.headers().get_all("warning").iter().map(|v| v.to_str().unwrap()).collect();
        let both = ["299 - \"0: W\"", "299 - \"1: W\""];
        assert_eq!(warnings, if method == "DELETE" { &[][..] } else { &both[..] }, "{method} {path}");
        let written = world.store.snapshot().revision() != before;
        assert_eq!(written, !path.contains("dryRun"), "{method} {path}");
    }
}

/// An API with one step that waits, while something happens.
fn disturbed(world: &World, log: &Log, resource: &str, ignores_status: bool, meanwhile: Meanwhile) -> Api {
    let step = Waits {
        name: "W".into(),
        log: log.clone(),
        resource: resource.into(),
        ignores_status,
        meanwhile: Mutex::new(Some(meanwhile)),
        ..Waits::default()
    };
    world.beside(|config| config.admission.push(waits(step)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_asks_again_only_what_has_changed() {
    let world = World::new().await;
    let label = || json!({"metadata": {"labels": {"a": "b"}}});
    let status = || json!({"status": {"message": "hello"}});
    let namespace = || json!({"metadata": {"labels": {"c": "d"}}});
    for (at, (what, resource, ignores_status, disturb, change, expect)) in [
        ("what a create relied on", "configmaps", false, ("/api/v1/namespaces/a", namespace()), None, "W W'"),
        ("the object", "configmaps", false, ("", json!({"data": {"b": "2"}})), Some(label()), "W W' W W'"),
        ("the object, as it is wanted", "configmaps", false, ("", label()), Some(label()), "W W' W W'"),
        ("its status", "pods", false, ("/status", status()), Some(label()), "W W' W W'"),
        ("its status, which is not read", "pods", true, ("/status", status()), Some(label()), "W W'"),
    ]
    .into_iter()
    .enumerate()
    {
        let (name, log) = (format!("m{at}"), Log::default());
        let (collection, object) = if resource == "pods" { (PODS, pod(&name)) } else { (MAPS, map(&name)) };
        let one = format!("{collection}/{name}");
        let path = if change.is_some() { format!("{one}{}", disturb.0) } else { disturb.0.to_owned() };
        let (other, body) = (world.api.clone(), disturb.1);
        let meanwhile: Meanwhile = Box::pin(async move {
            let (code, answer) = ask(&other, "PATCH", &path, body).await;
            assert_eq!(code, 200, "{path}: {answer}");
        });
        let api = disturbed(&world, &log, resource, ignores_status, meanwhile);
        let (code, answer) = match change {
            None => ask(&api, "POST", collection, object).await,
            Some(change) => {
                world.post(collection, object).await;
                ask(&api, "PATCH", &one, change).await
            }
        };
        assert!(code < 300, "{what}: {answer}");
        assert_eq!(log.take(), expect, "{what}");
        assert_eq!(world.get(&one).await.1, answer, "{what}: what was answered is what is stored");
        if what.starts_with("its status") {
            assert_eq!(answer["status"]["message"], "hello", "{what}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_final_and_asked_for_once() {
    let world = World::new().await;
    let log = Log::default();
    let api = world.beside(|config| config.admission.extend(chain("A B! C!", &log)));
    world.post(MAPS, map("old")).await;
    for (method, path) in [("POST", MAPS.to_owned()), ("PATCH", format!("{MAPS}/old"))] {
        let (code, status) = ask(
            &api,
            method,
            &path,
            json!({"metadata": {"name": if method == "POST" {"m"} else {"old"}, "labels": {"a": "b"}}}),
        )
        .await;
        assert_eq!((code, status["message"].as_str()), (400, Some("step B says no")), "{method}");
        assert_eq!(log.take(), "A B C A' B' C'", "{method}: a fresh look asks nobody twice");
    }
    assert_eq!(world.get(&format!("{MAPS}/m")).await.0, 404);
    let patches = Waits { name: "D".into(), says: Says::Changes, deletes: true, ..Waits::default() };
    let api = world.beside(|config| config.admission.push(waits(patches)));
    let (code, status) = ask(&api, "DELETE", &format!("{MAPS}/old"), Value::Null).await;
    assert_eq!(
        (code, status["reason"].as_str()),
        (500, Some("InternalError")),
        "nothing is there to be changed: {status}"
    );
}

/// Judges by name; `silent` never hears an answer.
struct ByName;

impl AsyncAuthorizer for ByName {
    fn authorize<'a>(&'a self, user: &'a User, _: &'a Attributes<'a>, _: When) -> Waiting<'a, Said> {
        Box::pin(async {
            tokio::task::yield_now().await;
            let said = match user.name.as_str() {
                "friend" => Decision::Allow,
                "foe" => Decision::Deny,
                "silent" => std::future::pending().await,
                _ => Decision::NoOpinion,
            };
            said.into()
        })
    }
}

/// Allows reading to everybody.
struct Readers;

impl AsyncAuthorizer for Readers {
    fn authorize<'a>(&'a self, _: &'a User, asked: &'a Attributes<'a>, _: When) -> Waiting<'a, Said> {
        let decision = if asked.reads() { Decision::Allow } else { Decision::NoOpinion };
        Box::pin(std::future::ready(decision.into()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorizers_that_wait_are_asked_in_their_order() {
    let world = World::new().await;
    let waiting = [access::Member::Async(Arc::new(ByName)), access::Member::Async(Arc::new(Readers))];
    let api = world.beside(|config| config.authorizers.extend(waiting));
    for (user, method, expect) in [
        ("friend", "GET", 200),
        ("friend", "POST", 201),
        ("foe", "GET", 403),
        ("other", "GET", 200),
        ("other", "POST", 403),
        ("silent", "GET", 504),
    ] {
        let somebody = User::new(user, &["system:authenticated"]);
        let body = if method == "POST" { map("m").to_string() } else { String::new() };
        let path = format!("{MAPS}?timeout=100ms");
        let (code, answer) = ask_of(&api, Some(somebody), (method, &path, JSON), body).await;
        assert_eq!(code, expect, "{user} {method}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_does_not_answer_ends_with_the_requests_time() {
    let world = World::new().await;
    world.post(MAPS, map("old")).await;
    let text = "Timeout: request did not complete within requested timeout - context deadline exceeded";
    for hangs in [Kind::Mutating, Kind::Validating] {
        let step = Waits { name: "W".into(), says: Says::Hangs(hangs), ..Waits::default() };
        let api = world.beside(|config| config.admission.push(waits(step)));
        for (method, path, body) in [
            ("POST", format!("{MAPS}?timeout=100ms"), map("new")),
            ("POST", format!("{MAPS}?timeout=100ms&dryRun=All"), map("new")),
            ("PATCH", format!("{MAPS}/old?timeout=0.1s"), json!({"data": {"b": "2"}})),
        ] {
            let (code, status) = ask(&api, method, &path, body).await;
            let found = (code, status["reason"].as_str(), status["message"].as_str());
            assert_eq!(found, (504, Some("Timeout"), Some(text)), "{method} {path}");
        }
        let (code, status) = ask(&api, "POST", &format!("{MAPS}?timeout=soon"), map("new")).await;
        assert_eq!((code, status["reason"].as_str()), (400, Some("BadRequest")), "{status}");
    }
    assert_eq!(world.get(&format!("{MAPS}/new")).await.0, 404);
    assert_eq!(world.get(&format!("{MAPS}/old")).await.1["data"], json!({"a": "1"}));
}

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        "2031-02-03T04:05:06Z".parse().unwrap()
    }
}

/// The same numbers in the same order, for each that is made.
#[derive(Default)]
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn draw(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

fn fixed(world: &World) -> Api {
    world.beside(|config| {
        config.clock = Arc::new(Stopped);
        config.entropy = Arc::new(Counting::default());
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn with_time_and_chance_fixed_a_create_is_the_same_bytes_twice() {
    let world = World::new().await;
    let generated = |object: Value| {
        let mut object = object;
        object["metadata"] = json!({"generateName": "made-"});
        object
    };
    for (plural, object) in [
        ("configmaps", generated(map(""))),
        ("pods", generated(pod(""))),
        ("services", generated(json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}}))),
    ] {
        let collection = format!("/api/v1/namespaces/a/{plural}");
        let (mut answers, mut stored) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (code, dry) = ask(&fixed(&world), "POST", &format!("{collection}?dryRun=All"), object.clone()).await;
            assert_eq!(code, 201, "{plural}: {dry}");
            let (code, made) = ask(&fixed(&world), "POST", &collection, object.clone()).await;
            assert_eq!((code, &made["metadata"]["creationTimestamp"]), (201, &json!("2031-02-03T04:05:06Z")), "{made}");
            let name = made["metadata"]["name"].as_str().unwrap();
            let resource = GroupResource { group: "", resource: plural };
            let entry = world.store.snapshot().get(&ObjectKey::new(resource, Some("a"), name).encode()).unwrap();
            stored.push(entry.value.clone());
            answers.push(dry.to_string());
            let end = json!({"gracePeriodSeconds": 0});
            assert_eq!(ask(&world.api, "DELETE", &format!("{collection}/{name}"), end).await.0, 200);
        }
        assert_eq!(stored[0], stored[1], "{plural}");
        assert_eq!(answers[0], answers[1], "{plural}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_name_that_is_taken_is_drawn_anew() {
    let world = World::new().await;
    let log = Log::default();
    let object = json!({"metadata": {"generateName": "made-"}});
    let (_, first) = ask(&fixed(&world), "POST", MAPS, object.clone()).await;
    let api = world.beside(|config| {
        config.clock = Arc::new(Stopped);
        config.entropy = Arc::new(Counting::default());
        config.admission.extend(chain("p W", &log));
    });
    let (code, second) = ask(&api, "POST", MAPS, object).await;
    assert_eq!(code, 201, "{second}");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
    // Mutating admission sees no name yet, so its answer is good for the next one too.
    assert_eq!(log.take(), "p W p' W' p p' W'");
}

/// A clock that a test moves.
struct Moved(Mutex<Timestamp>);

impl Clock for Moved {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_by_the_clock_of_the_api() {
    let world = World::with_permissions().await;
    let begin = Stopped.now();
    let clock = Arc::new(Moved(Mutex::new(begin)));
    let api = world.beside(|config| config.clock = Arc::clone(&clock) as Arc<dyn Clock>);
    let (token, expires) = api.issue_token("a", "default", None, &[], 600).await.unwrap();
    assert_eq!(expires.as_second(), begin.as_second() + 600);
    for (after, expect) in [(0, 200), (600, 200), (601, 401), (-1, 401)] {
        *clock.0.lock().unwrap() = begin + jiff::SignedDuration::from_secs(after);
        let request = http::Request::get("/api").header("authorization", format!("Bearer {token}"));
        let response = api.answer(None, request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status().as_u16(), expect, "after {after} seconds");
    }
}
