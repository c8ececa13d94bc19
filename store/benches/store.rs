//! Puts a second on three members in one process, over loopback mTLS, every write synced.

#![allow(clippy::unwrap_used)] // a test may panic

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kontiki_store::{Op, Store, Txn};
use support::Pki;
use tokio::runtime::Runtime;

const VALUE: usize = 256;

async fn cluster(pki: &Pki, dir: &std::path::Path) -> Vec<Store> {
    let mut members: Vec<Store> = Vec::new();
    for id in 1..=3 {
        let config = pki.config(id, dir);
        let (name, address) = (config.name.clone(), config.advertise.clone());
        let store = Store::open(config).await.expect("a new directory opens");
        match members.first() {
            None => store.bootstrap().await.expect("the first member bootstraps"),
            Some(first) => first.add_member(id, &name, &address).await.expect("members join"),
        }
        members.push(store);
    }
    members
}

/// Time for `total` puts by `clients` at once, spread over all members.
async fn puts(members: &[Store], clients: usize, total: u64, key: &AtomicU64) -> Duration {
    let started = Instant::now();
    let each = total.div_ceil(clients as u64);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let store = members[client % members.len()].clone();
            let keys: Vec<u64> = (0..each).map(|_| key.fetch_add(1, Ordering::Relaxed) % 10_000).collect();
            tokio::spawn(async move {
                for key in keys {
                    let put = Op::put(format!("/bench/{key:08}"), vec![b'x'; VALUE]);
                    black_box(store.txn(Txn::write(vec![put])).await.expect("a healthy group takes writes"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("clients do not panic");
    }
    started.elapsed().mul_f64(total as f64 / (each * clients as u64) as f64)
}

fn bench(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let (pki, dir) = (Pki::new(), tempfile::tempdir().expect("a temporary directory"));
    let members = runtime.block_on(cluster(&pki, dir.path()));
    let key = AtomicU64::new(0);
    let mut group = c.benchmark_group("puts");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4));
    group.throughput(Throughput::Elements(1));
    for clients in [1, 64, 512] {
        group.bench_function(format!("{clients} clients"), |b| {
            b.iter_custom(|total| runtime.block_on(puts(&members, clients, total, &key)));
        });
    }
    group.finish();
    runtime.block_on(async {
        for store in &members {
            store.crash().await;
        }
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
