//! Containers: regular, init and ephemeral.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::value::{get, has, int, list, num, some, text};
use super::super::vocab::{self, Errors};
use super::mounts::{self, Volumes};
use super::{Context, env, probes, resources, security};
use crate::{FieldError, Path};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const NOT_INIT: &str = "may not be set for init containers without restartPolicy=Always";

/// What the containers of one spec have in common.
pub struct Shared<'a> {
    /// The spec.
    pub spec: &'a Value,
    /// Its sound volumes.
    pub volumes: Volumes<'a>,
    /// Names of its resource claims.
    pub claims: Vec<&'a str>,
    /// `terminationGracePeriodSeconds`.
    pub grace: Option<i64>,
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

/// Checks the regular containers.
pub fn check_regular(errs: &mut Errors, path: &Path, shared: &Shared<'_>) {
    let containers = list(shared.spec, "containers");
    if containers.is_empty() {
        errs.push(FieldError::required(path, ""));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        check_common(errs, &path, container, shared);
        check_unique(errs, &path, container, &mut names);
        if let Some(lifecycle) = some(container, "lifecycle") {
            probes::check_lifecycle(errs, &path.child("lifecycle"), lifecycle, shared.grace);
        }
        probes::check_all(errs, &path, container, shared.grace);
        check_restart_policy(errs, &path, container);
    }
    check_host_ports(errs, path, containers);
}

/// Checks the init containers.
pub fn check_init(errs: &mut Errors, path: &Path, shared: &Shared<'_>) {
    let mut names: BTreeSet<&str> = list(shared.spec, "containers").iter().map(|c| text(c, "name")).collect();
    for (i, container) in list(shared.spec, "initContainers").iter().enumerate() {
        let item = path.index(i);
        check_common(errs, &item, container, shared);
        check_restart_policy(errs, &item, container);
        check_unique(errs, &item, container, &mut names);
        // They run one after the other: their ports clash only with themselves.
        check_host_ports(errs, path, std::slice::from_ref(container));
        if is_sidecar(container) {
            if let Some(lifecycle) = some(container, "lifecycle") {
                probes::check_lifecycle(errs, &item.child("lifecycle"), lifecycle, shared.grace);
            }
            probes::check_all(errs, &item, container, shared.grace);
            continue;
        }
        for name in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if has(container, name) {
                errs.push(FieldError::forbidden(item.child(name), NOT_INIT));
            }
        }
    }
}

/// Checks the ephemeral containers.
pub fn check_ephemeral(errs: &mut Errors, path: &Path, shared: &Shared<'_>) {
    let others: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|field| list(shared.spec, field))
        .map(|container| text(container, "name"))
        .collect();
    let mut names = others.clone();
    for (i, container) in list(shared.spec, "ephemeralContainers").iter().enumerate() {
        let path = path.index(i);
        check_common(errs, &path, container, shared);
        check_image_blanks(errs, &path, container);
        check_unique(errs, &path, container, &mut names);
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errs.push(FieldError::not_found(path.child("targetContainerName"), target));
        }
        check_ephemeral_fields(errs, &path, container);
    }
}

fn check_ephemeral_fields(errs: &mut Errors, path: &Path, container: &Value) {
    const MESSAGE: &str = "cannot be set for an Ephemeral Container";
    for name in [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ] {
        let given = some(container, name).is_some_and(|value| value.as_object().is_none_or(|map| !map.is_empty()));
        if given {
            errs.push(FieldError::forbidden(path.child(name), MESSAGE));
        }
    }
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        for name in ["subPath", "subPathExpr"] {
            if has(mount, name) {
                errs.push(FieldError::forbidden(path.child("volumeMounts").index(i).child(name), MESSAGE));
            }
        }
    }
}

/// Images must not have blanks around them; in Pods only, as templates always could.
pub fn check_images(errs: &mut Errors, path: &Path, spec: &Value, field: &str) {
    for (i, container) in list(spec, field).iter().enumerate() {
        check_image_blanks(errs, &path.child(field).index(i), container);
    }
}

fn check_image_blanks(errs: &mut Errors, path: &Path, container: &Value) {
    let image = text(container, "image");
    if image.trim() != image {
        errs.push(FieldError::invalid(path.child("image"), image, "must not have leading or trailing whitespace"));
    }
}

fn check_unique<'a>(errs: &mut Errors, path: &Path, container: &'a Value, names: &mut BTreeSet<&'a str>) {
    let name = text(container, "name");
    if !name.is_empty() && !names.insert(name) {
        errs.push(FieldError::duplicate(path.child("name"), name));
    }
}

