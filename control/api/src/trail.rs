//! Records of requests while they run. What is recorded says the policy (`kontiki_machinery::audit`), where to `audit`.
//!
//! Invariants
//! - A request that the policy leaves out costs one look at its rules, and without a policy nothing.
//! - Each stage is recorded at most once, and the last one even if the client goes away.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::Stream;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response};
use kontiki_machinery::access::{Attributes, User};
use kontiki_machinery::audit::{Level, Outcome, Policy, Stage, Subject, Verdict, event};
use kontiki_machinery::decode::{decode_json, decode_protobuf, decode_yaml};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::audit::{Auditor, Sink};
use crate::body::header;
use crate::clock::uid;
use crate::{Api, Status};

/// What protobuf bodies begin with.
const PROTOBUF: &[u8] = b"k8s\0";
pub(crate) static ID: HeaderName = HeaderName::from_static("audit-id");

/// The records of one request.
pub(crate) struct Trail {
    api: Api,
    verdict: Verdict,
    subject: Mutex<Subject>,
    outcome: Mutex<Outcome>,
    done: AtomicBool,
}

/// The id of a request: a proxy in front may have given it one.
pub(crate) fn id(api: &Api, head: &Parts) -> String {
    let given = header(&head.headers, &ID).filter(|id| !id.is_empty() && id.len() <= 64);
    given.unwrap_or_else(|| uid(api.entropy().draw(), api.entropy().draw()))
}

impl Api {
    /// From now on requests are recorded as `policy` says. The first policy stays.
    pub fn audit(&self, policy: Policy, sink: Arc<dyn Sink>) {
        let _ = self.inner.audit.set(Auditor { policy, sink });
    }

    /// The records of a request that has come from `source`, if it is to have any. The first one is made.
    pub(crate) fn trail(
        &self,
        head: &Parts,
        source: Option<IpAddr>,
        user: &User,
        (asked, version): (&Attributes<'_>, &str),
    ) -> Option<Arc<Trail>> {
        let verdict = self.inner.audit.get()?.policy.judge(user, asked);
        if verdict.level == Level::None {
            return None;
        }
        let subject = Subject {
            id: id(self, head),
            uri: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            verb: asked.verb.to_owned(),
            user: user.clone(),
            impersonated: None,
            sources: source.iter().map(|source| source.to_canonical().to_string()).collect(),
            agent: header(&head.headers, &http::header::USER_AGENT).unwrap_or_default(),
            object: Subject::object_of(asked, version),
            received: self.now(),
        };
        let (api, outcome, done) = (self.clone(), Mutex::default(), AtomicBool::new(false));
        let trail = Trail { api, verdict, subject: Mutex::new(subject), outcome, done };
        trail.record(Stage::RequestReceived);
        Some(Arc::new(trail))
    }
}

impl Trail {
    fn record(&self, stage: Stage) {
        if !self.verdict.records(stage) {
            return;
        }
        let event = event(&self.verdict, stage, &self.subject.lock(), &self.outcome.lock(), self.api.now());
        if let Some(auditor) = self.api.inner.audit.get() {
            auditor.sink.record(&event);
        }
    }

    /// The request is made for another.
    pub fn impersonates(&self, user: &User) {
        self.subject.lock().impersonated = Some(user.clone());
    }

    /// What was sent.
    pub fn sent(&self, body: &[u8]) {
        if self.verdict.level < Level::Request || body.is_empty() {
            return;
        }
        let read = if body.starts_with(PROTOBUF) {
            decode_protobuf(body)
        } else {
            decode_json(body).or_else(|_| decode_yaml(body))
        };
        self.outcome.lock().request = read.ok().map(|read| read.value);
    }

    /// What is answered.
    pub fn answered(&self, answer: impl FnOnce() -> Option<Value>) {
        if self.verdict.level >= Level::RequestResponse {
            self.outcome.lock().response = answer();
        }
    }

    /// What admission has to say of it.
    pub fn noted(&self, notes: BTreeMap<String, String>) {
        self.outcome.lock().annotations = notes;
    }

    /// It is refused, or failed.
    pub fn failed(&self, status: &Status) {
        self.outcome.lock().status = serde_json::to_value(status).ok();
    }

    /// There is a fault of ours.
    pub fn panicked(&self) {
        self.record(Stage::Panic);
    }

    fn complete(&self) {
        if !self.done.swap(true, Ordering::Relaxed) {
            self.record(Stage::ResponseComplete);
        }
    }

    /// The answer is ready. One that goes on for `long` is complete when its body ends, however it does.
    pub fn close(self: &Arc<Self>, mut response: Response<Body>, long: bool) -> Response<Body> {
        let code = response.status().as_u16();
        self.outcome.lock().status.get_or_insert_with(|| json!({"metadata": {}, "code": code}));
        if let Ok(id) = HeaderValue::from_str(&self.subject.lock().id) {
            response.headers_mut().insert(&ID, id);
        }
        if !long {
            self.complete();
            return response;
        }
        self.record(Stage::ResponseStarted);
        let trail = Arc::clone(self);
        response.map(|body| Body::from_stream(Followed { body: body.into_data_stream(), trail }))
    }
}

/// A body whose end is recorded.
struct Followed {
    body: BodyDataStream,
    trail: Arc<Trail>,
}

impl Stream for Followed {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.trail.complete();
    }
}
