//! From a path to what it names. The resource table is the only source of resource paths.
//!
//! Upstream answers an unknown path inside a known API with a Status and any other one with plain
//! text; both are told apart here.

use std::sync::Arc;

use kontiki_machinery::{Handler, ResourceDef, Subresource, Table};
use kontiki_model::resource::NAMESPACES;
use percent_encoding::percent_decode_str;

/// What a path names.
pub(crate) enum Route {
    Resource(ResourcePath),
    /// A part that the object of a custom kind does not have: 404 as a Status that names the object.
    NoPart(ResourcePath),
    /// `/api`, `/apis`
    Versions,
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`
    GroupVersion(String, String),
    /// `/openapi/v2`, `/openapi/v3`, `/openapi/v3/<path>`
    OpenApiV2,
    OpenApiV3(Option<String>),
    Version,
    /// `/.well-known/openid-configuration`, `/openid/v1/jwks`: how to check ServiceAccount tokens.
    OpenIdConfiguration,
    OpenIdKeys,
    /// `/livez`, `/readyz`, `/healthz`, and one check below them
    Health(&'static str, Option<String>),
    Metrics,
    /// `/metrics/slis`
    Looks,
    /// `/statusz`, `/flagz`
    Page(Page),
    Root,
    /// Nothing, inside an API of built-in kinds: 404 as a Status.
    UnknownInApi,
    /// Nothing at all, or nothing in a group of custom kinds: extra routes, else 404 in plain text.
    Unknown,
}

/// What a person is told of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// How it runs.
    Status,
    /// How it is configured.
    Flags,
}

/// A path to a resource, an object or a subresource.
#[derive(Clone)]
pub(crate) struct ResourcePath {
    pub def: Arc<ResourceDef>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub sub: Option<Arc<Subresource>>,
    /// The old `/watch/` form.
    pub watch: bool,
}

/// Finds out what `path` (as sent) names.
pub(crate) fn route(table: &Table, path: &str) -> Route {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let trimmed = decoded.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(&decoded);
    match trimmed {
        "/" => return Route::Root,
        "/api" => return Route::Versions,
        "/apis" => return Route::Groups,
        "/version" => return Route::Version,
        "/metrics" => return Route::Metrics,
        "/metrics/slis" => return Route::Looks,
        "/.well-known/openid-configuration" => return Route::OpenIdConfiguration,
        "/openid/v1/jwks" => return Route::OpenIdKeys,
        "/statusz" => return Route::Page(Page::Status),
        "/flagz" => return Route::Page(Page::Flags),
        "/openapi/v2" => return Route::OpenApiV2,
        "/openapi/v3" => return Route::OpenApiV3(None),
        _ => {}
    }
    if let Some(rest) = trimmed.strip_prefix("/openapi/v3/") {
        return Route::OpenApiV3(Some(rest.to_owned()));
    }
    if let Some(health) = health(&decoded) {
        return health;
    }
    let mut segments = trimmed.split('/').skip(1);
    match segments.next() {
        Some("api") => in_api(table, "", &segments.collect::<Vec<_>>()),
        Some("apis") => {
            let rest: Vec<&str> = segments.collect();
            let group = rest.first().copied().unwrap_or_default();
            if group.is_empty() || !table.has_group(group) {
                return Route::Unknown;
            }
            match in_api(table, group, &rest[1..]) {
                // Upstream's handler of custom kinds leaves what it does not serve to nobody.
                Route::UnknownInApi if table.is_custom(group) => Route::Unknown,
                found => found,
            }
        }
        _ => Route::Unknown,
    }
}

fn health(path: &str) -> Option<Route> {
    for name in ["livez", "readyz", "healthz"] {
        if let Some(rest) = path.strip_prefix('/').and_then(|p| p.strip_prefix(name)) {
            return match rest.strip_prefix('/') {
                None if rest.is_empty() => Some(Route::Health(name, None)),
                Some(check) => Some(Route::Health(name, Some(check.to_owned()))),
                None => None,
            };
        }
    }
    None
}

/// `segments` follow `/api` or `/apis/<group>`.
fn in_api(table: &Table, group: &str, segments: &[&str]) -> Route {
    let Some((version, rest)) = segments.split_first() else { return Route::Group(group.to_owned()) };
    if !table.has_version(group, version) {
        return Route::UnknownInApi;
    }
    if rest.is_empty() {
        return Route::GroupVersion(group.to_owned(), (*version).to_owned());
    }
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    resource(table, group, version, rest, watch).unwrap_or(Route::UnknownInApi)
}

fn resource(table: &Table, group: &str, version: &str, segments: &[&str], watch: bool) -> Option<Route> {
    let find = |plural: &str| table.find(group, version, plural);
    if let [place, namespace, plural, rest @ ..] = segments
        && *place == NAMESPACES.resource
        && !namespace.is_empty()
        && let Some(def) = find(plural).filter(|def| def.namespaced())
    {
        return object(def, Some(namespace), rest, watch);
    }
    let (plural, rest) = segments.split_first()?;
    let def = find(plural)?;
    if def.namespaced() && !rest.is_empty() {
        return None;
    }
    object(def, None, rest, watch)
}

fn object(def: &Arc<ResourceDef>, namespace: Option<&str>, rest: &[&str], watch: bool) -> Option<Route> {
    let path = |name: Option<&str>, sub: Option<&Arc<Subresource>>| ResourcePath {
        def: Arc::clone(def),
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        sub: sub.cloned(),
        watch,
    };
    Some(Route::Resource(match rest {
        [] => path(None, None),
        [name] if !name.is_empty() => path(Some(name), None),
        [name, sub, ..] if !name.is_empty() && !watch && def.is_custom() && def.subresource(sub).is_none() => {
            return Some(Route::NoPart(path(Some(name), None)));
        }
        [name, sub] if !name.is_empty() && !watch => path(Some(name), Some(def.subresource(sub)?)),
        // What follows is the path behind the object, which nobody here reads.
        [name, sub, ..] if !name.is_empty() && !watch => {
            let sub = def.subresource(sub).filter(|sub| matches!(sub.handler, Handler::Proxy(_)))?;
            path(Some(name), Some(sub))
        }
        _ => return None,
    }))
}
