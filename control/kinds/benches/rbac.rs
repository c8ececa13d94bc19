//! What a question costs an index of 10,000 bindings: at most 20 µs.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use kontiki_kinds::{GroupResource, authorize::Rbac};
use kontiki_machinery::access::{Attributes, Authorizer, Objects, User};
use kontiki_model::ObjectKey;
use serde_json::{Value, json};

const BINDINGS: usize = 10_000;

struct Nothing;

impl Objects for Nothing {
    fn get(&self, _: GroupResource<'_>, _: Option<&str>, _: &str) -> Option<Value> {
        None
    }

    fn list<'a>(&'a self, _: GroupResource<'_>, _: &str) -> Box<dyn Iterator<Item = Value> + 'a> {
        Box::new(std::iter::empty())
    }
}

/// `wide`: all beyond namespaces; else in a hundred namespaces.
fn index(wide: bool) -> Rbac {
    let rbac = Rbac::default();
    let put = |resource: &'static str, namespace: Option<&str>, name: &str, object: Value| {
        let resource = GroupResource { group: "rbac.authorization.k8s.io", resource };
        let bytes = serde_json::to_vec(&object).expect("a Value is JSON");
        rbac.changed(&ObjectKey::new(resource, namespace, name), Some(&bytes));
    };
    let rule = |n: usize| json!({"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": [format!("r{n}")]});
    put("clusterroles", None, "many", json!({"rules": (0..30).map(rule).collect::<Vec<_>>()}));
    for n in 0..BINDINGS {
        let namespace = format!("n{}", n % 100);
        let subjects =
            json!([{"kind": "User", "name": format!("u{n}")}, {"kind": "Group", "name": format!("g{}", n % 1000)}]);
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "many"}, "subjects": subjects});
        if wide {
            put("clusterrolebindings", None, &format!("b{n}"), binding);
        } else {
            put("rolebindings", Some(&namespace), &format!("b{n}"), binding);
        }
    }
    rbac
}

fn check(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rbac of 10,000 bindings");
    for (place, wide) in [("in namespaces", false), ("of the cluster", true)] {
        let rbac = index(wide);
        let user = User::new("u42", &["g42", "g43", "g44", "system:authenticated"]);
        for (name, resource) in [("allowed", "r29"), ("refused", "other")] {
            let asked = Attributes { verb: "get", resource, namespace: "n42", ..Attributes::default() };
            group.bench_function(format!("{place}, {name}"), |bencher| {
                bencher.iter(|| rbac.authorize(black_box(&user), black_box(&asked), &Nothing));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, check);
criterion_main!(benches);