fn check_common(errs: &mut Errors, path: &Path, container: &Value, shared: &Shared<'_>) {
    match text(container, "name") {
        "" => errs.push(FieldError::required(path.child("name"), "")),
        name => vocab::label(errs, &path.child("name"), name),
    }
    if text(container, "image").is_empty() {
        errs.push(FieldError::required(path.child("image"), ""));
    }
    let policy = text(container, "terminationMessagePolicy");
    vocab::one_of(errs, &path.child("terminationMessagePolicy"), policy, &["File", "FallbackToLogsOnError"]);
    check_ports(errs, &path.child("ports"), list(container, "ports"));
    env::check(errs, &path.child("env"), list(container, "env"));
    env::check_from(errs, &path.child("envFrom"), list(container, "envFrom"));
    mounts::check(errs, &path.child("volumeMounts"), container, &shared.volumes);
    mounts::check_devices(errs, &path.child("volumeDevices"), container, &shared.volumes);
    let pull = text(container, "imagePullPolicy");
    vocab::one_of(errs, &path.child("imagePullPolicy"), pull, &["Always", "IfNotPresent", "Never"]);
    let needs = get(container, "resources");
    resources::check(errs, &path.child("resources"), needs, resources::Of::Container, &shared.claims);
    check_resize_policy(
        errs,
        &path.child("resizePolicy"),
        list(container, "resizePolicy"),
        text(shared.spec, "restartPolicy"),
    );
    if let Some(context) = some(container, "securityContext") {
        let host_users = get(shared.spec, "hostUsers").as_bool().unwrap_or(true);
        security::check_container(errs, &path.child("securityContext"), context, host_users);
    }
}

fn check_ports(errs: &mut Errors, path: &Path, ports: &[Value]) {
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let messages = vocab::port_name_errors(name);
            if messages.is_empty() && !names.insert(name) {
                errs.push(FieldError::duplicate(path.child("name"), name));
            }
            vocab::invalid(errs, &path.child("name"), name, messages);
        }
        match num(port, "containerPort") {
            0 => errs.push(FieldError::required(path.child("containerPort"), "")),
            number => vocab::invalid(errs, &path.child("containerPort"), number, vocab::port_errors(number)),
        }
        if let Some(number) = int(port, "hostPort").filter(|number| *number != 0) {
            vocab::invalid(errs, &path.child("hostPort"), number, vocab::port_errors(number));
        }
        vocab::one_of(errs, &path.child("protocol"), text(port, "protocol"), PROTOCOLS);
    }
}

fn check_host_ports(errs: &mut Errors, path: &Path, containers: &[Value]) {
    let mut taken = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in list(container, "ports").iter().enumerate() {
            let Some(number) = int(port, "hostPort").filter(|number| *number != 0) else { continue };
            let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if taken.contains(&key) {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                errs.push(FieldError::duplicate(path, key.clone()));
            }
            taken.insert(key);
        }
    }
}

fn check_restart_policy(errs: &mut Errors, path: &Path, container: &Value) {
    if has(container, "restartPolicy") {
        let policy = text(container, "restartPolicy");
        vocab::known_value(errs, &path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
    }
    let rules = list(container, "restartPolicyRules");
    let path = path.child("restartPolicyRules");
    if !rules.is_empty() && !has(container, "restartPolicy") {
        errs.push(FieldError::required(&path, "must specify restartPolicy when restart rules are used"));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        vocab::known_value(errs, &path.child("action"), text(rule, "action"), &["Restart", "RestartAllContainers"]);
        match some(rule, "exitCodes") {
            None => errs.push(FieldError::required(path.child("exitCodes"), "must be specified")),
            Some(codes) => {
                let path = path.child("exitCodes");
                vocab::known_value(errs, &path.child("operator"), text(codes, "operator"), &["In", "NotIn"]);
                if list(codes, "values").is_empty() {
                    errs.push(FieldError::required(path.child("values"), "must specify at least one exit code"));
                }
            }
        }
    }
}

fn check_resize_policy(errs: &mut Errors, path: &Path, policies: &[Value], restart: &str) {
    let mut seen = BTreeSet::new();
    for (i, policy) in policies.iter().enumerate() {
        let (resource, how) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            errs.push(FieldError::duplicate(path.index(i), resource));
        }
        vocab::one_of(errs, path, resource, &["cpu", "memory"]);
        vocab::one_of(errs, path, how, &["NotRequired", "RestartContainer"]);
        if restart == "Never" && how != "NotRequired" {
            errs.push(FieldError::invalid(path, how, "must be 'NotRequired' when `restartPolicy` is 'Never'"));
        }
    }
}

/// On the host's network, host ports are the container's ports.
pub fn check_host_network(errs: &mut Errors, path: &Path, spec: &Value, context: Context<'_>) {
    for (i, container) in list(spec, "containers").iter().enumerate() {
        for (j, port) in list(container, "ports").iter().enumerate() {
            let (host, own) = (num(port, "hostPort"), num(port, "containerPort"));
            if (context.is_pod || host != 0) && host != own {
                let path = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                errs.push(FieldError::invalid(path, host, "must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}
