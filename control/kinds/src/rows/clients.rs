//! Where servers call others: by URL, or a service.

use serde_json::Value;

use super::value::{get, int, some, text};
use super::vocab::{self, Errors};
use crate::{FieldError, Path};

/// Checks who is called: a URL or a service, not both and not neither (`missing`).
pub fn check(errs: &mut Errors, path: &Path, client: &Value, missing: &str) {
    match (some(client, "url"), some(client, "service")) {
        (Some(_), None) => check_url(errs, &path.child("url"), text(client, "url")),
        (None, Some(service)) => check_service(errs, &path.child("service"), service),
        _ => errs.push(FieldError::required(path, missing)),
    }
}

const FORM: &str = "; desired format: https://host[/path]";

/// The parts of a URL as Go's `net/url` sees them.
struct Url<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

fn parse(text: &str) -> Result<Url<'_>, String> {
    let wrong = |why: &str| Err(format!("parse {}: {why}", crate::field_error::quote(text)));
    if text.bytes().any(|c| c < 0x20 || c == 0x7f) {
        return wrong("net/url: invalid control character in URL");
    }
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (scheme, rest) = match rest.split_once(':') {
        Some(("", _)) => return wrong("missing protocol scheme"),
        Some((scheme, after)) if is_scheme(scheme) => (scheme, after),
        Some((first, _)) if !first.contains(['/', '?']) && !rest.starts_with('/') => {
            return wrong("first path segment in URL cannot contain colon");
        }
        _ => ("", rest),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let Some(rest) = rest.strip_prefix("//") else {
        return Ok(Url { scheme, user: None, host: "", query, fragment });
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.contains(' ') {
        return wrong("invalid character \" \" in host name");
    }
    let port = if host.starts_with('[') { host.split_once(']').map_or("", |(_, after)| after) } else { host };
    if let Some((_, port)) = port.split_once(':').filter(|(_, port)| !port.bytes().all(|c| c.is_ascii_digit())) {
        return wrong(&format!("invalid port {} after host", crate::field_error::quote(&format!(":{port}"))));
    }
    Ok(Url { scheme, user, host, query, fragment })
}

fn is_scheme(text: &str) -> bool {
    text.bytes().next().is_some_and(|c| c.is_ascii_alphabetic())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
}

fn check_url(errs: &mut Errors, path: &Path, text: &str) {
    let url = match parse(text) {
        Ok(url) => url,
        Err(why) => {
            errs.push(FieldError::required(path, format!("url must be a valid URL: {why}{FORM}")));
            return;
        }
    };
    if url.scheme.to_lowercase() != "https" {
        let message = format!("'https' is the only allowed URL scheme{FORM}");
        errs.push(FieldError::invalid(path, url.scheme.to_lowercase(), message));
    }
    if url.host.is_empty() {
        errs.push(FieldError::invalid(path, url.host, format!("host must be specified{FORM}")));
    }
    if let Some(user) = url.user {
        errs.push(FieldError::invalid(path, user, "user information is not permitted in the URL"));
    }
    for (part, what) in [(url.fragment, "fragments"), (url.query, "query parameters")] {
        if !part.is_empty() {
            errs.push(FieldError::invalid(path, part, format!("{what} are not permitted in the URL")));
        }
    }
}

fn check_service(errs: &mut Errors, path: &Path, service: &Value) {
    // Upstream mixes the two up: each is missed in the other's name.
    for (field, reported) in [("namespace", "name"), ("name", "namespace")] {
        if text(service, field).is_empty() {
            errs.push(FieldError::required(path.child(reported), ""));
        }
    }
    check_port(errs, &path.child("port"), int(service, "port").unwrap_or(0));
    if some(service, "path").is_some() {
        check_path(errs, &path.child("path"), text(service, "path"));
    }
}

/// The port of a service.
pub fn check_port(errs: &mut Errors, path: &Path, port: i64) {
    let problems = vocab::port_errors(port);
    if !problems.is_empty() {
        errs.push(FieldError::invalid(path, port, format!("port is not valid: {}", problems.join(", "))));
    }
}

fn check_path(errs: &mut Errors, path: &Path, text: &str) {
    let mut wrong = |why: String| errs.push(FieldError::invalid(path, text, why));
    match text {
        "" | "/" => return,
        "//" => return wrong("segment[0] may not be empty".to_owned()),
        _ => {}
    }
    if !text.starts_with('/') {
        wrong("must start with a '/'".to_owned());
    }
    // The first character is the slash, or should be.
    let mut chars = text.chars();
    chars.next();
    let steps = chars.as_str();
    for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            wrong(format!("segment[{i}] may not be empty"));
        } else {
            vocab::subdomain_errors(step).into_iter().for_each(|why| wrong(format!("segment[{i}]: {why}")));
        }
    }
}

/// The text of a field that names a service: `namespace/name`.
#[must_use]
pub fn show(service: &Value) -> String {
    let field = |name: &str| get(service, name).as_str().unwrap_or_default();
    format!("{}/{}", field("namespace"), field("name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn callers_name_a_url_or_a_service() {
        let service = |path: &str| json!({"service": {"name": "s", "namespace": "n", "port": 443, "path": path}});
        for (client, expect) in [
            (json!({"url": "https://a/b"}), ""),
            (json!({"url": "https://[::1]:8443/b"}), ""),
            (json!({}), "c: Required value: one"),
            (json!({"url": "http://a"}), "\"http\": 'https' is the only allowed URL scheme"),
            (json!({"url": "https:///a"}), "host must be specified"),
            (json!({"url": "https://u@a"}), "user information"),
            (json!({"url": "https://a?b"}), "query parameters"),
            (json!({"url": "https://a#b"}), "fragments"),
            (json!({"url": "https://a:b"}), "invalid port \":b\" after host"),
            (json!({"url": "a b:c"}), "url must be a valid URL"),
            (service("/a/b/"), ""),
            (service("//"), "segment[0] may not be empty"),
            (service("/a//b"), "segment[1] may not be empty"),
            (service("/A"), "segment[0]: a lowercase RFC 1123 subdomain"),
            (json!({"service": {"name": "s", "port": 0, "namespace": "n"}}), "port is not valid"),
            (json!({"service": {"name": "s", "port": 1}}), "c.service.name: Required value"),
        ] {
            let mut errs = Errors::new();
            check(&mut errs, &Path::new("c"), &client, "one");
            let found = errs.first().map(ToString::to_string).unwrap_or_default();
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{client}: {found}");
        }
    }
}
