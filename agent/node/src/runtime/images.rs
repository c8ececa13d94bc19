//! Images: pulls, credentials, mirrors.
//!
//! Invariants
//! - Credentials go to the runtime with the call and are not written anywhere.
//!
//! Mirrors are `hosts.toml` files in containerd's registry directory; it reads them at each pull.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_cri::v1::{AuthConfig, ImageSpec, ImageStatusRequest, PodSandboxConfig, PullImageRequest};
use k8s_openapi::api::core::v1::Secret;
use kontiki_agent_plan::image::registry_host;
use serde::Deserialize;

use super::cri::{Cri, CriError};
use crate::config::{Registries, RegistryAuth, RegistryTls};

/// A pull makes progress or fails; nobody waits longer than this for one image.
const PULL_DEADLINE: Duration = Duration::from_secs(1800);

/// The id of an image that is here, with its size.
///
/// # Errors
/// The runtime's.
pub(crate) async fn local(cri: &Cri, image: &str) -> Result<Option<(String, u64)>, CriError> {
    let spec = ImageSpec { image: image.to_owned(), ..ImageSpec::default() };
    let status = cri.image_status(ImageStatusRequest { image: Some(spec), verbose: false }).await?;
    Ok(status.image.map(|image| (image.id, image.size)))
}

