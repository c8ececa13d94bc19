//! The checks of `baseline`: what is known to lead out of a container.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pod::{Check, Finding, Pod, containers_named, context, found, plural, quoted};
use crate::rows::value::{at, get, has, list, num, on, some, text, text_entries, texts};

/// By their names in upstream, in the order in which it tells.
pub(super) const CHECKS: &[(&str, Check)] = &[
    ("appArmorProfile", (0, app_armor)),
    ("capabilities_baseline", (0, capabilities)),
    ("hostNamespaces", (0, host_namespaces)),
    ("hostPathVolumes", (0, host_paths)),
    ("hostPorts", (0, host_ports)),
    ("hostProbesAndHostLifecycle", (34, hosts)),
    ("privileged", (0, privileged)),
    ("procMount", (0, proc_mount)),
    ("seLinuxOptions", (0, selinux)),
    ("seccompProfile_baseline", (19, seccomp)),
    ("sysctls", (0, sysctls)),
    ("windowsHostProcess", (0, host_process)),
];

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

fn app_armor(pod: Pod<'_>) -> Option<Finding> {
    let kind = |context| some(get(context, "appArmorProfile"), "type").and_then(Value::as_str);
    let bad = |kind: &&str| !["RuntimeDefault", "Localhost"].contains(kind);
    let mut setters: Vec<String> = pod.setters(|context| kind(context).as_ref().is_some_and(bad)).into_iter().collect();
    let mut values: Vec<String> =
        pod.values(|context| kind(context).filter(bad)).into_iter().map(str::to_owned).collect();
    let annotations = text_entries(pod.meta, "annotations").filter(|(key, value)| {
        let good = value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/");
        key.starts_with(APP_ARMOR) && !good
    });
    let annotations: Vec<String> = annotations.map(|(key, value)| format!("{key}={value:?}")).collect();
    if !annotations.is_empty() {
        setters.push(plural("annotation", "annotations", annotations.len()).to_owned());
        values.extend(annotations);
    }
    if setters.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    found(reason, format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(values)))
}

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Capabilities that are added beyond `allowed`.
pub(super) fn added<'a>(container: &'a Value, allowed: &[&str]) -> Vec<&'a str> {
    let mut added = texts(get(context(container), "capabilities"), "add");
    added.retain(|name| !allowed.contains(name));
    added
}

fn capabilities(pod: Pod<'_>) -> Option<Finding> {
    let containers = pod.bad(|container| !added(container, CAPABILITIES).is_empty());
    let names: BTreeSet<&str> = pod.containers().flat_map(|container| added(container, CAPABILITIES)).collect();
    if containers.is_empty() {
        return None;
    }
    let who = containers_named(&containers);
    found(
        "non-default capabilities",
        format!("{who} must not include {} in securityContext.capabilities.add", quoted(names)),
    )
}

fn host_namespaces(pod: Pod<'_>) -> Option<Finding> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| on(pod.spec, field));
    let shared: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { found("host namespaces", shared.join(", ")) }
}

fn host_paths(pod: Pod<'_>) -> Option<Finding> {
    let volumes = list(pod.spec, "volumes").iter().filter(|volume| has(volume, "hostPath"));
    let names: Vec<&str> = volumes.map(|volume| text(volume, "name")).collect();
    if names.is_empty() {
        return None;
    }
    found("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names)))
}

fn host_ports(pod: Pod<'_>) -> Option<Finding> {
    let of = |container| list(container, "ports").iter().map(|port| num(port, "hostPort")).filter(|port| *port != 0);
    let containers = pod.bad(|container| of(container).next().is_some());
    let ports: BTreeSet<String> = pod.containers().flat_map(of).map(|port| port.to_string()).collect();
    if containers.is_empty() {
        return None;
    }
    let word = plural("hostPort", "hostPorts", ports.len());
    let (who, uses) = (containers_named(&containers), plural("uses", "use", containers.len()));
    found(word, format!("{who} {uses} {word} {}", ports.into_iter().collect::<Vec<_>>().join(", ")))
}

fn hosts_of(container: &Value) -> Vec<&str> {
    let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|field| get(container, field));
    let handlers = ["postStart", "preStop"].map(|field| at(container, &["lifecycle", field]));
    let all = probes.into_iter().chain(handlers);
    let hosts = all.flat_map(|probe| ["httpGet", "tcpSocket"].map(|field| text(get(probe, field), "host")));
    hosts.filter(|host| !host.is_empty()).collect()
}

