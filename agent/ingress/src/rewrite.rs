//! What changes in the head of a request on its way to a backend, and of the answer on its way back. Pure.
//!
//! Invariants
//! - What is meant for one connection (RFC 9110, 7.6.1) stays on it.
//! - Nobody but this proxy says who the client is: what a client says of itself is taken away.
//! - How a body is framed is said by its length here, not by what the other side wrote.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Beside those that begin with `x-forwarded-`.
const SAID_OF_ONESELF: [&str; 2] = ["forwarded", "x-real-ip"];
const OF_A_CONNECTION: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
];

/// What a backend is told of a request.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Who asks.
    pub client: IpAddr,
    /// Whether over TLS.
    pub secure: bool,
    /// The host that is asked for, with its port if it was named; empty if none was.
    pub authority: &'a str,
}

/// The protocol that a request or an answer changes to. HTTP/2 is none: its requests would pass by the routes.
#[must_use]
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let plain = |value: &&HeaderValue| {
        value.to_str().is_ok_and(|text| !text.split(',').any(|word| word.trim().to_ascii_lowercase().starts_with("h2")))
    };
    let asks = |text: &str| text.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let named = headers.get_all(CONNECTION).iter().any(|value| value.to_str().is_ok_and(asks));
    let mut protocols = headers.get_all(UPGRADE).iter();
    let protocol = protocols.next().filter(plain).filter(|_| named && protocols.next().is_none());
    protocol.cloned()
}

fn drop_those_of_the_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|word| word.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_A_CONNECTION) {
        headers.remove(name);
    }
}

/// Whether a server may take a header for one that says who the client is; some take `_` for `-`.
fn says_who(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    name.starts_with("x-forwarded-") || SAID_OF_ONESELF.contains(&name.as_str())
}

/// The head of a request as its backend gets it; `length` is that of the body, if it is known.
pub fn request(
    headers: &mut HeaderMap,
    method: &Method,
    seen: Seen<'_>,
    length: Option<u64>,
    upgrade: Option<&HeaderValue>,
) {
    drop_those_of_the_connection(headers);
    let said: Vec<HeaderName> = headers.keys().filter(|name| says_who(name)).cloned().collect();
    for name in said.iter().chain(&[EXPECT, PROXY_AUTHORIZATION]) {
        headers.remove(name);
    }
    join_cookies(headers);
    frame(headers, length, !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE));
    let authority = HeaderValue::from_str(seen.authority).unwrap_or(HeaderValue::from_static(""));
    let client = HeaderValue::from_str(&seen.client.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
    headers.insert(HOST, authority.clone());
    headers.insert(FORWARDED_FOR, client);
    if !seen.authority.is_empty() {
        headers.insert(FORWARDED_HOST, authority);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if seen.secure { "https" } else { "http" }));
    switch(headers, upgrade);
}

/// The head of an answer as its client gets it; `length` is that of the body, if it is known.
pub fn answer(
    headers: &mut HeaderMap,
    method: &Method,
    status: StatusCode,
    length: Option<u64>,
    upgrade: Option<&HeaderValue>,
) {
    drop_those_of_the_connection(headers);
    // An answer without a body may say how long it would be.
    let without = *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !without && upgrade.is_none() && length.is_none() {
        headers.remove(CONTENT_LENGTH);
    }
    switch(headers, upgrade);
}

fn switch(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
}

/// HTTP/2 may send each cookie in a field of its own; HTTP/1 has one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

