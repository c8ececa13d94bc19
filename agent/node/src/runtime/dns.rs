//! Host names and resolver settings of pods.

use std::net::IpAddr;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::settings::Settings;

const MAX_HOSTNAME: usize = 63;
const MAX_NAMESERVERS: usize = 3;

fn text(field: &Option<String>) -> String {
    field.clone().unwrap_or_default()
}

/// The pod's host name, and its domain if it has one.
pub(crate) fn hostname(settings: Settings<'_>, pod: &Pod, spec: &PodSpec) -> (String, Option<String>) {
    if let Some(name) = spec.hostname_override.as_ref().filter(|n| !n.is_empty()) {
        return (name.clone(), None);
    }
    let own = spec.hostname.clone().filter(|h| !h.is_empty());
    let mut name = own.unwrap_or_else(|| text(&pod.metadata.name));
    if name.len() > MAX_HOSTNAME {
        name.truncate(MAX_HOSTNAME);
        name.truncate(name.trim_end_matches(['-', '.']).len());
    }
    let namespace = text(&pod.metadata.namespace);
    let subdomain = spec.subdomain.as_ref().filter(|s| !s.is_empty());
    (name, subdomain.map(|s| format!("{s}.{namespace}.svc.{}", settings.cluster.cluster_domain)))
}

/// Name servers and search domains of a pod, by the pod's policy.
pub(crate) fn resolver(settings: Settings<'_>, pod: &Pod, spec: &PodSpec) -> Option<cri::DnsConfig> {
    let host_network = spec.host_network == Some(true);
    let mut out = match (spec.dns_policy.as_deref().unwrap_or("ClusterFirst"), settings.name_server()) {
        ("None", _) => cri::DnsConfig::default(),
        ("ClusterFirstWithHostNet", Some(server)) => cluster_dns(settings, pod, server),
        ("ClusterFirst", Some(server)) if !host_network => cluster_dns(settings, pod, server),
        _ => host_dns(),
    };
    if let Some(own) = &spec.dns_config {
        add_unique(&mut out.servers, own.nameservers.iter().flatten().cloned());
        add_unique(&mut out.searches, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = text(&option.name);
            out.options.retain(|known| known.split(':').next() != Some(name.as_str()));
            out.options
                .push(option.value.as_ref().filter(|v| !v.is_empty()).map_or(name.clone(), |v| format!("{name}:{v}")));
        }
    }
    out.servers.truncate(MAX_NAMESERVERS);
    Some(out)
}

fn add_unique(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn cluster_dns(settings: Settings<'_>, pod: &Pod, server: IpAddr) -> cri::DnsConfig {
    let domain = &settings.cluster.cluster_domain;
    let mut searches =
        vec![format!("{}.svc.{domain}", text(&pod.metadata.namespace)), format!("svc.{domain}"), domain.clone()];
    add_unique(&mut searches, host_dns().searches.into_iter());
    cri::DnsConfig { servers: vec![server.to_string()], searches, options: vec!["ndots:5".to_owned()] }
}

/// The machine's own resolver settings.
fn host_dns() -> cri::DnsConfig {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut out = cri::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
            Some("search") => out.searches = words.map(str::to_owned).collect(),
            Some("options") => out.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    out
}
