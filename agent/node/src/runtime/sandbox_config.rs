//! A pod's sandbox in the runtime's words.
//!
//! Invariants
//! - Nothing here asks the runtime or writes a file.

use std::collections::HashMap;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kontiki_agent_plan::{resources::Qos, rules, services::Protocol};

use super::{dns, labels, log_files, security, settings::Settings};

fn text(field: &Option<String>) -> String {
    field.clone().unwrap_or_default()
}

/// Everything the runtime needs to make the pod's sandbox.
pub(crate) fn sandbox(settings: Settings<'_>, pod: &Pod, spec: &PodSpec, attempt: u32) -> cri::PodSandboxConfig {
    let host_network = spec.host_network == Some(true);
    let (mut name, domain) = dns::hostname(settings, pod, spec);
    if spec.set_hostname_as_fqdn == Some(true)
        && let Some(domain) = domain
    {
        name = format!("{name}.{domain}");
    }
    let uid = text(&pod.metadata.uid);
    let mut annotations: HashMap<_, _> = pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect();
    annotations.insert("kubernetes.io/config.source".to_owned(), "api".to_owned());
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: text(&pod.metadata.name),
            uid: uid.clone(),
            namespace: text(&pod.metadata.namespace),
            attempt,
        }),
        // The runtime refuses a name where there is no namespace to set it in.
        hostname: if host_network { String::new() } else { name },
        log_directory: log_files::dir(settings.config, pod).display().to_string(),
        dns_config: dns::resolver(settings, pod, spec),
        port_mappings: if host_network { Vec::new() } else { port_mappings(spec) },
        labels: labels::of_sandbox(pod),
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: Qos::of(spec).cgroup_parent(&uid),
            security_context: Some(security::of_sandbox(spec)),
            sysctls: sysctls(spec),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        windows: None,
    }
}

fn sysctls(spec: &PodSpec) -> HashMap<String, String> {
    let sysctls = spec.security_context.as_ref().and_then(|s| s.sysctls.as_ref());
    sysctls.into_iter().flatten().map(|s| (s.name.replace('/', "."), s.value.clone())).collect()
}

fn port_mappings(spec: &PodSpec) -> Vec<cri::PortMapping> {
    let ports = rules::containers(spec).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let host_port = port.host_port.filter(|p| *p > 0)?;
            let protocol = match Protocol::from_api(port.protocol.as_deref())? {
                Protocol::Tcp => cri::Protocol::Tcp,
                Protocol::Udp => cri::Protocol::Udp,
                Protocol::Sctp => cri::Protocol::Sctp,
            };
            Some(cri::PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port,
                host_ip: text(&port.host_ip),
            })
        })
        .collect()
}