fn hosts(pod: Pod<'_>) -> Option<Finding> {
    let containers: BTreeSet<&str> = pod.bad(|container| !hosts_of(container).is_empty()).into_iter().collect();
    let hosts: BTreeSet<&str> = pod.containers().flat_map(hosts_of).collect();
    if containers.is_empty() {
        return None;
    }
    let containers: Vec<&str> = containers.into_iter().collect();
    let (who, uses) = (containers_named(&containers), plural("uses", "use", containers.len()));
    let word = plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len());
    found("probe or lifecycle host", format!("{who} {uses} {word} {}", quoted(hosts)))
}

fn privileged(pod: Pod<'_>) -> Option<Finding> {
    let containers = pod.bad(|container| on(context(container), "privileged"));
    if containers.is_empty() {
        return None;
    }
    found("privileged", format!("{} must not set securityContext.privileged=true", containers_named(&containers)))
}

/// A pod with users of its own may see all of `/proc`: what is in it is not the node's.
fn proc_mount(pod: Pod<'_>) -> Option<Finding> {
    if pod.has_own_users() && pod.minor >= 34 { None } else { any_proc_mount(pod) }
}

pub(super) fn any_proc_mount(pod: Pod<'_>) -> Option<Finding> {
    let kind =
        |container| some(context(container), "procMount").and_then(Value::as_str).filter(|kind| *kind != "Default");
    let containers = pod.bad(|container| kind(container).is_some());
    let kinds: BTreeSet<&str> = pod.containers().filter_map(kind).collect();
    if containers.is_empty() {
        return None;
    }
    let who = containers_named(&containers);
    found("procMount", format!("{who} must not set securityContext.procMount to {}", quoted(kinds)))
}

fn selinux(pod: Pod<'_>) -> Option<Finding> {
    let engine = pod.minor >= 31;
    let bad_type = |context| {
        let kind = text(get(context, "seLinuxOptions"), "type");
        let good = ["", "container_t", "container_init_t", "container_kvm_t"].contains(&kind);
        (!(good || engine && kind == "container_engine_t")).then_some(kind)
    };
    let sets = |context, field: &str| !text(get(context, "seLinuxOptions"), field).is_empty();
    let setters =
        pod.setters(|context| bad_type(context).is_some() || sets(context, "user") || sets(context, "role"))?;
    let types = pod.values(bad_type);
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    for field in ["user", "role"] {
        if pod.setters(|context| sets(context, field)).is_some() {
            what.push(format!("{field} may not be set"));
        }
    }
    found("seLinuxOptions", format!("{setters} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

/// The type of a context's seccomp profile.
pub(super) fn profile(context: &Value) -> Option<&str> {
    some(get(context, "seccompProfile"), "type").and_then(Value::as_str)
}

/// Who sets a profile that nobody may have.
pub(super) fn seccomp(pod: Pod<'_>) -> Option<Finding> {
    let bad = |context| profile(context).filter(|kind| !["RuntimeDefault", "Localhost"].contains(kind));
    let setters = pod.setters(|context| bad(context).is_some())?;
    let kinds = quoted(pod.values(bad));
    found("seccompProfile", format!("{setters} must not set securityContext.seccompProfile.type to {kinds}"))
}

/// With the version that allowed them first.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: Pod<'_>) -> Option<Finding> {
    let allowed = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && *since <= pod.minor);
    let names = list(pod.own(), "sysctls").iter().map(|sysctl| text(sysctl, "name"));
    let bad: Vec<&str> = names.filter(|name| !allowed(name)).collect();
    if bad.is_empty() { None } else { found("forbidden sysctls", bad.join(", ")) }
}

fn host_process(pod: Pod<'_>) -> Option<Finding> {
    let setters = pod.setters(|context| on(get(context, "windowsOptions"), "hostProcess"))?;
    found("hostProcess", format!("{setters} must not set securityContext.windowsOptions.hostProcess=true"))
}
