//! URLs, as Go's `net/url` takes them.

use std::sync::Arc;

use super::extension::Extension;
use super::go::quote;
use super::table::{Row, row};
use crate::value::{EvalError, NO_OVERLOAD, OwnMap, Res, Value, failure};

/// A URL taken apart.
#[derive(Clone, Debug)]
pub struct Url {
    pub text: String,
    pub scheme: String,
    pub host: String,
    /// As it is sent.
    pub path: String,
    pub query: String,
}

const PART: &str = "url.() -> string";

pub(crate) static ROWS: &[Row] = &[
    row(0, "url", "string_to_url", "(string) -> url", |args| {
        let text = args[0].as_str().ok_or(NO_OVERLOAD)?;
        let wrong = |why: String| failure(format!("URL parse error during conversion from string: {why}"));
        parse(text, true).map_err(wrong)?;
        let url = parse(text, false).map_err(wrong)?;
        Ok(Value::Extension(Extension::Url(Arc::new(url))))
    }),
    row(0, "isURL", "is_url_string", "(string) -> bool", |args| {
        Ok(Value::Bool(parse(args[0].as_str().ok_or(NO_OVERLOAD)?, true).is_ok()))
    }),
    row(0, "getScheme", "url_get_scheme", PART, |args| Ok(Value::text(url(args)?.scheme.as_str()))),
    row(0, "getHost", "url_get_host", PART, |args| Ok(Value::text(url(args)?.host.as_str()))),
    row(0, "getHostname", "url_get_hostname", PART, |args| Ok(Value::text(split_port(&url(args)?.host).0))),
    row(0, "getPort", "url_get_port", PART, |args| Ok(Value::text(split_port(&url(args)?.host).1))),
    row(0, "getEscapedPath", "url_get_escaped_path", PART, |args| Ok(Value::text(url(args)?.path.as_str()))),
    row(0, "getQuery", "url_get_query", "url.() -> map(string, list(string))", query),
];

fn url<'v>(args: &'v [Value<'_>]) -> Result<&'v Url, EvalError> {
    match &args[0] {
        Value::Extension(Extension::Url(url)) => Ok(url),
        _ => Err(NO_OVERLOAD),
    }
}

fn split_port(host: &str) -> (&str, &str) {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') && port.bytes().all(|b| b.is_ascii_digit()) => (name, port),
        _ => (host, ""),
    };
    (name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name), port)
}

fn query<'a>(args: &[Value<'a>]) -> Res<'a> {
    let mut grouped: Vec<(String, Vec<String>)> = Vec::new();
    for pair in url(args)?.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| unescape(&text.replace('+', " "));
        let (Ok(key), Ok(value)) = (decode(key), decode(value)) else { continue };
        match grouped.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) => values.push(value),
            None => grouped.push((key, vec![value])),
        }
    }
    let mut map = OwnMap::default();
    for (key, values) in grouped {
        map.set(Value::text(key), Value::texts(values))?;
    }
    Ok(Value::Map(crate::value::Map::own(map)))
}

/// `whole`: as a request's URL is, absolute and without a fragment.
///
/// # Errors
/// Go's sentence.
pub(crate) fn parse(text: &str, whole: bool) -> Result<Url, String> {
    let body = if whole { text } else { text.split_once('#').map_or(text, |(body, _)| body) };
    parts(body, whole)
        .map(|(scheme, host, path, query)| Url { text: text.to_owned(), scheme, host, path, query })
        .map_err(|why| format!("parse {}: {why}", quote(text)))
}

type Parts = (String, String, String, String);

fn parts(text: &str, whole: bool) -> Result<Parts, String> {
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() && whole {
        return Err("empty url".to_owned());
    }
    if text == "*" {
        return Ok((String::new(), String::new(), "*".to_owned(), String::new()));
    }
    let (scheme, rest) = scheme(text)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, query) = (scheme.to_ascii_lowercase(), query.to_owned());
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            return Ok((scheme, String::new(), String::new(), query));
        }
        if whole {
            return Err("invalid URI for request".to_owned());
        }
        if rest.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let authority = (!scheme.is_empty() || !whole && !rest.starts_with("///")) && rest.starts_with("//");
    let (host, path) = match authority {
        true => {
            let rest = &rest[2..];
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (host(authority)?, path)
        }
        false => (String::new(), rest),
    };
    Ok((scheme, host, escaped(path)?, query))
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

fn host(authority: &str) -> Result<String, String> {
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            let valid = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
            if !user.chars().all(valid) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            host
        }
        None => authority,
    };
    let port = match host.strip_prefix('[') {
        Some(inner) => inner.rsplit_once(']').ok_or("missing ']' in host")?.1,
        None => host.find(':').map_or("", |_| &host[host.rfind(':').unwrap_or(0)..]),
    };
    let digits = port.strip_prefix(':');
    if !port.is_empty() && !digits.is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("invalid port {} after host", quote(port)));
    }
    if host.contains('%') && !host.starts_with('[') {
        let decoded = unescape(host)?;
        // What is not ASCII may be escaped in a host, and nothing else.
        if let Some(at) = host.find('%')
            && decoded.is_ascii()
        {
            return Err(format!("invalid URL escape {}", quote(host.get(at..at + 3).unwrap_or("%"))));
        }
        return Ok(decoded);
    }
    let valid = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
    match host.chars().find(|c| !valid(*c)) {
        Some(c) => Err(format!("invalid character {} in host name", quote(&c.to_string()))),
        None => Ok(host.to_owned()),
    }
}

/// A path as it is sent: as it was given, if it may be sent so.
fn escaped(path: &str) -> Result<String, String> {
    let decoded = unescape_bytes(path)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
    if path.bytes().all(|byte| plain(byte) || b"!'()*[]%".contains(&byte)) {
        return Ok(path.to_owned());
    }
    let mut out = String::with_capacity(path.len() + 16);
    for byte in decoded {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    Ok(out)
}

fn unescape_bytes(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        if bytes[at] != b'%' {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        let digits = text.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let Some(value) = value else {
            let shown = text.get(at..(at + 3).min(text.len())).unwrap_or("%");
            return Err(format!("invalid URL escape {}", quote(shown)));
        };
        out.push(value);
        at += 3;
    }
    Ok(out)
}

fn unescape(text: &str) -> Result<String, String> {
    unescape_bytes(text).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
