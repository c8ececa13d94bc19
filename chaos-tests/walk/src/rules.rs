//! What must hold after every revision, whoever died. Each rule looks at one change, among the objects as of its revision.

use std::collections::BTreeSet;

use kontiki_model::ObjectKey;
use kontiki_model::indexes::Indexes;
use serde_json::Value;

use crate::history::Objects;

/// A change of an object.
pub struct Change {
    pub key: ObjectKey,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

/// What was made at some time.
#[derive(Default)]
pub struct Made {
    /// CronJobs and the times that they had a Job for.
    runs: BTreeSet<(String, String)>,
}

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const VERDICT: &str = "rollout.kontiki.dev/verdict";
const STEP: &str = "rollout.kontiki.dev/step";
const STEPS: &str = "rollout.kontiki.dev/steps";
const TRAFFIC: &str = "rollout.kontiki.dev/traffic";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// The rules that a change breaks.
pub fn broken(objects: &Objects, seen: &mut Made, change: &Change) -> Vec<String> {
    let mut out = Vec::new();
    let resource = change.key.resource.as_str();
    if let (None, Some(new)) = (&change.old, &change.new) {
        match resource {
            "pods" => out.extend(made_pod(objects, &change.key, new)),
            "jobs" => out.extend(made_job(objects, seen, new)),
            _ => {}
        }
    }
    if let (Some(old), Some(new)) = (&change.old, &change.new) {
        match resource {
            "pods" => {
                out.extend(moved(old, new, "/spec/nodeName"));
                out.extend(uncounted(objects, old, new));
            }
            "persistentvolumes" => out.extend(moved(old, new, "/spec/claimRef/uid")),
            _ => {}
        }
    }
    if let Some(new) = change.new.as_ref().filter(|_| resource == "replicasets") {
        out.extend(surge(objects, change.old.as_ref(), new));
        out.extend(beyond_step(objects, change.old.as_ref(), new));
    }
    if let Some(new) = change.new.as_ref().filter(|_| resource == "endpointslices") {
        out.extend(mixed(objects, new));
    }
    if let (Some(old), None) = (&change.old, &change.new) {
        out.extend(left_behind(objects, &change.key, old));
    }
    out
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"]["annotations"][key].as_str().unwrap_or_default()
}

fn listed(object: &Value, pointer: &str, item: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_array).is_some_and(|list| list.iter().any(|one| one == item))
}

fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// Kind and uid of the manager.
fn manager(object: &Value) -> Option<(&str, &str)> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some((owner["kind"].as_str()?, owner["uid"].as_str()?))
}

fn managed_by(object: &Value, owner: &str) -> bool {
    manager(object).is_some_and(|(_, uid)| uid == owner)
}

fn lives(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn finished(job: &Value) -> bool {
    let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| matches!(c["type"].as_str(), Some("Complete" | "Failed")) && c["status"] == "True")
}

fn all<'a>(objects: &'a Objects, resource: &'static str) -> impl Iterator<Item = (&'a ObjectKey, &'a Value)> {
    objects.iter().filter(move |(key, _)| key.resource == resource)
}

fn of_uid<'a>(objects: &'a Objects, resource: &'static str, wanted: &str) -> Option<&'a Value> {
    all(objects, resource).map(|(_, object)| object).find(|object| uid(object) == wanted)
}

/// A pod that its manager does not need.
fn made_pod(objects: &Objects, key: &ObjectKey, pod: &Value) -> Option<String> {
    let (kind, owner) = manager(pod)?;
    let live: Vec<(&ObjectKey, &Value)> =
        all(objects, "pods").filter(|(_, other)| lives(other) && managed_by(other, owner)).collect();
    let alike = |of: &dyn Fn(&Value) -> String| {
        let wanted = of(pod);
        let other = live.iter().find(|(other, value)| *other != key && of(value) == wanted);
        other.map(|(other, _)| format!("{wanted} has a pod, {}", other.name))
    };
    let beyond = |object: Option<&Value>, pointer: &str| {
        let most = number(object?, pointer).unwrap_or(1);
        let have = i64::try_from(live.len()).unwrap_or(i64::MAX);
        (have > most).then(|| format!("{have} pods live, {most} are wanted"))
    };
    match kind {
        "ReplicaSet" => beyond(of_uid(objects, "replicasets", owner), "/spec/replicas"),
        "ReplicationController" => beyond(of_uid(objects, "replicationcontrollers", owner), "/spec/replicas"),
        "Job" => {
            let job = of_uid(objects, "jobs", owner);
            let indexed = job.is_some_and(|job| job["spec"]["completionMode"] == "Indexed");
            let again = indexed.then(|| alike(&|pod| format!("index {}", annotation(pod, INDEX)))).flatten();
            let done = job.is_some_and(|job| indexed && completed(job, annotation(pod, INDEX)));
            again.or(done.then(|| "its index is complete".to_owned())).or(beyond(job, "/spec/parallelism"))
        }
        "DaemonSet" => alike(&|pod| format!("node {}", node(pod))),
        "StatefulSet" => out_of_order(objects, owner, &live, key),
        _ => None,
    }
}

