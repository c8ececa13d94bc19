//! The environment of a container.
//!
//! Invariants
//! - Later sources win: services, then `envFrom` in order, then `env` in order.
//! - `$(NAME)` sees only variables defined before it, and services.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    certificates::v1::ClusterTrustBundle,
    core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret},
};

use crate::{
    field::{self, FieldError, Place},
    services::ServicePort,
};

/// Where a pod's ConfigMaps and Secrets come from. Names are in the pod's namespace.
pub trait Sources {
    fn config_map(&self, name: &str) -> Option<&ConfigMap>;
    fn secret(&self, name: &str) -> Option<&Secret>;

    /// A bundle of trust: those are the cluster's.
    fn trust_bundle(&self, _name: &str) -> Option<&ClusterTrustBundle> {
        None
    }

    /// All of them.
    fn trust_bundles(&self) -> Vec<&ClusterTrustBundle> {
        Vec::new()
    }
}

/// A container cannot be given its environment. The text is for its `waiting` message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { key: String, kind: &'static str, namespace: String, name: String },
    #[error("{0}")]
    Field(#[from] FieldError),
}

/// Everything an environment is made from.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub pod: &'a Pod,
    pub place: &'a Place,
    pub sources: &'a dyn Sources,
    pub services: &'a [ServicePort],
}

/// The variables of a container, sorted by first definition, each name once.
///
/// # Errors
/// The first reference that leads nowhere and is not optional.
pub fn environment(container: &Container, context: &Context<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let mut env = Env::default();
    let services = service_variables(context);
    from_sources(container, context, &mut env)?;
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => {
                Some(expand(value, |name| env.get(name).or_else(|| services.get(name).map(String::as_str))))
            }
            (_, Some(source)) => from_source(container, source, context)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(&var.name, value);
        }
    }
    for (name, value) in services {
        if env.get(&name).is_none() {
            env.set(&name, value);
        }
    }
    Ok(env.order.into_iter().filter_map(|name| env.values.remove(&name).map(|value| (name, value))).collect())
}

#[derive(Default)]
struct Env {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Env {
    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }
}

fn from_sources(container: &Container, context: &Context<'_>, env: &mut Env) -> Result<(), EnvError> {
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or("");
        if let Some(reference) = &source.config_map_ref {
            match context.sources.config_map(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        set_valid(env, prefix, key, value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match context.sources.secret(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        set_valid(env, prefix, key, String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(reference.name.clone())),
            }
        }
    }
    Ok(())
}

/// Keys that cannot name a variable are left out, as upstream does.
fn set_valid(env: &mut Env, prefix: &str, key: &str, value: String) {
    let name = format!("{prefix}{key}");
    if !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        env.set(&name, value);
    }
}

fn from_source(
    container: &Container,
    source: &EnvVarSource,
    context: &Context<'_>,
) -> Result<Option<String>, EnvError> {
    if let Some(reference) = &source.field_ref {
        return Ok(Some(field::field(context.pod, context.place, &reference.field_path)?));
    }
    if let Some(selector) = &source.resource_field_ref {
        let Some(spec) = &context.pod.spec else { return Ok(None) };
        return Ok(Some(field::resource(spec, Some(container), context.place, selector)?));
    }
    let namespace = || context.pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(r) = &source.config_map_key_ref {
        let optional = r.optional == Some(true);
        let Some(map) = context.sources.config_map(&r.name) else {
            return if optional { Ok(None) } else { Err(EnvError::NoConfigMap(r.name.clone())) };
        };
        return match map.data.as_ref().and_then(|data| data.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(EnvError::NoKey {
                key: r.key.clone(),
                kind: "ConfigMap",
                namespace: namespace(),
                name: r.name.clone(),
            }),
        };
    }
    if let Some(r) = &source.secret_key_ref {
        let optional = r.optional == Some(true);
        let Some(secret) = context.sources.secret(&r.name) else {
            return if optional { Ok(None) } else { Err(EnvError::NoSecret(r.name.clone())) };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&r.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(EnvError::NoKey {
                key: r.key.clone(),
                kind: "Secret",
                namespace: namespace(),
                name: r.name.clone(),
            }),
        };
    }
    Ok(Some(String::new()))
}

