//! The priority of a new pod, by its PriorityClass; and no more than one class for pods that name none.

use kontiki_machinery::admission::{Guard, Lookup, Request, Step};
use kontiki_model::{GroupResource, resource::PODS};
use serde_json::Value;

use crate::{
    Status,
    rows::{
        priorityclass::SYSTEM,
        value::{child, default_to, get, int, num, on, set, some, text},
    },
};

const CLASSES: GroupResource<'static> = GroupResource { group: "scheduling.k8s.io", resource: "priorityclasses" };

pub(super) struct Priority;

impl Step for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn admit(&self, request: &Request<'_>, object: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        if request.is(PODS) && request.creates() {
            let class = class_of(object, cluster)?;
            return resolve(object, class).map_err(|why| request.forbid(object, why));
        }
        if request.is(CLASSES) && on(object, "globalDefault") {
            let own = text(get(object, "metadata"), "name");
            let other = cluster
                .objects(CLASSES)?
                .into_iter()
                .find(|class| on(class, "globalDefault") && text(get(class, "metadata"), "name") != own);
            if let Some(other) = other {
                let name = text(get(&other, "metadata"), "name");
                let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
                return Err(request.forbid(object, why));
            }
        }
        Ok(())
    }
}

/// What a pod gets from its PriorityClass.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    name: String,
    value: i64,
    /// `PreemptLowerPriority` or `Never`.
    preemption: String,
}

impl Default for Class {
    fn default() -> Self {
        Self { name: String::new(), value: 0, preemption: "PreemptLowerPriority".into() }
    }
}

impl From<&Value> for Class {
    fn from(class: &Value) -> Self {
        let name = text(get(class, "metadata"), "name").to_owned();
        Self { name, value: num(class, "value"), preemption: text(class, "preemptionPolicy").to_owned() }
    }
}

/// The class that a pod names, or else the default one.
fn class_of(pod: &Value, cluster: &mut dyn Lookup) -> Result<Option<Class>, Status> {
    let name = text(get(pod, "spec"), "priorityClassName");
    if name.is_empty() {
        let defaults = cluster.objects(CLASSES)?;
        let defaults = defaults.iter().filter(|class| on(class, "globalDefault"));
        // Two can have been made at once: the lower one counts, as upstream has it.
        return Ok(defaults.map(Class::from).min_by_key(|class| class.value));
    }
    if let Some((name, value)) = SYSTEM.iter().find(|(known, _)| *known == name) {
        return Ok(Some(Class { name: (*name).to_owned(), value: *value, ..Class::default() }));
    }
    Ok(cluster.object(CLASSES, None, name, Guard::Present)?.as_ref().map(Class::from))
}

/// Resolves the priority of a pod. `class` is the one its spec names, or the default class.
///
/// # Errors
/// Why the pod is forbidden, without the `pods "x" is forbidden: ` before it.
fn resolve(pod: &mut Value, class: Option<Class>) -> Result<(), String> {
    let spec = child(pod, "spec");
    let named = text(spec, "priorityClassName");
    if !named.is_empty() && class.is_none() {
        return Err(format!("no PriorityClass with name {named} was found"));
    }
    let class = class.unwrap_or_default();
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
    if !class.name.is_empty() {
        set(spec, "priorityClassName", class.name);
    }
    set(spec, "priority", class.value);
    default_to(spec, "preemptionPolicy", class.preemption);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_gets_the_priority_of_its_class() {
        let class = || Some(Class { name: "c".into(), value: 7, preemption: "Never".into() });
        for (what, spec, class, expect) in [
            ("none", json!({}), None, Ok(json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}))),
            (
                "a default",
                json!({}),
                class(),
                Ok(json!({"priorityClassName": "c", "priority": 7, "preemptionPolicy": "Never"})),
            ),
            ("unknown", json!({"priorityClassName": "c"}), None, Err("no PriorityClass with name c was found")),
            ("its own number", json!({"priorityClassName": "c", "priority": 8}), class(), Err("must not be provided")),
            ("its own policy", json!({"preemptionPolicy": "x"}), class(), Err("must not be provided")),
        ] {
            let mut pod = json!({ "spec": spec });
            match (resolve(&mut pod, class), expect) {
                (Ok(()), Ok(spec)) => assert_eq!(pod["spec"], spec, "{what}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{what}: {why}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
    }
}
