//! The checks that `restricted` adds: what is good practice.

use std::collections::BTreeSet;

use super::baseline::{added, any_proc_mount, profile, seccomp};
use super::pod::{Check, Finding, Pod, containers_named, context, found, plural, quoted};
use crate::rows::value::{flag, get, int, list, on, text, texts};

/// By their names in upstream, in the order in which it tells.
pub(super) const CHECKS: &[(&str, Check)] = &[
    ("allowPrivilegeEscalation", (8, escalation)),
    ("capabilities_restricted", (22, capabilities)),
    ("procMount_restricted", (35, any_proc_mount)),
    ("restrictedVolumes", (0, volumes)),
    ("runAsNonRoot", (0, non_root)),
    ("runAsUser", (23, user)),
    ("seccompProfile_restricted", (19, required_seccomp)),
];

/// What stands for a check of `baseline` where it applies.
pub(super) const INSTEAD: &[(&str, &str)] = &[
    ("capabilities_baseline", "capabilities_restricted"),
    ("procMount", "procMount_restricted"),
    ("seccompProfile_baseline", "seccompProfile_restricted"),
];

fn escalation(pod: Pod<'_>) -> Option<Finding> {
    let containers = pod.bad(|container| flag(context(container), "allowPrivilegeEscalation") != Some(false));
    if containers.is_empty() || pod.is_windows() {
        return None;
    }
    let who = containers_named(&containers);
    found("allowPrivilegeEscalation != false", format!("{who} must set securityContext.allowPrivilegeEscalation=false"))
}

fn capabilities(pod: Pod<'_>) -> Option<Finding> {
    const ALLOWED: &[&str] = &["NET_BIND_SERVICE"];
    let keeps = pod.bad(|container| !texts(get(context(container), "capabilities"), "drop").contains(&"ALL"));
    let adds = pod.bad(|container| !added(container, ALLOWED).is_empty());
    let names: BTreeSet<&str> = pod.containers().flat_map(|container| added(container, ALLOWED)).collect();
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers_named(&keeps)));
    }
    if !adds.is_empty() {
        let who = containers_named(&adds);
        details.push(format!("{who} must not include {} in securityContext.capabilities.add", quoted(names)));
    }
    if details.is_empty() || pod.is_windows() { None } else { found("unrestricted capabilities", details.join("; ")) }
}

const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volumes(pod: Pod<'_>) -> Option<Finding> {
    let source = |volume: &serde_json::Value| {
        let fields = volume.as_object().into_iter().flatten();
        fields.map(|(field, _)| field.clone()).find(|field| field != "name").unwrap_or_else(|| "unknown".to_owned())
    };
    let bad = list(pod.spec, "volumes").iter().map(|volume| (text(volume, "name"), source(volume)));
    let bad: Vec<(&str, String)> = bad.filter(|(_, source)| !VOLUMES.contains(&source.as_str())).collect();
    if bad.is_empty() {
        return None;
    }
    let kinds: BTreeSet<&str> = bad.iter().map(|(_, source)| source.as_str()).collect();
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(bad.iter().map(|(name, _)| name)),
        plural("uses", "use", bad.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(kinds),
    );
    found("restricted volume types", detail)
}

fn non_root(pod: Pod<'_>) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.has_own_users() && pod.minor >= 33 {
        return None;
    }
    if let Some(setters) = pod.setters(|context| flag(context, "runAsNonRoot") == Some(false)) {
        return found(REASON, format!("{setters} must not set securityContext.runAsNonRoot=false"));
    }
    if on(pod.own(), "runAsNonRoot") {
        return None;
    }
    let silent = pod.bad(|container| flag(context(container), "runAsNonRoot").is_none());
    if silent.is_empty() {
        return None;
    }
    found(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers_named(&silent)))
}

fn user(pod: Pod<'_>) -> Option<Finding> {
    if pod.has_own_users() && pod.minor >= 33 {
        return None;
    }
    let setters = pod.setters(|context| int(context, "runAsUser") == Some(0))?;
    found("runAsUser=0", format!("{setters} must not set runAsUser=0"))
}

fn required_seccomp(pod: Pod<'_>) -> Option<Finding> {
    if pod.is_windows() {
        return None;
    }
    if let Some(finding) = seccomp(pod) {
        return Some(finding);
    }
    let silent = pod.bad(|container| profile(context(container)).is_none());
    if profile(pod.own()).is_some() || silent.is_empty() {
        return None;
    }
    let who = containers_named(&silent);
    let detail =
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"");
    found("seccompProfile", detail)
}