fn frame(headers: &mut HeaderMap, length: Option<u64>, zero_is_said: bool) {
    headers.remove(CONTENT_LENGTH);
    match length {
        Some(0) if !zero_is_said => {}
        Some(length) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(length))),
        None => drop(headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> HeaderMap {
        let pairs = text.lines().filter_map(|line| line.trim().split_once(": "));
        let mut out = HeaderMap::new();
        for (name, value) in pairs {
            out.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
        }
        out
    }

    fn show(headers: &HeaderMap) -> String {
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        lines.sort();
        lines.join("\n")
    }

    #[test]
    fn a_backend_gets_what_is_meant_for_it() {
        const TOLD: &str = "x-forwarded-for: 9.9.9.9\nx-forwarded-host: a.b:80\nx-forwarded-proto: https";
        let cases = [
            ("plain", "host: a.b:80\naccept: x", Method::GET, Some(0), "accept: x\nhost: a.b:80\n"),
            (
                "what is of the connection",
                "host: x\nconnection: close, x-own, host\nx-own: 1\nkeep-alive: 5\nte: trailers\nproxy-authorization: p\n\
                 transfer-encoding: chunked\nupgrade: h2c\nexpect: 100-continue",
                Method::GET,
                Some(0),
                "host: a.b:80\n",
            ),
            (
                "what it says of itself",
                "x-forwarded-for: 1.1.1.1\nX-Forwarded-For: 2.2.2.2\nx_forwarded_for: 3.3.3.3\nx-forwarded-user: root\n\
                 forwarded: for=1.1.1.1\nx-real-ip: 1.1.1.1\nx-forward: stays",
                Method::GET,
                Some(0),
                "host: a.b:80\nx-forward: stays\n",
            ),
            ("cookies", "cookie: a=1\ncookie: b=2", Method::GET, Some(0), "cookie: a=1; b=2\nhost: a.b:80\n"),
            ("a length", "content-length: 7", Method::PUT, Some(5), "content-length: 5\nhost: a.b:80\n"),
            ("no body", "content-length: 7", Method::POST, Some(0), "content-length: 0\nhost: a.b:80\n"),
            ("nobody knows", "content-length: 7", Method::GET, None, "host: a.b:80\ntransfer-encoding: chunked\n"),
        ];
        for (title, given, method, length, expect) in cases {
            let mut all = headers(given);
            let seen = Seen { client: [9, 9, 9, 9].into(), secure: true, authority: "a.b:80" };
            request(&mut all, &method, seen, length, None);
            assert_eq!(show(&all), sorted(&format!("{expect}{TOLD}")), "{title}");
        }
    }

    fn sorted(text: &str) -> String {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }

    #[test]
    fn a_change_of_protocol_is_asked_for_and_answered() {
        let asking = headers("connection: keep-alive, Upgrade\nupgrade: websocket\nsec-websocket-key: k");
        let protocol = upgrade(&asking).expect("it asks");
        let mut asked = asking.clone();
        let seen = Seen { client: [9, 9, 9, 9].into(), secure: false, authority: "" };
        request(&mut asked, &Method::GET, seen, Some(0), Some(&protocol));
        assert_eq!(
            show(&asked),
            "connection: upgrade\nhost: \nsec-websocket-key: k\nupgrade: websocket\nx-forwarded-for: 9.9.9.9\nx-forwarded-proto: http"
        );
        for (title, text) in [
            ("not named", "upgrade: websocket"),
            ("no protocol", "connection: upgrade"),
            ("nothing", ""),
            ("HTTP/2", "connection: upgrade, http2-settings\nupgrade: h2c"),
            ("HTTP/2 among others", "connection: upgrade\nupgrade: websocket, H2C"),
            ("several", "connection: upgrade\nupgrade: websocket\nupgrade: h2c"),
        ] {
            assert_eq!(upgrade(&headers(text)), None, "{title}");
        }
    }

    #[test]
    fn an_answer_loses_what_is_of_the_connection() {
        let given = "connection: close\nkeep-alive: 5\ntransfer-encoding: chunked\ncontent-length: 7\nserver: s";
        for (title, method, status, length, expect) in [
            ("known", Method::GET, 200, Some(7), "content-length: 7\nserver: s"),
            ("unknown", Method::GET, 200, None, "server: s"),
            ("HEAD", Method::HEAD, 200, None, "content-length: 7\nserver: s"),
            ("not modified", Method::GET, 304, None, "content-length: 7\nserver: s"),
        ] {
            let mut all = headers(given);
            answer(&mut all, &method, StatusCode::from_u16(status).expect("a status"), length, None);
            assert_eq!(show(&all), expect, "{title}");
        }
    }
}
