//! `/livez`, `/readyz`, `/healthz`, and each check below them, as upstream's `pkg/server/healthz` has it.
//!
//! Invariants
//! - Alive is who would not be helped by a restart: a member without a leader is, one whose store has stopped is not.
//! - Ready is who answers. So the store is asked, for no longer than [`PATIENCE`].

use std::fmt::Write;
use std::time::Duration;

use axum::body::Body;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response};
use kontiki_machinery::measured::Health;

use crate::Api;
use crate::params::Params;

/// How long the store may take to answer. Probes wait for a second or more.
const PATIENCE: Duration = Duration::from_secs(2);

/// One thing that is looked at.
#[derive(Clone, Copy)]
enum Check {
    /// That somebody answers.
    Answers,
    /// Whether the store runs.
    Runs,
    /// Whether a linearizable read is answered.
    Reads,
    /// Whether a leader is known.
    Leader,
    /// Whether the server is not about to end.
    Stays,
}

/// Under upstream's names where it has one: `etcd` is the store.
type Checks = &'static [(&'static str, Check)];

const LIVE: Checks = &[("ping", Check::Answers), ("log", Check::Answers), ("etcd", Check::Runs)];
const READY: Checks = &[
    ("ping", Check::Answers),
    ("log", Check::Answers),
    ("etcd", Check::Runs),
    ("etcd-readiness", Check::Reads),
    ("raft-leader", Check::Leader),
    ("shutdown", Check::Stays),
];

impl Check {
    /// What is wrong, if anything.
    async fn run(self, api: &Api) -> Result<(), String> {
        let fail = |wrong: bool, text: &str| if wrong { Err(text.to_owned()) } else { Ok(()) };
        match self {
            Self::Answers => Ok(()),
            Self::Runs if api.store().has_stopped() => {
                Err(api.store().halted().unwrap_or("the store has stopped").to_owned())
            }
            Self::Runs => Ok(()),
            Self::Reads => match tokio::time::timeout(PATIENCE, api.store().barrier()).await {
                Ok(read) => read.map(|_| ()).map_err(|error| error.to_string()),
                Err(_) => Err(format!("the store does not answer within {} s", PATIENCE.as_secs())),
            },
            Self::Leader => fail(api.store().status().borrow().leader.is_none(), "no leader is known"),
            Self::Stays => fail(api.inner.stop.is_cancelled(), "the process is shutting down"),
        }
    }
}

/// How this server fares. Who leads is what a quorum says: a leader that nobody hears runs nothing.
pub(crate) async fn of(api: &Api) -> Health {
    let store = Check::Reads.run(api).await;
    let leader = Check::Leader.run(api).await.and_then(|()| store.clone());
    Health { store, leader }
}

/// Answers one of the health paths, or one check below it.
pub(crate) async fn answer(api: &Api, endpoint: &'static str, check: Option<&str>, params: &Params) -> Response<Body> {
    let checks = if endpoint == "livez" { LIVE } else { READY };
    if let Some(name) = check {
        return match checks.iter().find(|(known, _)| *known == name) {
            None => nothing(),
            Some((name, check)) => match check.run(api).await {
                Ok(()) => text(200, "ok".into()),
                Err(why) => text(500, format!("internal server error: {name}: {why}\n")),
            },
        };
    }
    let excluded: Vec<&str> = params.all("exclude").collect();
    let (mut lines, mut failed) = (String::new(), false);
    for (name, check) in checks {
        if excluded.contains(name) {
            let _ = writeln!(lines, "[+]{name} excluded: ok");
            continue;
        }
        let found = check.run(api).await;
        api.inner.looks.count(name, endpoint, found.is_ok());
        if let Err(why) = found {
            let _ = writeln!(lines, "[-]{name} failed: {why}");
            failed = true;
        } else {
            let _ = writeln!(lines, "[+]{name} ok");
        }
    }
    let unknown: Vec<String> = excluded
        .iter()
        .filter(|name| !checks.iter().any(|(known, _)| known == *name))
        .map(|n| format!("{n:?}"))
        .collect();
    if !unknown.is_empty() {
        let _ = writeln!(lines, "warn: some health checks cannot be excluded: no matches for {}", unknown.join(", "));
    }
    if failed {
        let _ = writeln!(lines, "{endpoint} check failed");
        return text(500, lines);
    }
    match params.raw("verbose") {
        Some(_) => text(200, format!("{lines}{endpoint} check passed\n")),
        None => text(200, "ok".into()),
    }
}

/// The answer where there is nothing at all.
pub(crate) fn nothing() -> Response<Body> {
    text(404, "404 page not found\n".into())
}

pub(crate) fn text(code: u16, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
