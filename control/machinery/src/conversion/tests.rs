use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use super::*;
use crate::admission::Waiting;

const UID: &str = "u1";

/// Answers as it was told, and notes what it was asked.
struct Says {
    answer: Result<Value, String>,
    asked: Mutex<Vec<Value>>,
}

impl Caller for Says {
    fn post<'a>(&'a self, _: &'a Target, document: Vec<u8>, _: Patience) -> Waiting<'a, Result<Vec<u8>, String>> {
        self.asked.lock().unwrap().push(serde_json::from_slice(&document).unwrap());
        Box::pin(std::future::ready(self.answer.clone().map(|answer| answer.to_string().into_bytes())))
    }

    fn uid(&self) -> String {
        UID.to_owned()
    }
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nobody waits here"),
    }
}

fn conversion(versions: &[&str]) -> Conversion {
    let webhook = json!({"clientConfig": {"url": "https://h/c"}, "conversionReviewVersions": versions});
    Conversion::of(&json!({"strategy": "Webhook", "webhook": webhook})).unwrap()
}

fn frob(version: &str, name: &str) -> Value {
    let metadata = json!({"name": name, "uid": "1", "labels": {"a": "b"}, "generation": 3});
    json!({"apiVersion": format!("x.io/{version}"), "kind": "Frob", "metadata": metadata})
}

/// What becomes of objects, and how often somebody was asked.
fn converted(
    versions: &[&str],
    objects: &[Value],
    answer: Result<Value, String>,
) -> (Result<Vec<Value>, String>, usize) {
    let says = Says { answer, asked: Mutex::default() };
    let deadline = Instant::now() + TIMEOUT;
    let made = ready(conversion(versions).convert(&says, objects.to_vec(), "x.io/v2", deadline));
    let asked = says.asked.into_inner().unwrap().len();
    (made, asked)
}

fn review(response: Value) -> Value {
    json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response})
}

fn success(objects: Value) -> Value {
    review(json!({"uid": UID, "result": {"status": "Success"}, "convertedObjects": objects}))
}

/// One object in the wanted version, as `edit` leaves it.
fn edited(edit: impl FnOnce(&mut Value)) -> Value {
    let mut object = frob("v2", "a");
    edit(&mut object);
    success(json!([object]))
}

#[test]
fn only_what_is_in_another_version_is_asked_about() {
    let (made, asked) = converted(&["v1"], &[frob("v2", "a"), frob("v2", "b")], Err("nobody".into()));
    assert_eq!((made.unwrap().len(), asked), (2, 0));
    let objects = [frob("v1", "a"), frob("v2", "b"), frob("v1", "c")];
    let answer = success(json!([frob("v2", "a"), frob("v2", "c")]));
    let says = Says { answer: Ok(answer), asked: Mutex::default() };
    let made =
        ready(conversion(&["v1"]).convert(&says, objects.to_vec(), "x.io/v2", Instant::now() + TIMEOUT)).unwrap();
    assert_eq!(made, ["a", "b", "c"].map(|name| frob("v2", name)), "each has its place");
    let asked = says.asked.into_inner().unwrap();
    let request = json!({"uid": UID, "desiredAPIVersion": "x.io/v2", "objects": [objects[0], objects[2]]});
    assert_eq!(
        asked,
        [json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "request": request})]
    );
}

