//! Answers of servers behind the API, with addresses as the client has to ask for them.
//!
//! Source: `apimachinery/pkg/util/proxy/transport.go`. As there, addresses of the same server that begin at its root get
//! the path of the proxy before them: the `Location` of a redirect, else the links of a page in HTML, whether it is
//! packed by gzip, by deflate, or not at all. Others are as they were. There an address of another scheme than HTTP that
//! has a path gets the prefix, too, which breaks scripts in links; not here.

use axum::body::Body;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_LENGTH, CONTENT_TYPE, LOCATION,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use super::page::{Packing, pages};

/// Who may read answers of this API in a browser is not for servers behind it to say.
static CROSS_ORIGIN: [HeaderName; 4] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// Where a server behind is, as it sees that and as the client does.
#[derive(Debug)]
pub(super) struct Way {
    /// Path to the object's `proxy`.
    pub prefix: String,
    /// Its address; empty if it has none.
    pub server: String,
    /// The host that the client asked for.
    pub host: String,
}

/// An address as it is to be asked for: what stays of its beginning, and what follows the prefix, if it gets that.
struct Led<'a> {
    origin: &'a [u8],
    prefixed: bool,
    rest: &'a [u8],
}

impl Way {
    /// Where `to` leads; `None`: it stays as it is.
    fn led<'a>(&self, to: &'a [u8]) -> Option<Led<'a>> {
        let (origin, host, rest) = split(to)?;
        let ours = host == self.host.as_bytes();
        let elsewhere = !host.is_empty() && !ours && host != self.server.as_bytes();
        let path = &rest[..rest.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(rest.len())];
        if elsewhere || !path.starts_with(b"/") || !is_url(to) {
            return None;
        }
        let prefixed = !path.starts_with(self.prefix.as_bytes());
        let origin = if ours { origin } else { &[] };
        (prefixed || origin.len() + rest.len() < to.len()).then_some(Led { origin, prefixed, rest })
    }

    /// A link of a page.
    fn link(&self, to: &[u8]) -> Option<Vec<u8>> {
        let Led { origin, prefixed, rest } = self.led(to)?;
        let prefix = if prefixed { escaped(&self.prefix) } else { String::new() };
        Some([origin, prefix.as_bytes(), rest].concat())
    }

    /// A redirect.
    fn redirect(&self, to: &HeaderValue) -> Option<HeaderValue> {
        let Led { origin, prefixed, rest } = self.led(to.as_bytes())?;
        let prefix = if prefixed { self.prefix.as_bytes() } else { &[] };
        HeaderValue::from_bytes(&[origin, prefix, rest].concat()).ok()
    }
}

/// Scheme and authority of an address as they stand there, its host, and the rest; `None`: it is no page's.
fn split(to: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let scheme = to.iter().position(|byte| !byte.is_ascii_alphanumeric() && !b"+-.".contains(byte));
    let after = match scheme {
        Some(at) if at > 0 && to[at] == b':' => at + 1,
        _ => 0,
    };
    let is_page =
        after == 0 || [&b"http:"[..], b"https:"].iter().any(|scheme| to[..after].eq_ignore_ascii_case(scheme));
    let Some(authority) = to[after..].strip_prefix(b"//").filter(|_| is_page) else {
        return is_page.then_some((&to[..after], &[], &to[after..]));
    };
    let length = authority.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(authority.len());
    let (authority, rest) = authority.split_at(length);
    let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or(authority);
    Some((&to[..to.len() - rest.len()], host, rest))
}

/// Whether Go's `url.Parse` takes it, as far as that matters here.
fn is_url(to: &[u8]) -> bool {
    let path = to.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or(to);
    let hex = |at: usize| path.get(at).is_some_and(u8::is_ascii_hexdigit);
    let mut escapes = path.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    !to.iter().any(u8::is_ascii_control) && escapes.all(|(at, _)| hex(at + 1) && hex(at + 2))
}

/// As a value of an attribute.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(letter),
        }
    }
    out
}

/// The answer as the client gets it. `has_body`: a HEAD has none, whatever its headers say.
pub(super) fn answer(way: Way, response: Response<Body>, has_body: bool) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    CROSS_ORIGIN.iter().for_each(|name| drop(head.headers.remove(name)));
    if let Some(to) = head.headers.get(LOCATION) {
        if let Some(to) = way.redirect(to) {
            head.headers.insert(LOCATION, to);
        }
        return Response::from_parts(head, body);
    }
    let packing = Packing::of(&head.headers).filter(|_| has_body && is_html(&head.headers));
    let Some(packing) = packing else { return Response::from_parts(head, body) };
    head.headers.remove(CONTENT_LENGTH);
    let page = pages(packing, move |to: &[u8]| way.link(to), body);
    Response::from_parts(head, Body::from_stream(page))
}

