//! What a write of a Pod of 4 KiB costs before it goes to the log: dry runs, all phases and the answer.

use axum::body::Body;
use criterion::{Criterion, criterion_group, criterion_main};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

#[path = "../tests/api/common/mod.rs"]
mod common;
#[allow(dead_code, unused_imports, reason = "Pods are all that is needed here")]
#[path = "../../../chaos-tests/load/src/objects.rs"]
mod objects;

/// As the product has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PODS: &str = "/api/v1/namespaces/a/pods";

/// One request: the length of the answer, whose code must be `expect`.
async fn send(world: &common::World, method: &str, path: &str, media: &str, body: &[u8], expect: u16) -> usize {
    let request = http::Request::builder().method(method).uri(path).header("content-type", media);
    let request = request.body(Body::from(body.to_vec())).expect("a request");
    let response = world.api.answer(Some(common::admin()), request).await;
    assert_eq!(response.status().as_u16(), expect, "{method} {path}");
    response.into_body().collect().await.expect("a body").to_bytes().len()
}

fn pod(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    objects::pod(false).fill(&[name, "g1", ""], &mut out);
    out
}

/// The stored Pod `name` with another value of the annotation that writes change.
async fn turned(world: &common::World, name: &str) -> Vec<u8> {
    let (code, mut stored) = world.get(&format!("{PODS}/{name}")).await;
    assert_eq!(code, 200, "{stored}");
    stored["metadata"]["annotations"][objects::ANNOTATION] = json!("0000000001");
    serde_json::to_vec::<Value>(&stored).expect("JSON")
}

fn writes(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let world = runtime.block_on(common::World::new());
    runtime.block_on(send(&world, "POST", PODS, "application/json", &pod("p"), 201));
    let update = runtime.block_on(turned(&world, "p"));
    let patch = json!({"metadata": {"annotations": {objects::ANNOTATION: "0000000001"}}}).to_string().into_bytes();
    let (one, create) = (format!("{PODS}/p?dryRun=All"), pod("new"));
    let all = format!("{PODS}?dryRun=All");
    let strategic = "application/strategic-merge-patch+json";
    let mut apply: Value = serde_json::from_slice(&pod("p")).expect("JSON");
    apply["metadata"]["annotations"][objects::ANNOTATION] = json!("0000000001");
    let (applied, apply) = (format!("{one}&fieldManager=a&force=true"), apply.to_string().into_bytes());
    let mut group = criterion.benchmark_group("dry run of a 4 KiB Pod");
    for (name, (method, path, media, body, code)) in [
        ("create", ("POST", &all, "application/json", &create, 201)),
        ("update", ("PUT", &one, "application/json", &update, 200)),
        ("strategic merge patch", ("PATCH", &one, strategic, &patch, 200)),
        ("apply", ("PATCH", &applied, "application/apply-patch+yaml", &apply, 200)),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(send(&world, method, path, media, body, code)));
        });
    }
    group.finish();
    runtime.block_on(async move { drop(world) });
}

criterion_group!(benches, writes);
criterion_main!(benches);
