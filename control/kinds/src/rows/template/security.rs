//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::value::{flag, get, has, int, list, on, some, text};
use super::super::vocab::{self, Errors};
use super::mounts;
use crate::{Bad, FieldError, Path};

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

/// Checks the context of a pod. Upstream keeps the host namespaces and `shareProcessNamespace`
/// in it, which shows in paths.
pub fn check_pod(errs: &mut Errors, path: &Path, spec: &Value) {
    let Some(context) = some(spec, "securityContext") else { return };
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        check_id(errs, &path.child(name), int(context, name));
    }
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        check_id(errs, &path.child("supplementalGroups").index(i), group.as_i64());
    }
    if on(spec, "shareProcessNamespace") && on(spec, "hostPID") {
        let message = "ShareProcessNamespace and HostPID cannot both be enabled";
        errs.push(FieldError::invalid(path.child("shareProcessNamespace"), true, message));
    }
    check_sysctls(errs, &path.child("sysctls"), list(context, "sysctls"), spec);
    if has(context, "fsGroupChangePolicy") {
        let policy = text(context, "fsGroupChangePolicy");
        vocab::known_value(errs, &path.child("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    check_profiles(errs, path, context);
    if has(context, "supplementalGroupsPolicy") {
        let policy = text(context, "supplementalGroupsPolicy");
        vocab::known_value(errs, &path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if has(context, "seLinuxChangePolicy") {
        let policy = text(context, "seLinuxChangePolicy");
        vocab::known_value(errs, &path.child("seLinuxChangePolicy"), policy, &["MountOption", "Recursive"]);
    }
}

fn check_id(errs: &mut Errors, path: &Path, id: Option<i64>) {
    if let Some(id) = id {
        vocab::invalid(errs, path, id, vocab::id_errors(id));
    }
}

fn check_sysctls(errs: &mut Errors, path: &Path, sysctls: &[Value], spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(i).child("name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            errs.push(FieldError::required(&path, ""));
        } else if !sysctl_shaped(name) {
            let regex = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            let message = format!("must have at most 253 characters and match regex {regex}");
            errs.push(FieldError::invalid(&path, name, message));
        } else if seen.contains(name) {
            errs.push(FieldError::duplicate(&path, name));
        }
        seen.insert(name);
        if on(spec, "hostNetwork") && name.starts_with("net.") {
            errs.push(FieldError::invalid(&path, name, "may not be specified when 'hostNetwork' is true"));
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
            || name == "kernel.sem";
        if on(spec, "hostIPC") && ipc {
            errs.push(FieldError::invalid(&path, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn sysctl_shaped(name: &str) -> bool {
    let alnum = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |s: &str| {
        s.bytes().next().is_some_and(alnum)
            && s.bytes().next_back().is_some_and(alnum)
            && s.bytes().all(|c| alnum(c) || c == b'-' || c == b'_')
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn check_profiles(errs: &mut Errors, path: &Path, context: &Value) {
    if let Some(profile) = some(context, "seccompProfile") {
        check_seccomp(errs, &path.child("seccompProfile"), profile);
    }
    if let Some(profile) = some(context, "appArmorProfile") {
        check_app_armor(errs, &path.child("appArmorProfile"), profile);
    }
}

fn check_seccomp(errs: &mut Errors, path: &Path, profile: &Value) {
    let kind = text(profile, "type");
    if kind.is_empty() {
        errs.push(FieldError::required(path.child("type"), "type is required when seccompProfile is set"));
    } else {
        vocab::known_value(errs, &path.child("type"), kind, PROFILES);
    }
    let path = path.child("localhostProfile");
    match (kind, some(profile, "localhostProfile")) {
        ("Localhost", None) => errs.push(FieldError::required(path, "must be set when seccomp type is Localhost")),
        ("Localhost", Some(local)) => mounts::descending_path(errs, &path, local.as_str().unwrap_or("")),
        (_, Some(local)) => {
            let shown = Bad::Raw(format!("{{\"Type\":{},\"LocalhostProfile\":{local}}}", json!(kind)));
            errs.push(FieldError::invalid(path, shown, "can only be set when seccomp type is Localhost"));
        }
        (_, None) => {}
    }
}

fn check_app_armor(errs: &mut Errors, path: &Path, profile: &Value) {
    let kind = text(profile, "type");
    let local = some(profile, "localhostProfile").and_then(Value::as_str);
    let local_path = path.child("localhostProfile");
    match (kind, local) {
        ("Localhost", None) => {
            errs.push(FieldError::required(local_path, "must be set when AppArmor type is Localhost"))
        }
        ("Localhost", Some(local)) => {
            if local.trim() != local {
                errs.push(FieldError::invalid(&local_path, local, "must not be padded with whitespace"));
            } else if local.is_empty() {
                errs.push(FieldError::required(&local_path, "must be set when AppArmor type is Localhost"));
            }
            if local.len() > 4095 {
                errs.push(FieldError::too_long(&local_path, 4095));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(local)) => {
            errs.push(FieldError::invalid(local_path, local, "can only be set when AppArmor type is Localhost"));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => errs.push(FieldError::required(path.child("type"), "type is required when appArmorProfile is set")),
        (kind, _) => vocab::known_value(errs, &path.child("type"), kind, PROFILES),
    }
}

/// Checks the context of a container.
pub fn check_container(errs: &mut Errors, path: &Path, context: &Value, host_users: bool) {
    for name in ["runAsUser", "runAsGroup"] {
        check_id(errs, &path.child(name), int(context, name));
    }
    if has(context, "procMount") {
        let mount = text(context, "procMount");
        vocab::known_value(errs, &path.child("procMount"), mount, &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            errs.push(FieldError::invalid(
                path.child("procMount"),
                mount,
                "`hostUsers` must be false to use `Unmasked`",
            ));
        }
    }
    if let Some(profile) = some(context, "seccompProfile") {
        check_seccomp(errs, &path.child("seccompProfile"), profile);
    }
    check_escalation(errs, path, context);
    if let Some(profile) = some(context, "appArmorProfile") {
        check_app_armor(errs, &path.child("appArmorProfile"), profile);
    }
}

fn check_escalation(errs: &mut Errors, path: &Path, context: &Value) {
    if flag(context, "allowPrivilegeEscalation") != Some(false) {
        return;
    }
    if on(context, "privileged") {
        let message = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errs.push(FieldError::invalid(path, shown(context), message));
    }
    let added = list(get(context, "capabilities"), "add");
    if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
        let message = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errs.push(FieldError::invalid(path, shown(context), message));
    }
}

/// The context as upstream's internal type prints it.
fn shown(context: &Value) -> Bad {
    const FIELDS: &[(&str, &str)] = &[
        ("Capabilities", "capabilities"),
        ("Privileged", "privileged"),
        ("SELinuxOptions", "seLinuxOptions"),
        ("WindowsOptions", "windowsOptions"),
        ("RunAsUser", "runAsUser"),
        ("RunAsGroup", "runAsGroup"),
        ("RunAsNonRoot", "runAsNonRoot"),
        ("ReadOnlyRootFilesystem", "readOnlyRootFilesystem"),
        ("AllowPrivilegeEscalation", "allowPrivilegeEscalation"),
        ("ProcMount", "procMount"),
        ("SeccompProfile", "seccompProfile"),
        ("AppArmorProfile", "appArmorProfile"),
    ];
    let fields: Vec<String> =
        FIELDS.iter().map(|(shown, name)| format!("\"{shown}\":{}", show_field(name, get(context, name)))).collect();
    Bad::Raw(format!("{{{}}}", fields.join(",")))
}

fn show_field(name: &str, value: &Value) -> String {
    let inner: &[(&str, &str)] = match name {
        _ if value.is_null() => return "null".into(),
        "capabilities" => &[("Add", "add"), ("Drop", "drop")],
        "seLinuxOptions" => &[("User", "user"), ("Role", "role"), ("Type", "type"), ("Level", "level")],
        "seccompProfile" | "appArmorProfile" => &[("Type", "type"), ("LocalhostProfile", "localhostProfile")],
        _ => return value.to_string(),
    };
    let part = |field: &str| match (get(value, field), name) {
        (Value::Null, "seLinuxOptions") => "\"\"".to_owned(),
        (value, _) => value.to_string(),
    };
    let fields: Vec<String> = inner.iter().map(|(shown, field)| format!("\"{shown}\":{}", part(field))).collect();
    format!("{{{}}}", fields.join(","))
}
