//! Compiling and evaluating upstream's example policies.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use kontiki_cel::{Activation, Env, PER_CALL_LIMIT, Type};
use serde_json::json;

/// Of Kubernetes' documentation of validating admission policies.
const POLICIES: [(&str, &str); 6] = [
    ("replicas", "object.spec.replicas <= 5"),
    ("replicas by params", "object.spec.replicas <= params.maxReplicas"),
    ("images", "object.spec.template.spec.containers.all(c, c.image.startsWith('registry.example.com/'))"),
    (
        "labels",
        "has(object.metadata.labels) && object.metadata.labels.all(k, k.size() < 64 && object.metadata.labels[k].size() < 64)",
    ),
    (
        "security",
        "object.spec.template.spec.containers.all(c, has(c.securityContext) && has(c.securityContext.runAsNonRoot) && c.securityContext.runAsNonRoot)",
    ),
    (
        "limits",
        "object.spec.template.spec.containers.all(c, quantity(c.resources.limits.memory).isLessThan(quantity('1Gi')) && c.name.matches('^[a-z0-9-]+$'))",
    ),
];

fn env() -> Env {
    Env::new(36).variable("object", Type::Dyn).variable("oldObject", Type::Dyn).variable("params", Type::Dyn)
}

fn policies(c: &mut Criterion) {
    let container = |name: &str| {
        json!({
            "name": name,
            "image": format!("registry.example.com/team/{name}:1.0"),
            "securityContext": {"runAsNonRoot": true},
            "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}}
        })
    };
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "prod", "labels": {"app": "web", "tier": "front", "env": "prod"}},
        "spec": {"replicas": 3, "template": {"spec": {"containers": [container("a"), container("b"), container("c")]}}}
    });
    let params = json!({"maxReplicas": 5});
    let env = env();
    for (name, text) in POLICIES {
        c.bench_function(&format!("compile/{name}"), |b| b.iter(|| env.compile(black_box(text)).is_ok()));
        let program = env.compile(text).expect("an example compiles");
        let activation = Activation::new().json("object", &object, None).json("params", &params, None);
        let (result, _) = program.evaluate(&activation, PER_CALL_LIMIT);
        assert_eq!(result.expect("an example runs").as_bool(), Some(true), "{name}");
        c.bench_function(&format!("evaluate/{name}"), |b| {
            b.iter(|| program.evaluate(black_box(&activation), PER_CALL_LIMIT).1);
        });
    }
}

criterion_group!(benches, policies);
criterion_main!(benches);
