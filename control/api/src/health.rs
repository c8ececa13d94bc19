//! `/livez`, `/readyz`, `/healthz`.

use std::fmt::Write;

use axum::body::Body;
use http::Response;
use http::header::CONTENT_TYPE;

use crate::Api;
use crate::params::Params;

type Check = (&'static str, fn(&Api) -> Result<(), String>);

const LIVE: &[Check] = &[("ping", |_| Ok(())), ("log", |_| Ok(()))];
const READY: &[Check] =
    &[("ping", |_| Ok(())), ("log", |_| Ok(())), ("raft-leader", has_leader), ("shutdown", not_stopping)];

fn has_leader(api: &Api) -> Result<(), String> {
    match api.store().status().borrow().leader {
        Some(_) => Ok(()),
        None => Err("no leader is known".to_owned()),
    }
}

fn not_stopping(api: &Api) -> Result<(), String> {
    if api.inner.stop.is_cancelled() { Err("the process is shutting down".to_owned()) } else { Ok(()) }
}

/// Answers one of the health paths, or one check below it.
pub(crate) fn answer(api: &Api, endpoint: &str, check: Option<&str>, params: &Params) -> Response<Body> {
    let checks = if endpoint == "livez" { LIVE } else { READY };
    if let Some(name) = check {
        return match checks.iter().find(|(known, _)| *known == name) {
            None => text(404, "404 page not found\n".into()),
            Some((name, run)) => match run(api) {
                Ok(()) => text(200, "ok".into()),
                Err(why) => text(500, format!("internal server error: {name}: {why}\n")),
            },
        };
    }
    let excluded: Vec<&str> = params.all("exclude").collect();
    let (mut lines, mut failed) = (String::new(), Vec::new());
    for (name, run) in checks {
        if excluded.contains(name) {
            let _ = writeln!(lines, "[+]{name} excluded: ok");
        } else if let Err(why) = run(api) {
            let _ = writeln!(lines, "[-]{name} failed: {why}");
            failed.push(*name);
        } else {
            let _ = writeln!(lines, "[+]{name} ok");
        }
    }
    if !failed.is_empty() {
        let _ = writeln!(lines, "{endpoint} check failed");
        return text(500, lines);
    }
    match params.raw("verbose") {
        Some(_) => text(200, format!("{lines}{endpoint} check passed\n")),
        None => text(200, "ok".into()),
    }
}

pub(crate) fn text(code: u16, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
