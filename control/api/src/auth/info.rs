//! What a request asks for, as authorization sees it, where its path names nothing that is served: upstream judges by the
//! path alone (`RequestInfoFactory`), before it looks whether there is such a thing.

use http::Method;
use kontiki_machinery::access::Attributes;
use kontiki_model::resource::NAMESPACES;

use crate::params::Params;

/// Subresources of namespaces: `namespaces/a/status` is no resource called `status`.
const OF_NAMESPACES: [&str; 2] = ["status", "finalize"];

/// The verb of a method on a resource.
pub(crate) fn verb(method: &Method, named: bool, watching: bool) -> &'static str {
    match (method.as_str(), named) {
        ("POST", _) => "create",
        ("GET" | "HEAD", _) if watching => "watch",
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => "",
    }
}

/// What is asked of a path that no row serves; `method` in small letters.
pub(crate) fn unserved<'a>(method: &'a str, verb_of: &Method, path: &'a str, params: &Params) -> Attributes<'a> {
    let outside = Attributes { verb: method, path, ..Attributes::default() };
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, version, rest) = match &parts[..] {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return outside,
    };
    let (old_watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let (namespace, rest) = match rest {
        [place, namespace, inner @ ..] if *place == NAMESPACES.resource => {
            let own = inner.first().is_none_or(|first| OF_NAMESPACES.contains(first));
            (*namespace, if own { rest } else { inner })
        }
        rest => ("", rest),
    };
    let part = |at: usize| rest.get(at).copied().unwrap_or_default();
    let watching = old_watch || params.flag("watch").unwrap_or(false) && rest.len() < 2;
    let verb = verb(verb_of, rest.len() > 1, watching);
    Attributes {
        verb,
        group,
        version,
        namespace,
        resource: part(0),
        name: part(1),
        subresource: part(2),
        ..Attributes::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        for (path, expect) in [
            ("/apis", "get /apis"),
            ("/apis/x/v1", "get /apis/x/v1"),
            ("/metrics/a/b/c", "get /metrics/a/b/c"),
            ("/apis/x/v1/foos", "list x foos"),
            ("/apis/x/v1/foos?watch=1", "watch x foos"),
            ("/apis/x/v1/foos/one", "get x foos one"),
            ("/apis/x/v1/namespaces/a/foos/one/scale", "get x foos one scale a"),
            ("/api/v1/namespaces/a", "get  namespaces a  a"),
            ("/api/v1/namespaces/a/status", "get  namespaces a status a"),
            ("/api/v1/watch/foos", "watch  foos"),
        ] {
            let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
            let asked = unserved("get", &Method::GET, path, &Params::parse(query));
            let got = match asked.resource {
                "" => format!("{} {}", asked.verb, asked.path),
                resource => {
                    let parts = [asked.verb, asked.group, resource, asked.name, asked.subresource, asked.namespace];
                    parts.join(" ").trim_end().to_owned()
                }
            };
            assert_eq!(got, expect, "{path}");
        }
    }
}
