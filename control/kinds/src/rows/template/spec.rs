//! A pod spec as a whole.

use serde_json::Value;

use super::super::value::{flag, get, has, int, list, on, some, text, texts};
use super::super::vocab::{self, Errors};
use super::containers::{self, Shared};
use super::{Context, resources, scheduling, security, volumes};
use crate::{FieldError, Path};

/// Checks a spec.
pub fn check(errs: &mut Errors, path: &Path, spec: &Value, context: Context<'_>) {
    let grace = int(spec, "terminationGracePeriodSeconds");
    if grace.is_none() {
        errs.push(FieldError::required(path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volumes::check(errs, &path.child("volumes"), list(spec, "volumes"), context);
    let claims =
        list(spec, "resourceClaims").iter().map(|claim| text(claim, "name")).filter(|name| !name.is_empty()).collect();
    check_claims(errs, &path.child("resourceClaims"), list(spec, "resourceClaims"));
    let shared = Shared { spec, volumes, claims, grace };
    containers::check_regular(errs, &path.child("containers"), &shared);
    containers::check_init(errs, &path.child("initContainers"), &shared);
    containers::check_ephemeral(errs, &path.child("ephemeralContainers"), &shared);
    resources::check_pod_level(errs, &path.child("resources"), spec);
    if on(spec, "hostNetwork") {
        containers::check_host_network(errs, path, spec, context);
    }
    check_policies(errs, path, spec);
    check_host_users(errs, path, spec);
    check_names(errs, path, spec);
    check_classes(errs, path, spec);
}

fn check_policies(errs: &mut Errors, path: &Path, spec: &Value) {
    let restart = text(spec, "restartPolicy");
    vocab::one_of(errs, &path.child("restartPolicy"), restart, &["Always", "OnFailure", "Never"]);
    let dns = text(spec, "dnsPolicy");
    vocab::one_of(errs, &path.child("dnsPolicy"), dns, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    vocab::labels(errs, &path.child("nodeSelector"), get(spec, "nodeSelector"));
    security::check_pod(errs, &path.child("securityContext"), spec);
    scheduling::check_affinity(errs, &path.child("affinity"), get(spec, "affinity"));
    check_dns(errs, &path.child("dnsConfig"), spec);
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let path = path.child("readinessGates").index(i).child("conditionType");
        vocab::qualified_name(errs, &path, text(gate, "conditionType"));
    }
    scheduling::check_gates(errs, &path.child("schedulingGates"), list(spec, "schedulingGates"));
    let spread = list(spec, "topologySpreadConstraints");
    scheduling::check_spread(errs, &path.child("topologySpreadConstraints"), spread);
}

fn check_claims(errs: &mut Errors, path: &Path, claims: &[Value]) {
    let mut seen = Vec::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = path.index(i);
        let name = text(claim, "name");
        if name.is_empty() {
            errs.push(FieldError::required(path.child("name"), ""));
        } else if seen.contains(&name) {
            errs.push(FieldError::duplicate(path.child("name"), name));
        } else {
            vocab::label(errs, &path.child("name"), name);
            seen.push(name);
        }
        let given: Vec<&str> =
            ["resourceClaimName", "resourceClaimTemplateName"].into_iter().filter(|field| has(claim, field)).collect();
        let message = match given.len() {
            0 => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            1 => "",
            _ => "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
        };
        if !message.is_empty() {
            errs.push(FieldError::invalid(&path, claim.clone(), message));
        }
        for field in given {
            vocab::subdomain(errs, &path.child(field), text(claim, field));
        }
    }
}

fn check_dns(errs: &mut Errors, path: &Path, spec: &Value) {
    let config = some(spec, "dnsConfig");
    let nameservers = config.map(|config| texts(config, "nameservers")).unwrap_or_default();
    if text(spec, "dnsPolicy") == "None" {
        if config.is_none() {
            errs.push(FieldError::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if nameservers.is_empty() {
            let message = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errs.push(FieldError::required(path.child("nameservers"), message));
            return;
        }
    }
    let Some(config) = config else { return };
    if nameservers.len() > 3 {
        let message = "must not have more than 3 nameservers";
        errs.push(FieldError::invalid(path.child("nameservers"), config["nameservers"].clone(), message));
    }
    for (i, nameserver) in nameservers.iter().enumerate() {
        vocab::ip(errs, &path.child("nameservers").index(i), nameserver);
    }
    check_searches(errs, &path.child("searches"), config);
    for (i, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errs.push(FieldError::required(path.child("options").index(i), "must not be empty"));
        }
    }
}

fn check_searches(errs: &mut Errors, path: &Path, config: &Value) {
    let searches = texts(config, "searches");
    if searches.len() > 32 {
        let message = "must not have more than 32 search paths";
        errs.push(FieldError::invalid(path, config["searches"].clone(), message));
    }
    if searches.join(" ").len() > 2048 {
        let message = "must not have more than 2048 characters (including spaces) in the search list";
        errs.push(FieldError::invalid(path, config["searches"].clone(), message));
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        vocab::invalid(errs, &path.index(i), search, vocab::search_errors(search));
    }
}

fn check_host_users(errs: &mut Errors, path: &Path, spec: &Value) {
    if flag(spec, "hostUsers") != Some(false) {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if on(spec, field) {
            errs.push(FieldError::forbidden(path.child(shown), "when `hostUsers` is false"));
        }
    }
}

fn check_names(errs: &mut Errors, path: &Path, spec: &Value) {
    for field in ["serviceAccountName", "nodeName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            vocab::subdomain(errs, &path.child(field), name);
        }
    }
    if let Some(seconds) = int(spec, "activeDeadlineSeconds") {
        let most = i64::from(i32::MAX);
        if !(1..=most).contains(&seconds) {
            errs.push(FieldError::invalid(path.child("activeDeadlineSeconds"), seconds, vocab::between(1, most)));
        }
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            vocab::label(errs, &path.child(field), name);
        }
    }
    scheduling::check_tolerations(errs, &path.child("tolerations"), list(spec, "tolerations"));
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(i);
        vocab::ip(errs, &path.child("ip"), text(alias, "ip"));
        for (j, name) in texts(alias, "hostnames").iter().enumerate() {
            vocab::subdomain(errs, &path.child("hostnames").index(j), name);
        }
    }
}

