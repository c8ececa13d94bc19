//! The account of a new pod, and the token volume that it gets for it.

use kontiki_machinery::{
    admission::{Guard, Lookup, Request, Step},
    meta,
};
use kontiki_model::resource::{PODS, SERVICE_ACCOUNTS};
use serde_json::{Value, json};

use crate::{
    Status,
    rows::value::{annotation, child, fields, has, items_mut, list, set, text},
};

/// A pod that a node made from a file of its own; it has no use for an account.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Where the token volume is mounted.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub(super) struct ServiceAccount;

impl Step for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn admit(&self, request: &Request<'_>, pod: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        if !(request.is(PODS) && request.creates()) || annotation(pod, MIRROR).is_some() {
            return Ok(());
        }
        default_account(pod);
        let name = text(&pod["spec"], "serviceAccountName").to_owned();
        let namespace = request.namespace.unwrap_or_default();
        let Some(account) = cluster.object(SERVICE_ACCOUNTS, Some(namespace), &name, Guard::Present)? else {
            let text =
                format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
            return Err(request.forbid(pod, text));
        };
        let [a, b, c, d, e, ..] = cluster.random().to_le_bytes();
        give(pod, &account, &meta::generate_name("kube-api-access-", [a, b, c, d, e]));
        Ok(())
    }
}

/// Names the ServiceAccount of a pod that names none.
fn default_account(pod: &mut Value) {
    let spec = child(pod, "spec");
    if text(spec, "serviceAccountName").is_empty() {
        set(spec, "serviceAccountName", "default");
        set(spec, "serviceAccount", "default");
    }
}

/// Whether the pod wants a token: its own word counts more than the account's.
fn wants_token(pod: &Value, account: &Value) -> bool {
    let word = |v: &Value| v.get("automountServiceAccountToken").and_then(Value::as_bool);
    word(&pod["spec"]).or_else(|| word(account)).unwrap_or(true)
}

/// Adds the account's pull secrets and, if wanted, the token volume called `volume_name`.
fn give(pod: &mut Value, account: &Value, volume_name: &str) {
    let token = wants_token(pod, account);
    let spec = child(pod, "spec");
    if list(spec, "imagePullSecrets").is_empty() && has(account, "imagePullSecrets") {
        set(spec, "imagePullSecrets", account["imagePullSecrets"].clone());
    }
    if !token {
        return;
    }
    let mut mounted = false;
    for name in ["initContainers", "containers"] {
        for container in items_mut(spec, name) {
            if list(container, "volumeMounts").iter().any(|mount| text(mount, "mountPath") == TOKEN_PATH) {
                continue;
            }
            push(container, "volumeMounts", json!({"name": volume_name, "mountPath": TOKEN_PATH, "readOnly": true}));
            mounted = true;
        }
    }
    if mounted {
        push(spec, "volumes", token_volume(volume_name));
    }
}

fn push(owner: &mut Value, name: &str, item: Value) {
    let slot = fields(owner).entry(name).or_insert_with(|| json!([]));
    if let Some(list) = slot.as_array_mut() {
        list.push(item);
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}