fn completed(job: &Value, index: &str) -> bool {
    let completions = number(job, "/spec/completions").and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
    let done = Indexes::read(text(job, "/status/completedIndexes"), completions);
    index.parse().is_ok_and(|index| done.contains(index))
}

/// Where a pod of a DaemonSet goes.
fn node(pod: &Value) -> &str {
    let term = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0";
    text(pod, &format!("{term}/matchFields/0/values/0"))
}

/// A set that goes by order makes a pod when all before it are ready.
fn out_of_order(objects: &Objects, set: &str, live: &[(&ObjectKey, &Value)], key: &ObjectKey) -> Option<String> {
    let set = of_uid(objects, "statefulsets", set)?;
    let (base, ordinal) = key.name.rsplit_once('-')?;
    let ordinal: i64 = ordinal.parse().ok()?;
    if ordinal >= number(set, "/spec/replicas").unwrap_or(1) {
        return Some("it is beyond the replicas".to_owned());
    }
    if set["spec"]["podManagementPolicy"] == "Parallel" {
        return None;
    }
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let there = |before: i64| live.iter().any(|(other, pod)| other.name == format!("{base}-{before}") && ready(pod));
    (0..ordinal).find(|before| !there(*before)).map(|before| format!("{base}-{before} is not ready"))
}

/// A second Job for one time, or one beside another that must not be.
fn made_job(objects: &Objects, seen: &mut Made, job: &Value) -> Option<String> {
    let (_, owner) = manager(job).filter(|(kind, _)| *kind == "CronJob")?;
    let at = annotation(job, SCHEDULED);
    if !seen.runs.insert((owner.to_owned(), at.to_owned())) {
        return Some(format!("{at} had a Job before"));
    }
    let cron = of_uid(objects, "cronjobs", owner)?;
    let others = all(objects, "jobs").filter(|(_, other)| managed_by(other, owner) && uid(other) != uid(job));
    let beside = others.into_iter().find(|(_, other)| !finished(other));
    let forbidden = beside.filter(|_| cron["spec"]["concurrencyPolicy"] == "Forbid");
    forbidden.map(|(other, _)| format!("{} has not ended", other.name))
}

/// What has a place stays there.
fn moved(old: &Value, new: &Value, pointer: &str) -> Option<String> {
    let (from, to) = (text(old, pointer), text(new, pointer));
    (!from.is_empty() && !to.is_empty() && from != to).then(|| format!("{pointer} was {from} and is {to}"))
}

