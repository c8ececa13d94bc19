//! What is compiled once.

use std::collections::BTreeSet;
use std::process::Command;

use kontiki_chaos_tests::checkout;
use serde_json::Value;

/// Libraries that `cargo` would compile for a command: package, where it runs, and features.
fn libraries(command: &[&str]) -> BTreeSet<String> {
    let cargo = Command::new("cargo")
        .args(command)
        .args(["--unit-graph", "-Zunstable-options"])
        .envs([
            ("__CARGO_TEST_CHANNEL_OVERRIDE_DO_NOT_USE_THIS", "nightly"),
            ("CARGO_RESOLVER_FEATURE_UNIFICATION", "workspace"),
            ("CARGO_UNSTABLE_FEATURE_UNIFICATION", "true"),
        ])
        .current_dir(checkout())
        .output()
        .expect("cargo runs");
    let graph: Value = serde_json::from_slice(&cargo.stdout)
        .unwrap_or_else(|_| panic!("cargo {command:?}: {}", String::from_utf8_lossy(&cargo.stderr)));
    let units = graph["units"].as_array().expect("a list of units");
    units
        .iter()
        .filter(|unit| unit["mode"] == "build" && unit["target"]["kind"] != serde_json::json!(["bin"]))
        .map(|unit| format!("{} {} {}", unit["pkg_id"], unit["platform"], unit["features"]))
        .collect()
}

/// A feature that only a dependency of tests asks for would make two libraries of one, and of everything above it: the
/// workspace would be compiled once for `make up` and once more for `make test`.
#[test]
fn tests_are_built_of_what_the_product_is_built_of() {
    let tests = libraries(&["test", "--workspace", "--lib", "--bins", "--tests"]);
    for product in [&["build", "--package", "kontiki"][..], &["build", "--workspace", "--bins"]] {
        let product = libraries(product);
        assert!(!product.is_empty());
        let twice: Vec<_> = product.difference(&tests).collect();
        assert!(twice.is_empty(), "compiled once more for tests, with other features: {twice:#?}");
    }
}
