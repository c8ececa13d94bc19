//! What fairness costs a request that finds a seat at once.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use futures::FutureExt;
use kontiki_api::User;
use kontiki_api::fairness::{Asked, Fairness, Limits};
use kontiki_machinery::access::Attributes;

fn nothing_waits(c: &mut Criterion) {
    let fairness = Fairness::new(Limits::default());
    let attributes = Attributes { verb: "get", resource: "things", namespace: "a", ..Attributes::default() };
    let deadline = Instant::now() + Duration::from_secs(60);
    for (what, groups) in [
        ("exempt", ["system:masters", "system:authenticated"]),
        ("service account", ["system:serviceaccounts", "system:authenticated"]),
        ("anybody", ["people", "system:authenticated"]),
    ] {
        let user = User::new("system:serviceaccount:a:b", &groups);
        c.bench_function(what, |b| {
            b.iter(|| {
                let asked = Asked { user: &user, attributes: &attributes, limit: None, deadline };
                let (_, permit) = fairness.admit(&asked).now_or_never().expect("there is a seat");
                permit.is_ok()
            });
        });
    }
}

criterion_group!(benches, nothing_waits);
criterion_main!(benches);
