//! What upstream's built-in admission adds to a new pod, as pure functions.

use serde_json::{Value, json};

use super::super::value::{child, default_to, fields, has, int, list, set, some, text};

/// Gives the pod the tolerations that keep it on a node that does not answer for `seconds`,
/// unless it brings its own.
pub fn tolerations(pod: &mut Value, seconds: i64) {
    let spec = child(pod, "spec");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = list(spec, "tolerations").iter().any(|toleration| {
            [key, ""].contains(&text(toleration, "key")) && ["NoExecute", ""].contains(&text(toleration, "effect"))
        });
        if tolerated {
            continue;
        }
        let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let slot = fields(spec).entry("tolerations").or_insert_with(|| json!([]));
        if let Some(list) = slot.as_array_mut() {
            list.push(toleration);
        }
    }
}

/// A priority class: its value and preemption policy.
#[derive(Clone, Copy, Debug)]
pub struct Class<'a> {
    /// The priority.
    pub value: i64,
    /// `PreemptLowerPriority` or `Never`.
    pub preemption: &'a str,
}

/// The classes that exist in every cluster.
#[must_use]
pub fn builtin_class(name: &str) -> Option<Class<'static>> {
    let value = match name {
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        _ => return None,
    };
    Some(Class { value, preemption: "PreemptLowerPriority" })
}

/// Resolves the priority of a pod. `class` is the one its spec names, or the default class.
///
/// # Errors
/// Why the pod is forbidden, without the `pods "x" is forbidden: ` before it.
pub fn priority(pod: &mut Value, class: Option<Class<'_>>) -> Result<(), String> {
    let spec = child(pod, "spec");
    let named = text(spec, "priorityClassName");
    if !named.is_empty() && class.is_none() {
        return Err(format!("no PriorityClass with name {named} was found"));
    }
    let class = class.unwrap_or(Class { value: 0, preemption: "PreemptLowerPriority" });
    if let Some(given) = int(spec, "priority").filter(|given| *given != class.value) {
        let computed = class.value;
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
        ));
    }
    let policy = some(spec, "preemptionPolicy").and_then(Value::as_str);
    if let Some(given) = policy.filter(|given| *given != class.preemption) {
        let computed = class.preemption;
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
        ));
    }
    set(spec, "priority", class.value);
    default_to(spec, "preemptionPolicy", class.preemption);
    Ok(())
}

/// Names the ServiceAccount of a pod that names none.
pub fn default_account(pod: &mut Value) {
    let spec = child(pod, "spec");
    if text(spec, "serviceAccountName").is_empty() {
        set(spec, "serviceAccountName", "default");
        set(spec, "serviceAccount", "default");
    }
}

/// Whether the pod wants a token: its own word counts more than the account's.
#[must_use]
pub fn wants_token(pod: &Value, account: &Value) -> bool {
    let word = |v: &Value| v.get("automountServiceAccountToken").and_then(Value::as_bool);
    word(&pod["spec"]).or_else(|| word(account)).unwrap_or(true)
}

/// Where the token volume is mounted.
pub const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Adds the account's pull secrets and, if wanted, the token volume called `volume_name`.
pub fn account(pod: &mut Value, account: &Value, volume_name: &str) {
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
        for container in super::super::value::items_mut(spec, name) {
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
