//! Pod Security Standards (KEP-2579): namespaces say by labels which pods they refuse, note or warn of.
//!
//! Not here: noting in an audit log.

mod baseline;
mod pod;
mod policy;
mod restricted;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use kontiki_machinery::admission::{Guard, Lookup, Operation, Request, Step};
use kontiki_model::resource::{NAMESPACES, PODS};
use serde_json::Value;

pub use policy::{Level, LevelVersion, Policy};

use crate::{
    Status,
    rows::value::{at, get, list, text},
};

/// Pods of a namespace that are looked at when its level becomes stricter.
const MOST_PODS: usize = 3000;

/// What namespaces that say nothing are held to, and who is held to nothing.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// For namespaces without labels.
    pub defaults: Policy,
    /// Users that may make any pod.
    pub usernames: Vec<String>,
    /// Namespaces in which any pod may be made.
    pub namespaces: Vec<String>,
    /// RuntimeClasses whose pods may do anything.
    pub runtime_classes: Vec<String>,
}

pub(super) struct PodSecurity(pub Settings);

impl Step for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn validate(&self, request: &Request<'_>, object: &Value, cluster: &mut dyn Lookup) -> Result<(), Status> {
        if request.is(NAMESPACES) {
            return self.check_labels(request, object);
        }
        if !concerned(request, object) {
            return Ok(());
        }
        let Some(policy) = self.policy(request, object, cluster)? else { return Ok(()) };
        match policy::judge(policy.enforce, get(object, "metadata"), get(object, "spec")) {
            Some(why) => Err(request.forbid(object, format!("violates PodSecurity \"{}\": {why}", policy.enforce))),
            None => Ok(()),
        }
    }

    fn warn(&self, request: &Request<'_>, object: &Value, cluster: &mut dyn Lookup) -> Result<Vec<String>, Status> {
        if request.is(NAMESPACES) {
            return self.warn_of_pods(request, object, cluster);
        }
        let pod = if concerned(request, object) { Some(object) } else { template(request, object) };
        let Some(pod) = pod else { return Ok(Vec::new()) };
        let Some(policy) = self.policy(request, pod, cluster)? else { return Ok(Vec::new()) };
        let why = policy::judge(policy.warn, get(pod, "metadata"), get(pod, "spec"));
        Ok(why.map(|why| format!("would violate PodSecurity \"{}\": {why}", policy.warn)).into_iter().collect())
    }
}

impl PodSecurity {
    /// What a pod is held to; `None`: to nothing.
    fn policy(&self, request: &Request<'_>, pod: &Value, cluster: &mut dyn Lookup) -> Result<Option<Policy>, Status> {
        let exempt = |list: &[String], name: &str| list.iter().any(|known| known == name);
        let namespace = request.namespace.unwrap_or_default();
        let class = text(get(pod, "spec"), "runtimeClassName");
        if exempt(&self.0.namespaces, namespace)
            || exempt(&self.0.usernames, &request.user.name)
            || (!class.is_empty() && exempt(&self.0.runtime_classes, class))
        {
            return Ok(None);
        }
        // Not guarded: a label that is set in the same moment comes before or after.
        let namespace = cluster.object(NAMESPACES, None, namespace, Guard::Present)?;
        let (policy, _) = Policy::of(namespace.as_ref().unwrap_or(&Value::Null), self.0.defaults);
        Ok((policy != Policy::default()).then_some(policy))
    }

    /// Labels that cannot be read are refused, unless they were there before.
    fn check_labels(&self, request: &Request<'_>, namespace: &Value) -> Result<(), Status> {
        let (_, errs) = Policy::of(namespace, self.0.defaults);
        let before = request.old.map(|old| Policy::of(old, self.0.defaults).1).unwrap_or_default();
        if errs.is_empty() || errs == before {
            return Ok(());
        }
        Err(Status::invalid("", "Namespace", text(get(namespace, "metadata"), "name"), &errs))
    }

    /// Pods that are there and would be refused by a level that becomes stricter.
    fn warn_of_pods(
        &self,
        request: &Request<'_>,
        namespace: &Value,
        cluster: &mut dyn Lookup,
    ) -> Result<Vec<String>, Status> {
        let name = text(get(namespace, "metadata"), "name");
        let Some(old) = request.old.filter(|_| !self.0.namespaces.iter().any(|exempt| exempt == name)) else {
            return Ok(Vec::new());
        };
        let (new, old) = (Policy::of(namespace, self.0.defaults).0.enforce, Policy::of(old, self.0.defaults).0.enforce);
        let looser = new.minor == old.minor && new.level <= old.level;
        if new == old || new.level == Level::Privileged || looser {
            return Ok(Vec::new());
        }
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in cluster.within(PODS, name)?.iter().take(MOST_PODS) {
            if let Some(why) = policy::judge(new, get(pod, "metadata"), get(pod, "spec")) {
                found.entry(why).or_default().push(text(get(pod, "metadata"), "name").to_owned());
            }
        }
        let mut lines: Vec<String> = found.iter().map(|(why, pods)| format!("{}: {why}", among(pods))).collect();
        lines.sort();
        if !lines.is_empty() {
            lines.insert(
                0,
                format!("existing pods in namespace \"{name}\" violate the new PodSecurity enforce level \"{new}\""),
            );
        }
        Ok(lines)
    }
}

/// `a (and 2 other pods)`.
fn among(pods: &[String]) -> String {
    let first = pods.iter().min().map(String::as_str).unwrap_or_default();
    match pods.len() {
        0 | 1 => first.to_owned(),
        2 => format!("{first} (and 1 other pod)"),
        count => format!("{first} (and {} other pods)", count - 1),
    }
}

/// Whether a pod is made, or changed in what the checks look at.
fn concerned(request: &Request<'_>, pod: &Value) -> bool {
    if request.def.group_resource() != PODS || ![None, Some("ephemeralcontainers")].contains(&request.sub) {
        return false;
    }
    match request.operation {
        Operation::Create => request.sub.is_none(),
        Operation::Update => request.old.is_some_and(|old| {
            let parts = |pod| {
                let lists =
                    ["initContainers", "containers", "ephemeralContainers"].map(|field| list(get(pod, "spec"), field));
                (lists, at(pod, &["metadata", "annotations"]))
            };
            parts(old) != parts(pod)
        }),
        Operation::Delete | Operation::Connect => false,
    }
}

/// The template of the pods that a workload makes.
fn template<'a>(request: &Request<'_>, object: &'a Value) -> Option<&'a Value> {
    let resource = request.def.group_resource();
    if request.sub.is_some() {
        return None;
    }
    let found = match (resource.group, resource.resource) {
        ("", "podtemplates") => get(object, "template"),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => at(object, &["spec", "template"]),
        ("batch", "cronjobs") => at(object, &["spec", "jobTemplate", "spec", "template"]),
        _ => return None,
    };
    Some(found).filter(|template| template.is_object())
}
