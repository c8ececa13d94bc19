//! What is served besides resources: discovery, OpenAPI, health, metrics, the version, and the routes of whoever assembled
//! us.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response};
use kontiki_machinery::delegate::Delegate;
use kontiki_machinery::openapi::Document;
use kontiki_machinery::{Status, Table};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::auth::identity::MASTERS;
use crate::body::{MAX_BODY, header, whole};
use crate::encode;
use crate::negotiate::{Media, clauses};
use crate::params::Params;
use crate::route::Route;
use crate::{Api, User, aggregate, behind, discovery, health, openapi, zpages};

/// Everything that is not a resource.
pub(crate) async fn plain(
    api: &Api,
    table: &Arc<Table>,
    local: SocketAddr,
    user: &User,
    route: Route,
    head: &Parts,
    body: &mut Option<Body>,
) -> Result<Response<Body>, Status> {
    let accept = header(&head.headers, &ACCEPT);
    let accept = accept.as_deref();
    let params = Params::parse(head.uri.query());
    match route {
        Route::Unknown => return extra(api, user, head, body).await,
        Route::UnknownInApi => return Err(Status::no_such_resource()),
        _ if head.method != Method::GET && !any_method(&route) => return Err(Status::method_not_allowed()),
        _ => {}
    }
    let document = |value: Value| encode::document(&value, accept, &params);
    match route {
        Route::Versions | Route::Groups => {
            let core = matches!(route, Route::Versions);
            if let Some(media) = aggregated_media(accept) {
                return aggregated(api, table, core, media, head).await;
            }
            document(if core {
                discovery::core_versions(local.ip(), local.port())
            } else {
                let mut list = discovery::group_list(table);
                behind::add_to_list(&mut list, &behind::delegates(api, table));
                list
            })
        }
        Route::Group(group) => {
            let own = discovery::group(table, &group);
            let found = behind::add_to_group(own, &group, &behind::delegates(api, table));
            document(found.ok_or_else(Status::no_such_resource)?)
        }
        Route::GroupVersion(group, version) => document(discovery::resource_list(table, &group, &version)),
        Route::Version => encode::json_document(&version(api), accept, &params),
        Route::OpenApiV2 => {
            let (of, version) = (Arc::clone(table), git_version(api));
            let own = openapi::apart(move || of.documents().v2(&version)).await?;
            let all = api.inner.specs.merged(table, own, &behind::delegates(api, table)).await?;
            openapi::v2(&all, head).await
        }
        Route::OpenApiV3(None) => {
            let (of, delegates) = (Arc::clone(table), behind::delegates(api, table));
            let own = openapi::apart(move || of.documents().v3_index()).await?;
            match delegates.is_empty() {
                true => openapi::v3_index(&own, head).await,
                false => openapi::v3_index(&api.inner.specs.index(&own, &delegates)?, head).await,
            }
        }
        Route::OpenApiV3(Some(name)) => match behind::documents_server(api, table, &name) {
            Some(server) => {
                let mut head = head.clone();
                Ok(aggregate::pass_on(api, &server, user, &mut head, Body::empty()).await)
            }
            None => openapi::v3(table, &name, head, api.now()).await,
        },
        Route::Health(endpoint, check) => Ok(health::answer(api, endpoint, check.as_deref(), &params).await),
        Route::OpenIdConfiguration => Ok(public("application/json", &openid_configuration(api))),
        Route::OpenIdKeys => Ok(public("application/jwk-set+json", &json!({"keys": [api.inner.keys.public]}))),
        Route::Metrics => Ok(health::text(200, api.metrics_text())),
        Route::Looks => Ok(health::text(200, api.inner.looks.text())),
        Route::Page(page) => zpages::answer(api, page, accept),
        Route::Root => encode::json_document(&root(table), accept, &params),
        Route::Resource(_) | Route::NoPart(_) | Route::Unknown | Route::UnknownInApi => Err(Status::no_such_resource()),
    }
}

