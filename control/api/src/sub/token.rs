//! `serviceaccounts/token`: TokenRequest.

use jiff::Timestamp;
use kontiki_machinery::{FieldError, GroupResource, Path};
use kontiki_model::ObjectKey;
use kontiki_model::resource::{NODES, PODS, SECRETS, SERVICE_ACCOUNTS};
use serde_json::{Value, json};

use crate::auth::tokens::{Bound, Named};
use crate::call::{Answer, Call, Input, Object};
use crate::clock::format_time;
use crate::object::{self, meta_str, set_resource_version};
use crate::{Api, Status};

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
/// However long a client asks, no token lasts longer than a day.
const LONGEST: i64 = 86_400;

/// Issues a token for the account that `call` names.
pub(crate) async fn create(call: &mut Call, input: Input) -> Result<Answer, Status> {
    let (mut request, dry_run) = super::decoded(call, input)?;
    check_name(call, &request)?;
    let namespace = call.namespace().unwrap_or_default().to_owned();
    let account = call.api.read(SERVICE_ACCOUNTS, Some(&namespace), call.name()).await?;
    default_spec(&mut request, &call.api.inner.config.issuer);
    let request = &mut super::admitted(call, request, dry_run).await?;
    check(call, request)?;
    let bound = bound_object(call, request, &namespace).await?;
    let audiences = object::texts(&request["spec"]["audiences"]);
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS).min(LONGEST);
    let (token, expires) = call.api.sign_token(&account, bound, &audiences, seconds)?;
    let token = if dry_run { String::new() } else { token };
    request["status"] = json!({"token": token, "expirationTimestamp": format_time(expires)});
    let created = format_time(call.api.now());
    request["metadata"] = json!({"name": call.name(), "namespace": namespace, "creationTimestamp": created});
    set_resource_version(request, None);
    Ok(Answer::Object { code: 201, object: Object::Built(request.take()) })
}

fn check_name(call: &Call, request: &Value) -> Result<(), Status> {
    match meta_str(request, "name") {
        "" => Ok(()),
        name if name == call.name() => Ok(()),
        name => Err(Status::bad_request(format!("name in URL does not match name in TokenRequest object: {name}"))),
    }
}

/// An hour for this API, unless the client says otherwise.
fn default_spec(request: &mut Value, audience: &str) {
    let spec = &mut request["spec"];
    if spec["expirationSeconds"].is_null() {
        spec["expirationSeconds"] = DEFAULT_SECONDS.into();
    }
    if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
        spec["audiences"] = json!([audience]);
    }
}

fn check(call: &Call, request: &Value) -> Result<(), Status> {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("expirationSeconds");
    let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(0);
    if seconds < MIN_SECONDS {
        errors.push(FieldError::invalid(&path, seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > 1 << 32 {
        errors.push(FieldError::invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    match &call.sub {
        Some(sub) if !errors.is_empty() => Err(Status::invalid(&sub.group, &sub.kind, "", &errors)),
        _ => Ok(()),
    }
}

/// What a token can be bound to: `apiVersion` and kind are those of a resource here.
fn bindable(call: &Call, api_version: &str, kind: &str) -> Option<GroupResource<'static>> {
    let table = call.api.registry().table();
    let version = if api_version.is_empty() { "v1" } else { api_version };
    [PODS, SECRETS, NODES].into_iter().find(|resource| {
        table.find_resource(*resource).is_some_and(|def| def.kind == kind && def.api_version() == version)
    })
}

async fn bound_object(call: &Call, request: &Value, namespace: &str) -> Result<Option<Bound>, Status> {
    let reference = &request["spec"]["boundObjectRef"];
    if reference.is_null() {
        return Ok(None);
    }
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    let Some(resource) = bindable(call, version, kind) else {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount to object of type {version}, Kind={kind}"
        )));
    };
    let place = Some(namespace).filter(|_| resource != NODES);
    let found = call.api.read(resource, place, text("name")).await?;
    let (uid, wanted) = (meta_str(&found, "uid").to_owned(), text("uid"));
    if resource == PODS && found["spec"]["serviceAccountName"] != call.name() {
        let text = format!(
            "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
            call.name()
        );
        return Err(Status::bad_request(text));
    }
    if !wanted.is_empty() && wanted != uid {
        let message = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(resource, text("name"), message));
    }
    let named = Named { name: text("name").to_owned(), uid };
    Ok(Some(match resource {
        PODS => {
            let node = call.api.node_of(&found)?;
            Bound::Pod(named, node)
        }
        SECRETS => Bound::Secret(named),
        _ => Bound::Node(named),
    }))
}

impl Api {
    /// The node that a pod is on, as its tokens tell it.
    fn node_of(&self, pod: &Value) -> Result<Option<Named>, Status> {
        let Some(name) = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty()) else { return Ok(None) };
        let entry = self.backend().snapshot().get(&ObjectKey::new(NODES, None, name).encode());
        let node = entry.map(|entry| object::decode(&entry)).transpose()?;
        let uid = node.as_ref().map_or("", |node| meta_str(node, "uid")).to_owned();
        Ok(Some(Named { name: name.to_owned(), uid }))
    }

    /// Reads one object, linearizably, for the API's own use.
    pub(crate) async fn read(
        &self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Value, Status> {
        let key = ObjectKey::new(resource, namespace, name).encode();
        let entry = self.fresh().await?.get(&key).ok_or_else(|| Status::not_found(resource, name))?;
        object::decode(&entry)
    }

    /// Issues a ServiceAccount token, bound to a pod `(name, uid)` if given, for `audiences` (none:
    /// this API). Returns it with its expiry.
    ///
    /// # Errors
    /// 404 if the account or the pod is gone.
    pub async fn issue_token(
        &self,
        namespace: &str,
        service_account: &str,
        pod: Option<(&str, &str)>,
        audiences: &[String],
        seconds: i64,
    ) -> Result<(String, Timestamp), Status> {
        let account = self.read(SERVICE_ACCOUNTS, Some(namespace), service_account).await?;
        let mut bound = None;
        if let Some((name, uid)) = pod {
            let found = self.read(PODS, Some(namespace), name).await?;
            if meta_str(&found, "uid") != uid || found["spec"]["serviceAccountName"] != service_account {
                return Err(Status::not_found(PODS, name));
            }
            bound = Some(Bound::Pod(Named { name: name.to_owned(), uid: uid.to_owned() }, self.node_of(&found)?));
        }
        let seconds = if seconds <= 0 { DEFAULT_SECONDS } else { seconds.clamp(MIN_SECONDS, LONGEST) };
        self.sign_token(&account, bound, audiences, seconds)
    }
}