fn check_classes(errs: &mut Errors, path: &Path, spec: &Value) {
    let priority = text(spec, "priorityClassName");
    if !priority.is_empty() {
        vocab::subdomain(errs, &path.child("priorityClassName"), priority);
    }
    if has(spec, "runtimeClassName") {
        vocab::subdomain(errs, &path.child("runtimeClassName"), text(spec, "runtimeClassName"));
    }
    if has(spec, "preemptionPolicy") {
        let policy = text(spec, "preemptionPolicy");
        vocab::one_of(errs, &path.child("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    if let Some(overhead) = some(spec, "overhead") {
        let limits = serde_json::json!({ "limits": overhead });
        resources::check(errs, &path.child("overhead"), &limits, resources::Of::Container, &[]);
    }
    let Some(os) = some(spec, "os") else { return };
    match text(os, "name") {
        "" => errs.push(FieldError::required(path.child("os").child("name"), "cannot be empty")),
        "windows" => check_windows(errs, path, spec),
        name => vocab::known_value(errs, &path.child("os"), name, &["linux", "windows"]),
    }
}

/// What a Windows pod cannot have; the fields that people really set.
fn check_windows(errs: &mut Errors, path: &Path, spec: &Value) {
    const MESSAGE: &str = "cannot be set for a windows pod";
    let context = get(spec, "securityContext");
    for field in [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
    ] {
        if has(context, field) {
            errs.push(FieldError::forbidden(path.child("securityContext").child(field), MESSAGE));
        }
    }
    for field in ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"] {
        if has(spec, field) {
            errs.push(FieldError::forbidden(path.child(field), MESSAGE));
        }
    }
}