/// Discovery as one document. What is served here is kept; what others serve is added when it is asked for.
async fn aggregated(
    api: &Api,
    table: &Table,
    core: bool,
    media: Media,
    head: &Parts,
) -> Result<Response<Body>, Status> {
    let delegates = if core { Vec::new() } else { behind::delegates(api, table) };
    if delegates.is_empty() {
        let document = table.aggregated(core, || discovery::aggregated(table, core));
        return openapi::aggregated(document, media, head).await;
    }
    let mut document = discovery::aggregated(table, core);
    let lists = |at: &Delegate| api.inner.behind.lock().get(&(at.group.clone(), at.version.clone())).cloned();
    behind::add_to_aggregated(&mut document, &delegates, lists);
    openapi::aggregated(&Document::new(&document), media, head).await
}

/// Routes of the server that assembles us, for administrators; else 404 in plain text.
async fn extra(api: &Api, user: &User, head: &Parts, body: &mut Option<Body>) -> Result<Response<Body>, Status> {
    if !user.in_group(MASTERS) {
        return Ok(health::nothing());
    }
    let router = api.inner.config.extra_routes.clone();
    let mut charge = api.inner.budget.open();
    let data = whole(body.take().unwrap_or_default(), MAX_BODY, &mut charge).await?;
    let request = Request::from_parts(head.clone(), Body::from(data));
    let answered = router.oneshot(request).await;
    let response = answered.unwrap_or_else(|never| match never {});
    let unknown = response.status() == http::StatusCode::NOT_FOUND && !response.headers().contains_key(CONTENT_TYPE);
    Ok(if unknown { health::nothing() } else { response })
}

/// What upstream serves by handlers of its own, which look at no method.
fn any_method(route: &Route) -> bool {
    use Route::{Group, Groups, Health, Looks, Metrics, OpenApiV2, OpenApiV3, Page, Root};
    matches!(route, Groups | Group(_) | OpenApiV2 | OpenApiV3(_) | Health(..) | Looks | Metrics | Page(_) | Root)
}

/// The format in which discovery is asked for as one document. Clauses for the plain one do not count, wherever they stand.
fn aggregated_media(accept: Option<&str>) -> Option<Media> {
    let asked = [("as", "APIGroupDiscoveryList"), ("g", "apidiscovery.k8s.io"), ("v", "v2")];
    let clauses = clauses(accept);
    let mut asking =
        clauses.iter().filter(|clause| asked.iter().all(|(name, value)| clause.param(name) == Some(value)));
    asking.find_map(|clause| [Media::Json, Media::Yaml].into_iter().find(|media| clause.matches(media.name())))
}

/// A document about tokens, which who checks them may keep for an hour.
fn public(media: &'static str, document: &Value) -> Response<Body> {
    let mut response = encode::of_bytes(media, Bytes::from(document.to_string()));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

/// OpenID Connect Discovery 1.0, as far as ServiceAccount tokens go.
fn openid_configuration(api: &Api) -> Value {
    let issuer = &api.inner.config.issuer;
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{}/openid/v1/jwks", issuer.trim_end_matches('/')),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [format!("{:?}", api.inner.keys.algorithm)],
    })
}

fn git_version(api: &Api) -> String {
    format!("v1.37.0+kontiki.{}", api.inner.config.version)
}

fn version(api: &Api) -> Value {
    serde_json::json!({
        "major": "1", "minor": "37", "gitVersion": git_version(api),
        "emulationMajor": "1", "emulationMinor": "37", "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn root(table: &Table) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for def in table.rows().iter().filter(|def| !def.group.is_empty()) {
        for path in [format!("/apis/{}", def.group), format!("/apis/{}/{}", def.group, def.version)] {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths.extend(
        [
            "/.well-known/openid-configuration",
            "/flagz",
            "/healthz",
            "/livez",
            "/metrics",
            "/metrics/slis",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/statusz",
            "/version",
        ]
        .map(str::to_owned),
    );
    serde_json::json!({ "paths": paths })
}
