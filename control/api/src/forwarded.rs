//! What passes between a client and a server behind, and what does not (Go's `httputil.ReverseProxy`).

use std::net::IpAddr;

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// Headers between two neighbours (RFC 9110, section 7.6.1).
pub(crate) const HOPS: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
];

/// Where a request comes from.
#[derive(Clone, Copy)]
pub(crate) struct Remote(pub IpAddr);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Adds the client to those that the request has been forwarded for.
pub(crate) fn tell(of: &Extensions, headers: &mut HeaderMap) {
    let Some(Remote(client)) = of.get::<Remote>() else { return };
    let before = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let all: Vec<&[u8]> = before.collect();
    let client = client.to_canonical().to_string();
    let all = [&all[..], &[client.as_bytes()]].concat().join(&b", "[..]);
    if let Ok(all) = HeaderValue::from_bytes(&all) {
        headers.insert(FORWARDED_FOR, all);
    }
}

/// Joins what both connections became.
pub(crate) async fn join(client: OnUpgrade, server: OnUpgrade) {
    match tokio::try_join!(client, server) {
        Ok((client, server)) => {
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            // Whoever ends first ends it; there is nobody to tell more.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
        Err(error) => tracing::debug!(%error, "a stream that was passed on did not begin"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_comes_last() {
        let none: &[&'static str] = &[];
        for (before, from, expect) in [
            (none, Some("192.0.2.1"), Some("192.0.2.1")),
            (&["192.0.2.7"], Some("::ffff:192.0.2.1"), Some("192.0.2.7, 192.0.2.1")),
            (&["a, b", "c"], Some("2001:db8::1"), Some("a, b, c, 2001:db8::1")),
            (&["a"], None, Some("a")),
            (none, None, None),
        ] {
            let (mut of, mut headers) = (Extensions::new(), HeaderMap::new());
            for &value in before {
                headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
            }
            if let Some(from) = from {
                of.insert(Remote(from.parse().expect("an address")));
            }
            tell(&of, &mut headers);
            assert_eq!(headers.get(FORWARDED_FOR).map(|value| value.to_str().expect("text")), expect, "{before:?}");
        }
    }
}
