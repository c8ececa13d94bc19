//! The priority of a new pod, by its PriorityClass.

use kontiki_machinery::admission::{Lookup, Request, Step};
use kontiki_model::resource::PODS;
use serde_json::Value;

use crate::{
    Status,
    rows::value::{child, default_to, int, set, some, text},
};

pub(super) struct Priority;

impl Step for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn admit(&self, request: &Request<'_>, pod: &mut Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        if request.is(PODS) && request.creates() {
            let class = builtin_class(pod["spec"]["priorityClassName"].as_str().unwrap_or_default());
            resolve(pod, class).map_err(|why| request.forbid(pod, why))?;
        }
        Ok(())
    }
}

/// A priority class: its value and preemption policy.
#[derive(Clone, Copy, Debug)]
struct Class<'a> {
    /// The priority.
    value: i64,
    /// `PreemptLowerPriority` or `Never`.
    preemption: &'a str,
}

/// The classes that exist in every cluster.
fn builtin_class(name: &str) -> Option<Class<'static>> {
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
fn resolve(pod: &mut Value, class: Option<Class<'_>>) -> Result<(), String> {
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