/// Docker-link style variables of the services in the pod's namespace, and of `kubernetes`.
fn service_variables(context: &Context<'_>) -> BTreeMap<String, String> {
    let links = context.pod.spec.as_ref().is_none_or(|s| s.enable_service_links != Some(false));
    let namespace = context.pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut out = BTreeMap::new();
    // Sorted so that the pod's own namespace overrides the master's service of the same name.
    let master = context.services.iter().filter(|s| s.namespace == "default" && s.name == "kubernetes");
    let own = context.services.iter().filter(|s| links && s.namespace == namespace);
    for service in master.chain(own) {
        let Some(ip) = service.cluster_ips.first() else { continue };
        let prefix = variable_name(&service.name);
        let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        let (protocol, port) = (service.protocol.lower(), service.port);
        let upper = protocol.to_uppercase();
        let first = !out.contains_key(&format!("{prefix}_SERVICE_PORT"))
            || out.get(&format!("{prefix}_SERVICE_HOST")).is_some_and(|h| *h != ip.to_string());
        if first {
            out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_string());
            out.insert(format!("{prefix}_SERVICE_PORT"), port.to_string());
            out.insert(format!("{prefix}_PORT"), format!("{protocol}://{host}:{port}"));
        }
        if !service.port_name.is_empty() {
            out.insert(format!("{prefix}_SERVICE_PORT_{}", variable_name(&service.port_name)), port.to_string());
        }
        let link = format!("{prefix}_PORT_{port}_{upper}");
        out.insert(link.clone(), format!("{protocol}://{host}:{port}"));
        out.insert(format!("{link}_PROTO"), protocol.to_owned());
        out.insert(format!("{link}_PORT"), port.to_string());
        out.insert(format!("{link}_ADDR"), ip.to_string());
    }
    out
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// Replaces `$(NAME)` where the name is known; `$$` is an escaped dollar.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[at..rest.len() - after.len()]),
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    struct Objects(BTreeMap<String, ConfigMap>, BTreeMap<String, Secret>);

    impl Sources for Objects {
        fn config_map(&self, name: &str) -> Option<&ConfigMap> {
            self.0.get(name)
        }
        fn secret(&self, name: &str) -> Option<&Secret> {
            self.1.get(name)
        }
    }

    fn objects() -> Objects {
        let map = ConfigMap {
            data: Some([("k".into(), "v".into()), ("a=b".into(), "bad".into())].into()),
            ..ConfigMap::default()
        };
        let data = [("pass".to_owned(), k8s_openapi::ByteString(b"word".to_vec()))];
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        Objects([("cm".to_owned(), map)].into(), [("sec".to_owned(), secret)].into())
    }

    #[test]
    fn variables_come_from_everywhere() {
        for (name, container, expect) in [
            (
                "values and references",
                "env: [{name: A, value: x}, {name: B, value: '$(A)-$$(A)-$(NO)'}]",
                Ok("A=x B=x-$(A)-$(NO)"),
            ),
            ("config map key", "env: [{name: A, valueFrom: {configMapKeyRef: {name: cm, key: k}}}]", Ok("A=v")),
            ("secret key", "env: [{name: A, valueFrom: {secretKeyRef: {name: sec, key: pass}}}]", Ok("A=word")),
            ("field", "env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]", Ok("A=web")),
            ("all of a map, bad names left out", "envFrom: [{prefix: P_, configMapRef: {name: cm}}]", Ok("P_k=v")),
            ("env wins", "envFrom: [{configMapRef: {name: cm}}], env: [{name: k, value: mine}]", Ok("k=mine")),
            (
                "optional absence",
                "env: [{name: A, valueFrom: {configMapKeyRef: {name: no, key: k, optional: true}}}]",
                Ok(""),
            ),
            (
                "missing map",
                "env: [{name: A, valueFrom: {configMapKeyRef: {name: no, key: k}}}]",
                Err("configmap \"no\" not found"),
            ),
            (
                "missing key",
                "env: [{name: A, valueFrom: {secretKeyRef: {name: sec, key: k}}}]",
                Err("couldn't find key k in Secret default/sec"),
            ),
        ] {
            let pod = pod(&format!("containers: [{{name: a, {container}}}]"));
            let objects = objects();
            let context = Context { pod: &pod, place: &Place::default(), sources: &objects, services: &[] };
            let got = environment(&pod.spec.as_ref().expect("has a spec").containers[0], &context);
            let got = got.map(|env| env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "));
            assert_eq!(got.map_err(|e| e.to_string()), expect.map(str::to_owned).map_err(str::to_owned), "{name}");
        }
    }

    #[test]
    fn services_are_linked() {
        let service = ServicePort {
            namespace: "default".into(),
            name: "my-db".into(),
            port_name: "sql".into(),
            protocol: crate::services::Protocol::Tcp,
            cluster_ips: vec!["10.96.0.7".parse().expect("an address")],
            port: 5432,
            node_port: None,
            external_ips: vec![],
            balancer_ips: vec![],
            announced_ips: vec![],
            source_ranges: None,
            health_check_port: None,
            affinity_seconds: None,
            external_policy_local: false,
            internal_policy_local: false,
            endpoints: vec![],
        };
        let pod = pod("containers: [{name: a, env: [{name: URL, value: 'db at $(MY_DB_SERVICE_HOST)'}]}]");
        let objects = objects();
        let context = Context { pod: &pod, place: &Place::default(), sources: &objects, services: &[service] };
        let env: BTreeMap<_, _> = environment(&pod.spec.as_ref().expect("has a spec").containers[0], &context)
            .expect("resolves")
            .into_iter()
            .collect();
        assert_eq!(env["URL"], "db at 10.96.0.7");
        assert_eq!(env["MY_DB_PORT"], "tcp://10.96.0.7:5432");
        assert_eq!(env["MY_DB_SERVICE_PORT_SQL"], "5432");
        assert_eq!(env["MY_DB_PORT_5432_TCP_ADDR"], "10.96.0.7");
    }
}
