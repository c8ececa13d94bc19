//! A pod of about 4 KiB from its stored JSON into protobuf, as a GET has it, and as a frame of a watch; what going through
//! a value would cost beside it.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kontiki_machinery::encode::protobuf::{Shape, envelope, frame};
use serde_json::{Value, json};

/// About what a Deployment's pod has after a while.
fn pod() -> String {
    let env: Vec<Value> = (0..12)
        .map(|n| json!({"name": format!("VARIABLE_{n}"), "value": format!("some value of number {n}")}))
        .collect();
    let mounts: Vec<Value> = (0..4)
        .map(|n| json!({"name": format!("volume-{n}"), "mountPath": format!("/var/lib/some/place/{n}")}))
        .collect();
    let volumes: Vec<Value> = (0..4)
        .map(|n| json!({"name": format!("volume-{n}"), "configMap": {"name": "settings", "defaultMode": 420}}))
        .collect();
    let conditions: Vec<Value> = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .iter()
        .map(|kind| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}))
        .collect();
    let probe = json!({"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 1});
    let container = json!({"name": "server", "image": "registry.example/team/server:1.2.3", "env": env, "volumeMounts": mounts,
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}], "livenessProbe": probe, "readinessProbe": probe,
        "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent"});
    let labels = json!({"app.kubernetes.io/name": "server", "pod-template-hash": "5d8f9c7b6d"});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "server-5d8f9c7b6d-x7k2p", "namespace": "default",
        "labels": labels, "annotations": {"note": "x".repeat(400)}, "uid": "0b5b1e7e-7d0f-4a53-9f0e-2a7d3f5a9c11",
        "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"containers": [container], "volumes": volumes, "nodeName": "node-1", "serviceAccountName": "default"},
        "status": {"phase": "Running", "conditions": conditions, "podIP": "10.1.2.3", "startTime": "2026-01-02T03:04:05Z"}})
    .to_string()
}

fn measure(criterion: &mut Criterion) {
    let (json, shape) = (pod(), Shape::of("io.k8s.api.core.v1.Pod").expect("a message"));
    let mut group = criterion.benchmark_group(format!("pod of {} bytes", json.len()));
    group.throughput(Throughput::Bytes(json.len() as u64));
    let write =
        |out: &mut Vec<u8>| envelope(("v1", "Pod"), out, |out| shape.write(json.as_bytes(), Some("123456"), out));
    group.bench_function("into protobuf", |bencher| {
        bencher.iter(|| {
            let mut out = Vec::with_capacity(json.len());
            write(&mut out).expect("a pod");
            black_box(out)
        });
    });
    group.bench_function("into a frame", |bencher| bencher.iter(|| black_box(frame("ADDED", write).expect("a pod"))));
    group.bench_function("into a value, for comparison", |bencher| {
        bencher.iter(|| black_box(serde_json::from_str::<Value>(&json).expect("JSON")));
    });
    group.finish();
}

criterion_group!(benches, measure);
criterion_main!(benches);
