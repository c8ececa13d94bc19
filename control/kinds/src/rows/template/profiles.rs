//! AppArmor profiles that annotations name, as they did before there was a field for them (KEP-24).

use serde_json::{Value, json};

use super::super::value::{at, child, get, has, items_mut, set, text};
use super::every_container;
use crate::Path;

/// Of annotations; a container's name follows.
pub const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Longest name of a profile.
const LONGEST: usize = 4095;

/// The profile that an annotation means; `None` if it means none.
pub fn profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({"type": "Unconfined"})),
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        other => {
            let name = other.strip_prefix("localhost/")?;
            let good = !name.is_empty() && name.trim() == name && name.len() <= LONGEST;
            good.then(|| json!({"type": "Localhost", "localhostProfile": name}))
        }
    }
}

fn annotation<'a>(pod: &'a Value, container: &Value) -> Option<&'a str> {
    let key = format!("{APP_ARMOR}{}", text(container, "name"));
    at(pod, &["metadata", "annotations"]).get(key.as_str())?.as_str()
}

fn is_windows(pod: &Value) -> bool {
    text(at(pod, &["spec", "os"]), "name") == "windows"
}

/// Gives containers the profiles that annotations name, where they have none of their own and the pod's is another.
pub fn from_annotations(pod: &mut Value) {
    if is_windows(pod) {
        return;
    }
    let seen = pod.clone();
    let own = at(&seen, &["spec", "securityContext", "appArmorProfile"]);
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items_mut(child(pod, "spec"), field) {
            let named = annotation(&seen, container).and_then(profile).filter(|named| named != own);
            if let (Some(named), false) = (named, has(get(container, "securityContext"), "appArmorProfile")) {
                set(child(container, "securityContext"), "appArmorProfile", named);
            }
        }
    }
}

/// Warns of annotations that a container has its profile from, and of those that mean none.
pub fn warnings(pod: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if is_windows(pod) {
        return out;
    }
    for (container, _) in every_container(get(pod, "spec"), &Path::new("spec")) {
        let Some(named) = annotation(pod, container) else { continue };
        let own = get(get(container, "securityContext"), "appArmorProfile");
        let taken = profile(named).map_or(own.is_null(), |profile| profile == *own);
        if taken {
            let key = format!("{APP_ARMOR}{}", text(container, "name"));
            let path = Path::new("metadata").child("annotations").key(&key);
            out.push(format!("{path}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_become_fields_where_there_are_none() {
        let localhost = json!({"type": "Localhost", "localhostProfile": "p"});
        let unconfined = json!({"type": "Unconfined"});
        for (said, pod, own, expect, warns) in [
            ("localhost/p", Value::Null, Value::Null, localhost.clone(), true),
            ("localhost/p", localhost.clone(), Value::Null, Value::Null, false),
            ("localhost/p", unconfined.clone(), Value::Null, localhost.clone(), true),
            ("localhost/p", Value::Null, unconfined.clone(), unconfined.clone(), false),
            ("localhost/", Value::Null, Value::Null, Value::Null, true),
            ("runtime/default", Value::Null, Value::Null, json!({"type": "RuntimeDefault"}), true),
            ("of my own", Value::Null, Value::Null, Value::Null, true),
        ] {
            let mut container = json!({"name": "c"});
            if !own.is_null() {
                container["securityContext"] = json!({"appArmorProfile": own});
            }
            let mut object = json!({"metadata": {"annotations": {format!("{APP_ARMOR}c"): said}},
                "spec": {"securityContext": {"appArmorProfile": pod}, "containers": [container]}});
            from_annotations(&mut object);
            let found = at(&object, &["spec", "containers"])[0]["securityContext"]["appArmorProfile"].clone();
            assert_eq!((found, !warnings(&object).is_empty()), (expect, warns), "{said} {object}");
        }
    }
}