fn is_html(headers: &HeaderMap) -> bool {
    let media = headers.get(CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    media.split(';').next().unwrap_or_default().trim() == "text/html"
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures::stream;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::sub::page::tests::{PAGE, packed, unpacked};

    fn way() -> Way {
        Way { prefix: "/api/v1/namespaces/d/pods/p/proxy".into(), server: "10.1.0.2:80".into(), host: "c:6443".into() }
    }

    #[test]
    fn addresses_of_the_server_get_the_prefix() {
        for (to, expect) in [
            ("/", "P/"),
            ("/login?next=/#a", "P/login?next=/#a"),
            ("/%41 b", "P/%41 b"),
            ("https://c:6443/x", "https://c:6443P/x"),
            ("//c:6443/x", "//c:6443P/x"),
            ("https://u:p@c:6443/x", "https://u:p@c:6443P/x"),
            ("http://10.1.0.2:80/x", "P/x"),
            ("http://10.1.0.2:80P/x", "P/x"),
            ("http://10.1.0.2:8080/x", "="),
            ("https://elsewhere/x", "="),
            ("//elsewhere/x", "="),
            ("https://c:6443", "="),
            ("https://c:6443?x=/", "="),
            ("P/x", "="),
            ("x/y", "="),
            ("?x=/", "="),
            ("#/x", "="),
            ("", "="),
            ("javascript:alert('/x')", "="),
            ("mailto:/x", "="),
            ("javascript://c:6443/%0aalert(1)", "="),
            ("http:/x", "P/x"),
            ("1http:/x", "="),
            ("/%zz", "="),
            ("/x?%zz", "P/x?%zz"),
            ("/a\nb", "="),
            (" /x", "="),
        ] {
            let full = |text: &str| text.replace('P', &way().prefix);
            let link = way().link(full(to).as_bytes());
            let link = link.map_or("=".to_owned(), |link| String::from_utf8(link).expect("text"));
            let expect = full(expect);
            assert_eq!(link, expect, "{to}");
        }
        let odd = Way { prefix: "/a'\"<&/proxy".into(), server: String::new(), host: String::new() };
        assert_eq!(odd.link(b"/x").as_deref(), Some(&b"/a&#39;&#34;&lt;&amp;/proxy/x"[..]));
    }

    const REWRITTEN: &str = "<html><a href='/api/v1/namespaces/d/pods/p/proxy/x?a&amp;b'>\u{e9}</a></html>";

    async fn passed(headers: &[(&str, &str)], body: Vec<u8>, has_body: bool) -> (HeaderMap, Result<Vec<u8>, String>) {
        let length = body.len().to_string();
        let pieces: Vec<Vec<u8>> = body.chunks(5).map(<[u8]>::to_vec).collect();
        let body = Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, io::Error>)));
        let mut response = Response::builder().header(CONTENT_LENGTH, length);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let (head, body) = answer(way(), response.body(body).expect("a response"), has_body).into_parts();
        let body = body.collect().await.map(|body| body.to_bytes().to_vec()).map_err(|error| error.to_string());
        (head.headers, body)
    }

    #[tokio::test]
    async fn pages_are_rewritten_however_they_are_packed() {
        for (how, media, has_body, expect) in [
            ("", "text/html", true, REWRITTEN),
            ("", "text/html; charset=utf-8", true, REWRITTEN),
            ("gzip", "text/html", true, REWRITTEN),
            ("deflate", "text/html", true, REWRITTEN),
            ("br", "text/html", true, PAGE),
            ("", "text/plain", true, PAGE),
            ("", "application/xhtml+xml", true, PAGE),
            ("", "text/html", false, PAGE),
        ] {
            let headers = [("content-type", media), ("content-encoding", how)];
            let headers = if how.is_empty() { &headers[..1] } else { &headers[..] };
            let (head, body) = passed(headers, packed(how), has_body).await;
            assert_eq!(unpacked(how, &body.expect("a body")), expect, "{how} {media}");
            assert_eq!(head.contains_key(CONTENT_LENGTH), expect == PAGE, "{how} {media}");
        }
    }

    #[tokio::test]
    async fn redirects_keep_their_page_and_cross_origin_headers_go() {
        let headers = [
            ("location", "http://10.1.0.2:80/a?b"),
            ("content-type", "text/html"),
            ("access-control-allow-origin", "*"),
            ("access-control-max-age", "1"),
        ];
        let (head, body) = passed(&headers, packed(""), true).await;
        assert_eq!(head[LOCATION], "/api/v1/namespaces/d/pods/p/proxy/a?b");
        assert_eq!(body.as_deref(), Ok(PAGE.as_bytes()));
        assert!(!head.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) && head.contains_key("access-control-max-age"));
    }

    #[tokio::test]
    async fn what_is_not_packed_as_it_says_breaks_off() {
        let headers = [("content-type", "text/html"), ("content-encoding", "gzip")];
        assert!(passed(&headers, b"no gzip at all".to_vec(), true).await.1.is_err());
        let mut cut = packed("gzip");
        cut.truncate(cut.len() - 9);
        assert!(passed(&headers, cut, true).await.1.is_err());
    }
}
