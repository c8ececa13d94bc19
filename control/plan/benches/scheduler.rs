//! Decisions a second: 10,000 pods of several shapes over 5,000 nodes; those that ask about each other over 1,000.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use k8s_openapi::api::core::v1::{Node, Pod};
use kontiki_plan::scheduler::{PodInfo, Scheduler};
use serde_json::{Value, json};

const NODES: usize = 5_000;
const FEWER_NODES: usize = 1_000;
const PODS: usize = 10_000;

fn node(n: usize) -> Node {
    let taints = if n.is_multiple_of(50) { json!([{"key": "dedicated", "effect": "NoSchedule"}]) } else { json!([]) };
    let node = json!({
        "metadata": {"name": format!("node-{n}"), "labels": {
            "kubernetes.io/hostname": format!("node-{n}"), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone-{}", n % 3), "disk": if n.is_multiple_of(2) { "ssd" } else { "hdd" },
        }},
        "spec": {"taints": taints},
        "status": {
            "allocatable": {"cpu": "32", "memory": "128Gi", "ephemeral-storage": "500Gi", "pods": "110"},
            "images": [{"names": [format!("registry.example/image-{}", n % 40)], "sizeBytes": 300_000_000}],
        },
    });
    serde_json::from_value(node).expect("a node")
}

/// Pod `n` of a workload; what tells workloads apart is in `shape`.
fn pod(n: usize, workload: usize, shape: &str, cpu: &str) -> Arc<PodInfo> {
    let mut pod = json!({
        "metadata": {"name": format!("pod-{n}"), "namespace": "bench", "labels": {"app": format!("app-{workload}")},
            "uid": format!("00000000-0000-4000-8000-{n:012}"),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "controller": true,
                "uid": format!("workload-{workload}")}]},
        "spec": {"containers": [{"name": "c", "image": format!("registry.example/image-{}", workload % 40),
            "resources": {"requests": {"cpu": cpu, "memory": "256Mi"}}}]},
    });
    if shape == "selecting" {
        pod["spec"]["nodeSelector"] = json!({"disk": "ssd"});
        pod["spec"]["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "preference": {"matchExpressions": [
                {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-1"]}]}}]}});
    }
    ask_about_others(&mut pod["spec"], shape, workload);
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    Arc::new(PodInfo::new(&pod, &[]))
}

fn ask_about_others(spec: &mut Value, shape: &str, workload: usize) {
    let selector = json!({"matchLabels": {"app": format!("app-{workload}")}});
    let term = json!({"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"});
    if shape.contains("spread") {
        let spread = |key: &str| json!({"maxSkew": 2, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector});
        spec["topologySpreadConstraints"] =
            json!([spread("topology.kubernetes.io/zone"), spread("kubernetes.io/hostname")]);
    }
    if shape.contains("apart") {
        spec["affinity"]["podAntiAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]});
    }
}

fn cluster(nodes: usize) -> Scheduler {
    let mut scheduler = Scheduler::default();
    for n in 0..nodes {
        scheduler.set_node(&node(n));
    }
    scheduler
}

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).throughput(Throughput::Elements(PODS as u64));
    for (name, nodes, workloads, shape, cpu) in [
        ("one workload", NODES, 1, "plain", "100m"),
        ("50 workloads", NODES, 50, "plain", "100m"),
        ("50 selecting workloads", NODES, 50, "selecting", "100m"),
        ("every pod another", NODES, PODS, "plain", "100m"),
        ("nothing fits", NODES, 50, "plain", "64"),
        ("50 spread workloads", FEWER_NODES, 50, "spread", "100m"),
        ("50 workloads apart", FEWER_NODES, 50, "apart", "100m"),
        ("50 workloads spread and apart", FEWER_NODES, 50, "spread and apart", "100m"),
    ] {
        let pods: Vec<_> = (0..PODS).map(|n| pod(n, n % workloads, shape, cpu)).collect();
        group.bench_function(name, |bencher| {
            let run = |scheduler: &mut Scheduler| pods.iter().filter(|pod| scheduler.decide(pod).is_ok()).count();
            bencher.iter_batched_ref(|| cluster(nodes), |scheduler| black_box(run(scheduler)), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