/// A pod of a Job that has ended is let go once the Job's status names it.
fn uncounted(objects: &Objects, old: &Value, new: &Value) -> Option<String> {
    let held = |pod: &Value| listed(pod, "/metadata/finalizers", TRACKING);
    let phase = text(old, "/status/phase");
    if !held(old) || held(new) || !matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let (_, owner) = manager(old).filter(|(kind, _)| *kind == "Job")?;
    let job = of_uid(objects, "jobs", owner)?;
    // How it ends is decided then; what is left is not counted.
    let ending = job["status"]["conditions"].as_array().is_some_and(|conditions| !conditions.is_empty());
    if ending || !job["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let lists = ["/status/uncountedTerminatedPods/succeeded", "/status/uncountedTerminatedPods/failed"];
    let named = lists.iter().any(|list| listed(job, list, uid(old)));
    let done = phase == "Succeeded" && completed(job, annotation(old, INDEX));
    (!named && !done).then(|| format!("it {phase} and is let go before its Job's status names it"))
}

/// A Deployment's sets together ask for no more pods than it may have at once.
fn surge(objects: &Objects, old: Option<&Value>, new: &Value) -> Option<String> {
    let size = |set: &Value| number(set, "/spec/replicas").unwrap_or(1);
    let (_, owner) = manager(new).filter(|(kind, _)| *kind == "Deployment")?;
    if old.is_some_and(|old| size(old) >= size(new)) {
        return None;
    }
    let deployment = of_uid(objects, "deployments", owner)?;
    let wanted = number(deployment, "/spec/replicas").unwrap_or(1);
    let more = match deployment.pointer("/spec/strategy/rollingUpdate/maxSurge") {
        Some(Value::String(share)) => {
            let share: i64 = share.trim_end_matches('%').parse().unwrap_or(0);
            (wanted * share + 99) / 100
        }
        Some(most) => most.as_i64().unwrap_or(0),
        None => 0,
    };
    let have: i64 =
        all(objects, "replicasets").filter(|(_, set)| managed_by(set, owner)).map(|(_, set)| size(set)).sum();
    (have > wanted + more).then(|| format!("{have} pods are asked for, {wanted} and {more} may be"))
}

/// A set that is held at a step, in pods, grows no further; one that was refused does not grow.
fn beyond_step(objects: &Objects, old: Option<&Value>, new: &Value) -> Option<String> {
    let size = |set: &Value| number(set, "/spec/replicas").unwrap_or(1);
    if old.is_some_and(|old| size(old) >= size(new)) {
        return None;
    }
    if annotation(new, VERDICT) == "refused" {
        return Some("it was refused and grows".to_owned());
    }
    let step: usize = annotation(new, STEP).parse().ok()?;
    let (_, owner) = manager(new)?;
    let deployment = of_uid(objects, "deployments", owner)?;
    let shares: Vec<i64> = annotation(deployment, STEPS).split(", ").filter_map(|share| share.parse().ok()).collect();
    let most = *shares.get(step.checked_sub(1)?)?;
    (size(new) > most).then(|| format!("{} pods are asked for, at step {step} {most} may be", size(new)))
}

/// Pods of a set that is held have no place in a Service, nor have those of others beside one that has taken over. What
/// controllers see of sets may be older than what there is, but not for long: a slice is looked at when it is written.
fn mixed(objects: &Objects, slice: &Value) -> Option<String> {
    let endpoints = slice["endpoints"].as_array()?;
    let pods = endpoints.iter().filter_map(|endpoint| of_uid(objects, "pods", text(endpoint, "/targetRef/uid")));
    let sets: BTreeSet<&str> = pods.filter_map(|pod| Some(manager(pod)?.1)).collect();
    let marked = |traffic: &str| {
        sets.iter()
            .filter(|set| of_uid(objects, "replicasets", set).is_some_and(|set| annotation(set, TRAFFIC) == traffic))
            .count()
    };
    if marked("held") > 0 {
        return Some("it has pods that are held".to_owned());
    }
    (marked("alone") > 0 && sets.len() > 1).then(|| "it has pods of others beside those that took over".to_owned())
}

/// What goes leaves nothing behind that should have gone, or been freed, before it.
fn left_behind(objects: &Objects, key: &ObjectKey, old: &Value) -> Option<String> {
    let owners = |object: &Value| object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    let names = |object: &Value, blocking: bool| {
        owners(object)
            .iter()
            .any(|owner| owner["uid"] == old["metadata"]["uid"] && (!blocking || owner["blockOwnerDeletion"] == true))
    };
    let found = |wanted: &dyn Fn(&ObjectKey, &Value) -> bool| {
        objects.iter().find(|(other, object)| wanted(other, object)).map(|(other, _)| other.to_string())
    };
    let within = |other: &ObjectKey| other.namespace.as_deref() == Some(&key.name);
    let uses = |pod: &Value| {
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        volumes.into_iter().any(|volume| text(volume, "/persistentVolumeClaim/claimName") == key.name)
    };
    if listed(old, "/metadata/finalizers", "foregroundDeletion") {
        return found(&|_, object| names(object, true)).map(|other| format!("{other} should have gone before"));
    }
    if listed(old, "/metadata/finalizers", "orphan") {
        return found(&|_, object| names(object, false)).map(|other| format!("{other} still names it as an owner"));
    }
    match key.resource.as_str() {
        "namespaces" => found(&|other, _| within(other)).map(|other| format!("{other} is left in it")),
        "persistentvolumeclaims" => {
            let user = |other: &ObjectKey, pod: &Value| {
                other.resource == "pods" && other.namespace == key.namespace && lives(pod) && uses(pod)
            };
            found(&user).map(|other| format!("{other} uses it"))
        }
        _ => None,
    }
}