/// Pulls, trying each credential that fits the image's registry, then none.
///
/// # Errors
/// The runtime's answer to the last attempt.
pub(crate) async fn pull(
    cri: &Cri,
    image: &str,
    sandbox: Option<PodSandboxConfig>,
    credentials: Vec<AuthConfig>,
) -> Result<String, CriError> {
    let attempts: Vec<Option<AuthConfig>> =
        if credentials.is_empty() { vec![None] } else { credentials.into_iter().map(Some).collect() };
    let mut last = CriError { code: tonic::Code::Unknown, message: "no attempt was made".to_owned() };
    for auth in attempts {
        let request = PullImageRequest {
            image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
            auth,
            sandbox_config: sandbox.clone(),
        };
        match cri.pull_image(request, PULL_DEADLINE).await {
            Ok(reference) => return Ok(reference),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Credentials for an image: those of the pod's pull secrets first, then those of the node.
///
/// A pull secret speaks of the registry in the image's name and is shown to whoever stands for it,
/// as the kubelet does; the node's credentials go to the one host they are configured for.
pub(crate) fn credentials(image: &str, secrets: &[&Secret], registries: &Registries) -> Vec<AuthConfig> {
    let host = registry_host(image);
    let mut out: Vec<AuthConfig> = secrets.iter().flat_map(|secret| from_secret(secret, image, host)).collect();
    let mirrors = endpoints(host, registries).into_iter().map(|url| authority(&url).to_owned());
    for place in mirrors.chain([host.to_owned()]) {
        let auth = registries.configs.get(&place).and_then(|c| c.auth.as_ref());
        out.extend(auth.map(|auth| from_config(auth, &place)));
    }
    out
}

/// containerd compares the server's address with the host it is about to ask, and reads it as a URL.
fn from_config(auth: &RegistryAuth, host: &str) -> AuthConfig {
    AuthConfig {
        username: auth.username.clone(),
        password: auth.password.clone(),
        auth: auth.auth.clone(),
        identity_token: auth.identity_token.clone(),
        server_address: format!("https://{}", server_of(host)),
        ..AuthConfig::default()
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

fn from_secret(secret: &Secret, image: &str, host: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let modern = data.and_then(|d| d.get(".dockerconfigjson"));
    let legacy = data.and_then(|d| d.get(".dockercfg"));
    let auths = if let Some(bytes) = modern {
        serde_json::from_slice::<DockerConfig>(&bytes.0).map(|c| c.auths).unwrap_or_default()
    } else if let Some(bytes) = legacy {
        serde_json::from_slice(&bytes.0).unwrap_or_default()
    } else {
        BTreeMap::new()
    };
    let fits = |server: &str| {
        let bare = server.trim_start_matches("https://").trim_start_matches("http://");
        let (server_host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let hub = |h: &str| matches!(h, "docker.io" | "index.docker.io" | "registry-1.docker.io");
        let same = server_host == host || (hub(server_host) && hub(host));
        let path = path.trim_end_matches('/');
        same && (path.is_empty() || path == "v1" || path == "v2" || image.contains(&format!("/{path}/")))
    };
    auths.into_iter().filter(|(server, _)| fits(server)).filter_map(|(_, auth)| decode_auth(auth)).collect()
}

fn decode_auth(auth: DockerAuth) -> Option<AuthConfig> {
    let (username, password) = if auth.auth.is_empty() {
        (auth.username, auth.password)
    } else {
        let text = String::from_utf8(BASE64_STANDARD.decode(auth.auth.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        (user.to_owned(), password.to_owned())
    };
    Some(AuthConfig { username, password, ..AuthConfig::default() })
}

/// Writes `hosts.toml` for each registry that the configuration names.
///
/// # Errors
/// If a file cannot be written.
pub(crate) fn write_hosts(certs_dir: &Path, registries: &Registries) -> anyhow::Result<()> {
    let hosts = registries.mirrors.keys().chain(registries.configs.keys());
    for host in hosts.collect::<std::collections::BTreeSet<_>>() {
        // k3s spells the default for all registries "*"; containerd spells it "_default".
        let dir = certs_dir.join(if host == "*" { "_default" } else { host });
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = dir.join("hosts.toml");
        std::fs::write(&path, hosts_toml(host, registries)).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The URLs that stand for a registry; those of "*" where it has none of its own.
fn endpoints(host: &str, registries: &Registries) -> Vec<String> {
    let mirror = registries.mirrors.get(host).or_else(|| registries.mirrors.get("*"));
    let urls = mirror.map(|mirror| mirror.endpoint.as_slice()).unwrap_or_default().iter();
    urls.map(|url| if url.contains("://") { url.clone() } else { format!("https://{url}") }).collect()
}

/// The `host:port` of a URL.
fn authority(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default()
}

/// Where the registry of a host is: Docker's is elsewhere than its name says.
fn server_of(host: &str) -> &str {
    if host == "docker.io" { "registry-1.docker.io" } else { host }
}

fn hosts_toml(host: &str, registries: &Registries) -> String {
    let mut out = String::new();
    if host != "*" {
        out.push_str(&format!("server = {}\n", quoted(&format!("https://{}", server_of(host)))));
    }
    let tls_of = |host: &str| registries.configs.get(host).and_then(|c| c.tls.as_ref());
    let endpoints = endpoints(host, registries);
    for url in &endpoints {
        host_block(&mut out, url, tls_of(authority(url)));
    }
    let own = format!("https://{}", server_of(host));
    // TOML allows a table only once, and a registry may be listed as its own mirror.
    if !endpoints.contains(&own)
        && let Some(tls) = tls_of(host)
    {
        host_block(&mut out, &own, Some(tls));
    }
    out
}

fn host_block(out: &mut String, url: &str, tls: Option<&RegistryTls>) {
    out.push_str(&format!("\n[host.{}]\n  capabilities = [\"pull\", \"resolve\"]\n", quoted(url)));
    let Some(tls) = tls else { return };
    if let Some(ca) = &tls.ca_file {
        out.push_str(&format!("  ca = {}\n", quoted(&ca.display().to_string())));
    }
    if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
        let pair = [cert, key].map(|p| quoted(&p.display().to_string()));
        out.push_str(&format!("  client = [[{}, {}]]\n", pair[0], pair[1]));
    }
    if tls.insecure_skip_verify {
        out.push_str("  skip_verify = true\n");
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Mirror, RegistryConfig};

    #[test]
    fn mirrors_become_hosts_files() {
        let mut registries = Registries::default();
        registries.mirrors.insert("docker.io".into(), Mirror { endpoint: vec!["http://10.0.0.9:5000".into()] });
        let tls = RegistryTls { ca_file: Some("/ca.pem".into()), insecure_skip_verify: true, ..RegistryTls::default() };
        registries.configs.insert("reg.example".into(), RegistryConfig { auth: None, tls: Some(tls) });
        assert_eq!(
            hosts_toml("docker.io", &registries),
            "server = \"https://registry-1.docker.io\"\n\n[host.\"http://10.0.0.9:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        assert_eq!(
            hosts_toml("reg.example", &registries),
            "server = \"https://reg.example\"\n\n[host.\"https://reg.example\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"/ca.pem\"\n  skip_verify = true\n"
        );
    }

    #[test]
    fn pull_secrets_fit_their_registry() {
        let json = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{}"}},"quay.io":{{"username":"q","password":"p"}}}}}}"#,
            BASE64_STANDARD.encode("u:p:w")
        );
        let data = [(".dockerconfigjson".to_owned(), k8s_openapi::ByteString(json.into_bytes()))];
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        for (image, expect) in [("nginx", "u/p:w"), ("quay.io/a/b", "q/p"), ("other.io/a", "")] {
            let got: Vec<_> = credentials(image, &[&secret], &Registries::default())
                .into_iter()
                .map(|a| format!("{}/{}", a.username, a.password))
                .collect();
            assert_eq!(got.join(","), expect, "{image}");
        }
    }

    #[test]
    fn a_registry_that_is_its_own_mirror_is_listed_once() {
        let registries: Registries = serde_json::from_str(
            r#"{"mirrors": {"r.test": {"endpoint": ["https://r.test"]}},
                "configs": {"r.test": {"tls": {"insecure_skip_verify": true}}}}"#,
        )
        .expect("a configuration");
        let toml = hosts_toml("r.test", &registries);
        assert_eq!(toml.matches("[host.").count(), 1, "{toml}");
        assert!(toml.contains("skip_verify = true"), "{toml}");
    }

    #[test]
    fn the_nodes_credentials_go_to_the_host_they_are_for() {
        let registries: Registries = serde_json::from_str(
            r#"{"mirrors": {"quay.io": {"endpoint": ["http://10.0.0.1:5000/v2"]}, "*": {"endpoint": ["any.test"]}},
                "configs": {"10.0.0.1:5000": {"auth": {"username": "m"}}, "quay.io": {"auth": {"username": "q"}},
                            "docker.io": {"auth": {"username": "d"}}, "any.test": {"auth": {"username": "a"}}}}"#,
        )
        .expect("a configuration");
        for (image, expect) in [
            ("quay.io/a/b", "m@https://10.0.0.1:5000 q@https://quay.io"),
            ("nginx", "a@https://any.test d@https://registry-1.docker.io"),
            ("other.io/a", "a@https://any.test"),
        ] {
            let got: Vec<_> = credentials(image, &[], &registries)
                .into_iter()
                .map(|a| format!("{}@{}", a.username, a.server_address))
                .collect();
            assert_eq!(got.join(" "), expect, "{image}");
        }
    }
}
