//! `/statusz` and `/flagz`: what a person is told of this server. Upstream: apiserver `pkg/server/{statusz,flagz}`.
//!
//! The text is for people, and there is no form of it to rely on. Who names a type of `config.k8s.io` gets an object.

use std::fmt::Write;

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use kontiki_machinery::Status;
use serde_json::{Value, json};

use crate::clock::format_time;
use crate::negotiate::{CBOR, Clause, Form, JSON, Media, Shape, YAML, clauses};
use crate::route::Page;
use crate::{Api, encode, health};

/// What upstream's API server calls itself here.
const COMPONENT: &str = "apiserver";
const GROUP: &str = "config.k8s.io";
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
const OLD: &str = VERSIONS[1];
const TEXT: &str = "text/plain";
/// In the order in which a wildcard finds them.
const MEDIA: [(&str, Option<Media>); 4] =
    [(JSON, Some(Media::Json)), (YAML, Some(Media::Yaml)), (TEXT, None), (CBOR, Some(Media::Cbor))];
/// What errors list.
const KNOWN: [&str; 3] = [JSON, YAML, TEXT];
/// Where there is something to look at.
const PATHS: [&str; 7] = ["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];

impl Page {
    fn kind(self) -> &'static str {
        match self {
            Self::Status => "Statusz",
            Self::Flags => "Flagz",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Status => "statusz",
            Self::Flags => "flagz",
        }
    }
}

/// The form that somebody wants a page in.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Text,
    Object { media: Media, version: &'static str, pretty: bool },
}

/// Answers one of the pages.
pub(crate) fn answer(api: &Api, page: Page, accept: Option<&str>) -> Result<Response<Body>, Status> {
    let shown = shown(page, accept).ok_or_else(|| Status::not_acceptable(&KNOWN))?;
    let content = content(api, page);
    let Shown::Object { media, version, pretty } = shown else { return Ok(health::text(200, text(page, &content))) };
    let mut object =
        json!({"apiVersion": format!("{GROUP}/{version}"), "kind": page.kind(), "metadata": {"name": COMPONENT}});
    object.as_object_mut().into_iter().for_each(|fields| fields.extend(content.clone()));
    let mut response = encode::in_form(&object, &Form { media, shape: Shape::Full, pretty })?;
    let full = format!("{};g={GROUP};v={version};as={}", media.name(), page.kind());
    if let Ok(full) = HeaderValue::from_str(&full) {
        response.headers_mut().insert(CONTENT_TYPE, full);
    }
    if version == OLD {
        let name = page.name();
        let old = format!("This version of the {name} endpoint is deprecated. Please use a newer version.");
        encode::add_warnings(&mut response, &[old]);
    }
    Ok(response)
}

/// `None`: there is no such form.
fn shown(page: Page, accept: Option<&str>) -> Option<Shown> {
    if accept.is_none_or(|accept| accept.trim().is_empty()) {
        return Some(Shown::Text);
    }
    clauses(accept).iter().find_map(|clause| MEDIA.iter().find_map(|(name, media)| of(page, clause, name, *media)))
}

fn of(page: Page, clause: &Clause, name: &str, media: Option<Media>) -> Option<Shown> {
    if !clause.matches(name) || clause.param("stream").is_some_and(|stream| !stream.is_empty()) {
        return None;
    }
    let asked = ["as", "g", "v"].map(|param| clause.param(param));
    let pretty = clause.param("pretty") == Some("1");
    match (media, asked) {
        (None, [None, None, None]) => Some(Shown::Text),
        (Some(media), [Some(kind), Some(GROUP), Some(version)]) if kind == page.kind() => {
            let version = VERSIONS.into_iter().find(|known| *known == version)?;
            Some(Shown::Object { media, version, pretty })
        }
        _ => None,
    }
}

/// What there is to say, by its names in objects.
fn content(api: &Api, page: Page) -> serde_json::Map<String, Value> {
    let value = match page {
        Page::Status => {
            let up = api.now().duration_since(api.inner.started).as_secs().max(0);
            json!({
                "startTime": format_time(api.inner.started), "uptimeSeconds": up, "goVersion": "",
                "binaryVersion": "1.37.0", "emulationVersion": "1.37", "paths": PATHS,
            })
        }
        Page::Flags => json!({ "flags": api.inner.config.flags }),
    };
    if let Value::Object(fields) = value { fields } else { serde_json::Map::new() }
}

fn text(page: Page, content: &serde_json::Map<String, Value>) -> String {
    let mut out = format!(
        "\n{COMPONENT} {}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
         guarantees and is for debugging purposes only.\n",
        page.name()
    );
    // A `String` takes everything.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name}{value}");
    };
    let word = |name: &str| content.get(name).and_then(Value::as_str).unwrap_or_default();
    match page {
        Page::Flags => {
            for (name, value) in content.get("flags").and_then(Value::as_object).into_iter().flatten() {
                line(&format!("{name}="), value.as_str().unwrap_or_default());
            }
        }
        Page::Status => {
            let up = content.get("uptimeSeconds").and_then(Value::as_i64).unwrap_or_default();
            line("", "");
            line("Started: ", &unix_date(word("startTime")));
            line("Up: ", &format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60));
            line("Go version: ", word("goVersion"));
            line("Binary version: ", word("binaryVersion"));
            line("Emulation version: ", word("emulationVersion"));
            line("Paths: ", &PATHS.join(" "));
        }
    }
    out
}

/// As `date` writes a time.
fn unix_date(time: &str) -> String {
    let time: Option<jiff::Timestamp> = time.parse().ok();
    time.map(|time| time.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_text_unless_a_type_is_named() {
        let object = |media, version| Some(Shown::Object { media, version, pretty: false });
        for (accept, expect) in [
            (None, Some(Shown::Text)),
            (Some(" "), Some(Shown::Text)),
            (Some("*/*"), Some(Shown::Text)),
            (Some("text/plain"), Some(Shown::Text)),
            (Some("text/*,application/json"), Some(Shown::Text)),
            (Some("application/json"), None),
            (Some("application/vnd.kubernetes.protobuf;g=config.k8s.io;v=v1beta1;as=Statusz"), None),
            (Some("application/json;g=config.k8s.io;v=v1beta1;as=Statusz"), object(Media::Json, "v1beta1")),
            (Some("application/json;g=config.k8s.io;v=v1beta1;as=Flagz"), None),
            (Some("application/json;g=config.k8s.io;v=v1;as=Statusz"), None),
            (Some("application/yaml;v=v1alpha1;g=config.k8s.io;as=Statusz"), object(Media::Yaml, "v1alpha1")),
            (Some("application/json;v=foo;g=config.k8s.io;as=Statusz,*/*"), Some(Shown::Text)),
            (Some("application/cbor;v=v1beta1;g=config.k8s.io;as=Statusz"), object(Media::Cbor, "v1beta1")),
        ] {
            assert_eq!(shown(Page::Status, accept), expect, "{accept:?}");
        }
    }
}
