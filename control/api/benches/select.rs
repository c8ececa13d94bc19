//! Lists that a selector narrows: 10,000 pods of about 4 KiB, of which 100 pass.

use axum::body::Body;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http_body_util::BodyExt;
use kontiki_model::{GroupResource, ObjectKey};
use kontiki_store::{Op, Txn};
use serde_json::json;
use tokio::runtime::Runtime;

#[path = "../tests/api/common/mod.rs"]
mod common;

const PODS: GroupResource<'static> = GroupResource { group: "", resource: "pods" };
const COUNT: usize = 10_000;
/// One of so many passes.
const SHARE: usize = 100;

async fn fill(world: &common::World) {
    let filler = "x".repeat(3500);
    for batch in (0..COUNT).collect::<Vec<_>>().chunks(100) {
        let put = |n: &usize| {
            let group = format!("g{}", n % SHARE);
            let pod = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("p{n}"), "namespace": "a", "labels": {"app": group, "x": "y"},
                             "annotations": {"filler": filler}},
                "spec": {"nodeName": group, "containers": [{"name": "c", "image": "i"}]}});
            let key = ObjectKey::new(PODS, Some("a"), &format!("p{n}")).encode();
            Op::put(key, serde_json::to_vec(&pod).expect("JSON"))
        };
        world.store.txn(Txn::write(batch.iter().map(put).collect())).await.expect("a write");
    }
}

async fn list(world: &common::World, path: &str) -> usize {
    let request = http::Request::get(path).body(Body::empty()).expect("a request");
    let response = world.api.answer(Some(common::admin()), request).await;
    response.into_body().collect().await.expect("a body").to_bytes().len()
}

fn selectors(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let world = runtime.block_on(common::World::new());
    runtime.block_on(fill(&world));
    let mut group = criterion.benchmark_group("list 100 of 10,000 pods");
    group.sample_size(10);
    for (name, query) in
        [("by label", "labelSelector=app%3Dg7"), ("by spec.nodeName", "fieldSelector=spec.nodeName%3Dg7")]
    {
        let path = format!("/api/v1/pods?{query}");
        let size = runtime.block_on(list(&world, &path));
        assert!(size > COUNT / SHARE * 3500, "{size}");
        group.bench_function(name, |bencher| {
            bencher.iter_batched(|| (), |()| runtime.block_on(list(&world, &path)), BatchSize::PerIteration);
        });
    }
    group.finish();
    runtime.block_on(async move { drop(world) });
}

criterion_group!(benches, selectors);
criterion_main!(benches);