#[test]
fn answers_are_judged_in_upstreams_words() {
    let about = "conversion webhook for x.io/v1, Kind=Frob";
    let set = |pointer: &'static str, value: Value| edited(|object| *object.pointer_mut(pointer).unwrap() = value);
    for (what, answer, expect) in [
        ("nobody answers", Err("Post \"https://h/c\": EOF".to_owned()), "failed: Post \"https://h/c\": EOF"),
        (
            "another kind of answer",
            Ok(json!({"kind": "Pod", "apiVersion": "v1"})),
            "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got /v1, Kind=Pod",
        ),
        ("no response", Ok(review(Value::Null)), "failed: no response provided"),
        ("another's", Ok(review(json!({"uid": "x"}))), "failed: expected response.uid=\"u1\", got \"x\""),
        ("a failure", Ok(review(json!({"uid": UID, "result": {"status": "Failure", "message": "no"}}))), "failed: no"),
        ("no result", Ok(review(json!({"uid": UID}))), "failed: response.result.status was '', not 'Success'"),
        ("too few", Ok(success(json!([]))), "returned 0 objects, expected 1"),
        (
            "another version",
            Ok(set("/apiVersion", json!("x.io/v3"))),
            "returned invalid object at index 0: invalid groupVersion (expected x.io/v2, received x.io/v3)",
        ),
        (
            "another kind",
            Ok(set("/kind", json!("Other"))),
            "returned invalid object at index 0: invalid kind (expected Frob, received Other)",
        ),
        (
            "another name",
            Ok(set("/metadata/name", json!("b"))),
            "returned invalid object: must have the same name: a != b",
        ),
        (
            "another uid",
            Ok(set("/metadata/uid", json!("2"))),
            "returned invalid object: must have the same UID: 1 != 2",
        ),
        (
            "another namespace",
            Ok(edited(|object| object["metadata"]["namespace"] = json!("n"))),
            "returned invalid object: must have the same namespace:  != n",
        ),
        (
            "labels that are none",
            Ok(set("/metadata/labels", json!("x"))),
            "returned invalid metadata: invalid metadata.labels of type string in converted object",
        ),
        (
            "a label that is no text",
            Ok(set("/metadata/labels/a", json!(1))),
            "returned invalid metadata: metadata.labels[a] must be a string, but is int64 in converted object",
        ),
    ] {
        let (made, _) = converted(&["v1"], &[frob("v1", "a")], answer);
        assert_eq!(made, Err(format!("{about} {expect}")), "{what}");
    }
    let bad = edited(|object| object["metadata"]["labels"]["a b"] = json!("c"));
    let (made, _) = converted(&["v1"], &[frob("v1", "a")], Ok(bad));
    let why = made.unwrap_err();
    assert!(
        why.starts_with(&format!("{about} returned invalid metadata: metadata.labels: Invalid value: \"a b\"")),
        "{why}"
    );
    let both = success(json!([frob("v2", "a"), frob("v2", "x")]));
    let (made, _) = converted(&["v1"], &[frob("v1", "a"), frob("v1", "b")], Ok(both));
    let expect = format!("{about} returned invalid converted object at index 1: must have the same name: b != x");
    assert_eq!(made, Err(expect));
    let (made, asked) = converted(&["v9"], &[frob("v1", "a")], Ok(Value::Null));
    assert_eq!((made, asked), (Err("no supported conversion review versions".into()), 0));
}

#[test]
fn metadata_stays_but_for_labels_and_annotations() {
    let answer = edited(|object| {
        object["metadata"] =
            json!({"name": "a", "uid": "1", "generation": 9, "annotations": {"c": "d"}, "finalizers": ["x"]});
    });
    let (made, _) = converted(&["v1"], &[frob("v1", "a")], Ok(answer));
    let kept = json!({"name": "a", "uid": "1", "generation": 3, "annotations": {"c": "d"}});
    assert_eq!(made.unwrap()[0]["metadata"], kept);
}

#[test]
fn the_first_version_of_this_api_asks_for_less() {
    let answer = json!({"response": {"result": {"status": "Success"}, "convertedObjects": [frob("v2", "a")]}});
    let (made, _) = converted(&["v7", "v1beta1", "v1"], &[frob("v1", "a")], Ok(answer));
    assert_eq!(made, Ok(vec![frob("v2", "a")]));
}

#[test]
fn questions_are_noted_until_they_are_answered() {
    let asked = Conversions::default();
    assert_eq!(asked.ask(&frob("v2", "a"), "x.io/v2"), Some(frob("v2", "a")), "nothing to do");
    assert_eq!((asked.ask(&frob("v1", "a"), "x.io/v2"), asked.ask(&frob("v1", "a"), "x.io/v2")), (None, None));
    assert_eq!(asked.open(), [(frob("v1", "a"), "x.io/v2".to_owned())]);
    asked.answer(&frob("v1", "a"), "x.io/v2", frob("v2", "a"));
    assert_eq!((asked.ask(&frob("v1", "a"), "x.io/v2"), asked.open().len()), (Some(frob("v2", "a")), 0));
}
