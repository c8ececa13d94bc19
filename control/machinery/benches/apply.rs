//! What server-side apply costs a write of a Pod of 4 KiB: who owns what, worked out and written down.

use criterion::{Criterion, criterion_group, criterion_main};
use kontiki_machinery::{
    GroupVersionKind,
    apply::{Counted, FieldManager, Single},
    schema,
};
use serde_json::{Value, json};

/// A Pod as its author writes it, about 4 KiB of JSON.
fn pod() -> Value {
    let env = |n: usize| json!({"name": format!("VARIABLE_{n}"), "value": format!("a value of some length {n}")});
    let container = |name: &str| {
        json!({
            "name": name, "image": format!("registry.example/{name}:1.2.3"), "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/run", "--verbose"], "env": (0..12).map(env).collect::<Vec<_>>(),
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 443, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
            "readinessProbe": {"httpGet": {"path": "/ready", "port": 80, "scheme": "HTTP"}, "periodSeconds": 10},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}, {"name": "data", "mountPath": "/data"}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "a", "labels": {"app": "p", "tier": "web"}, "annotations": {"note": "x".repeat(300)}},
        "spec": {
            "containers": [container("one"), container("two")],
            "volumes": [{"name": "config", "configMap": {"name": "c", "defaultMode": 420}}, {"name": "data", "emptyDir": {}}],
            "nodeSelector": {"kind": "fast"}, "serviceAccountName": "default", "restartPolicy": "Always",
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
        },
        "status": {},
    })
}

fn writes(c: &mut Criterion) {
    let schema = schema::known("io.k8s.api.core.v1.Pod");
    let gvk = GroupVersionKind { group: String::new(), version: "v1".into(), kind: "Pod".into() };
    let versions = Single { api_version: "v1", shape: schema.shape() };
    let counted = Counted::default();
    let door = |subresource: &'static str| FieldManager {
        gvk: &gvk,
        schema: &schema,
        versions: &versions,
        subresource,
        counted: &counted,
        now: "2026-01-01T00:00:00Z",
    };
    let sent = pod();
    println!("{} bytes", sent.to_string().len());
    c.bench_function("pod/copy", |b| b.iter(|| sent.clone()));
    c.bench_function("pod/create", |b| {
        b.iter(|| {
            let mut new = sent.clone();
            door("").update(None, &mut new, "kubectl");
            new
        });
    });
    let mut live = sent.clone();
    door("").update(None, &mut live, "kubectl");
    live["metadata"]["uid"] = "u".into();
    c.bench_function("pod/status", |b| {
        b.iter(|| {
            let mut new = live.clone();
            new["status"] = json!({"phase": "Running", "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
            door("status").update(Some(&live), &mut new, "kubelet");
            new
        });
    });
    c.bench_function("pod/update of nothing", |b| {
        b.iter(|| {
            let mut new = live.clone();
            door("").update(Some(&live), &mut new, "kubectl");
            new
        });
    });
    let mut config = sent.clone();
    config.as_object_mut().map(|fields| fields.remove("status"));
    let applied = door("").apply(None, &config, "me", false).expect("nobody is there to conflict with");
    c.bench_function("pod/apply of nothing", |b| {
        b.iter(|| door("").apply(Some(&applied), &config, "me", false).expect("it is as it was"));
    });
    let mut other = config.clone();
    other["spec"]["containers"][0]["image"] = "registry.example/one:2".into();
    c.bench_function("pod/apply of an image", |b| {
        b.iter(|| door("").apply(Some(&applied), &other, "me", false).expect("nobody else owns it"));
    });
}

criterion_group!(benches, writes);
criterion_main!(benches);
