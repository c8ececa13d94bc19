//! Short notation for tests: pods from YAML flow snippets.

use k8s_openapi::api::core::v1::Pod;

/// A pod `web` in `default` whose `spec` is the given YAML.
pub fn pod(spec: &str) -> Pod {
    let text = format!(
        "{{metadata: {{name: web, namespace: default, uid: u1, generation: 1}}, spec: {{nodeName: n1, {spec}}}}}"
    );
    serde_yaml_ng::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}
