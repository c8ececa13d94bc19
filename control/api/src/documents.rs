//! What is served besides resources: discovery, OpenAPI, health, metrics, the version, and the routes of whoever assembled
//! us.

use std::net::SocketAddr;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::request::Parts;
use http::{Method, Request, Response};
use kontiki_machinery::{Status, Table};
use serde_json::Value;
use tower::ServiceExt;

use crate::auth::identity::MASTERS;
use crate::body::{header, whole};
use crate::encode;
use crate::negotiate::{self, clauses};
use crate::params::Params;
use crate::route::Route;
use crate::{Api, User, discovery, health};

/// Everything that is not a resource.
pub(crate) async fn plain(
    api: &Api,
    table: &Table,
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
        _ if head.method != Method::GET => return Err(Status::method_not_allowed()),
        _ => {}
    }
    let document = |value: Value| encode::document(&value, accept, &params);
    match route {
        Route::Versions | Route::Groups => {
            let core = matches!(route, Route::Versions);
            if wants_aggregated(accept)? {
                return Ok(encode::json_bytes(
                    discovery::AGGREGATED,
                    encode::to_bytes(&discovery::aggregated(table, core)),
                ));
            }
            document(if core {
                discovery::core_versions(local.ip(), local.port())
            } else {
                discovery::group_list(table)
            })
        }
        Route::Group(group) => document(discovery::group(table, &group).ok_or_else(Status::no_such_resource)?),
        Route::GroupVersion(group, version) => document(discovery::resource_list(table, &group, &version)),
        Route::Version => document(version(api)),
        Route::OpenApiV2 => openapi(table.documents().v2(&git_version(api)), accept),
        Route::OpenApiV3(None) => Ok(encode::json_bytes("text/plain; charset=utf-8", table.documents().v3_index())),
        Route::OpenApiV3(Some(path)) => match table.documents().v3(&path) {
            Some(bytes) => openapi(bytes, accept),
            None => Ok(encode::empty(404)),
        },
        Route::Health(endpoint, check) => Ok(health::answer(api, endpoint, check.as_deref(), &params)),
        Route::Metrics => Ok(health::text(200, api.metrics_text())),
        Route::Root => document(root(table)),
        Route::Resource(_) | Route::Unknown | Route::UnknownInApi => Err(Status::no_such_resource()),
    }
}

/// Routes of the server that assembles us, for administrators; else 404 in plain text.
async fn extra(api: &Api, user: &User, head: &Parts, body: &mut Option<Body>) -> Result<Response<Body>, Status> {
    if !user.in_group(MASTERS) {
        return Ok(health::text(404, "404 page not found\n".into()));
    }
    let router = api.inner.config.extra_routes.clone();
    let data = whole(body.take().unwrap_or_default()).await?;
    let request = Request::from_parts(head.clone(), Body::from(data));
    let answered = router.oneshot(request).await;
    let response = answered.unwrap_or_else(|never| match never {});
    let unknown = response.status() == http::StatusCode::NOT_FOUND && !response.headers().contains_key(CONTENT_TYPE);
    Ok(if unknown { health::text(404, "404 page not found\n".into()) } else { response })
}

/// Whether the best acceptable form of a discovery document is the aggregated one.
fn wants_aggregated(accept: Option<&str>) -> Result<bool, Status> {
    for clause in clauses(accept) {
        let asks = |name: &str, value: &str| clause.param(name) == Some(value);
        if clause.media == negotiate::JSON && asks("as", "APIGroupDiscoveryList") && asks("g", "apidiscovery.k8s.io") {
            if asks("v", "v2") {
                return Ok(true);
            }
        } else if clause.param("as").is_none() {
            break;
        }
    }
    negotiate::object_form(accept).map(|_| false)
}

/// OpenAPI goes out as JSON; a client that takes only protobuf is told so.
fn openapi(bytes: Bytes, accept: Option<&str>) -> Result<Response<Body>, Status> {
    let json = clauses(accept).iter().any(|c| matches!(c.media.as_str(), "*/*" | "application/*" | "application/json"));
    if json { Ok(encode::json_bytes(negotiate::JSON, bytes)) } else { Err(Status::not_acceptable(&[negotiate::JSON])) }
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
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(str::to_owned),
    );
    serde_json::json!({ "paths": paths })
}
