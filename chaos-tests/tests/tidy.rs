//! Rules of the house that a tool can check (`docs/ARCHITECTURE.md`, "Arrows").

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/kinds.rs"]
mod kinds;
#[path = "tidy/pure.rs"]
mod pure;
#[path = "tidy/sources.rs"]
mod sources;
#[path = "tidy/units.rs"]
mod units;

use kontiki_chaos_tests::checkout;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which workspace crates each crate may depend on. A new edge is an architecture change.
const ARROWS: &[(&str, &[&str])] = &[
    ("kontiki-model", &[]),
    ("kontiki-files", &[]),
    ("kontiki-tls", &[]),
    ("kontiki-gate", &[]),
    ("kontiki-neighbours", &[]),
    ("kontiki-proto", &["kontiki-model"]),
    ("kontiki-state", &["kontiki-model"]),
    ("kontiki-store", &["kontiki-model", "kontiki-files", "kontiki-proto", "kontiki-state"]),
    ("kontiki-etcd", &["kontiki-gate", "kontiki-proto", "kontiki-store"]),
    ("kontiki-regexp", &[]),
    ("kontiki-machinery", &["kontiki-model", "kontiki-regexp"]),
    ("kontiki-cel", &["kontiki-model", "kontiki-regexp"]),
    ("kontiki-kinds", &["kontiki-cel", "kontiki-model", "kontiki-machinery"]),
    ("kontiki-plan", &["kontiki-model"]),
    ("kontiki-cache", &["kontiki-model", "kontiki-store", "kontiki-machinery"]),
    (
        "kontiki-api",
        &[
            "kontiki-model",
            "kontiki-gate",
            "kontiki-tls",
            "kontiki-proto",
            "kontiki-store",
            "kontiki-machinery",
            "kontiki-cache",
        ],
    ),
    ("kontiki-controllers", &["kontiki-model", "kontiki-plan", "kontiki-store", "kontiki-cache", "kontiki-api"]),
    ("kontiki-scheduler", &["kontiki-model", "kontiki-plan", "kontiki-store", "kontiki-cache", "kontiki-api"]),
    (
        "kontiki-server",
        &[
            "kontiki-model",
            "kontiki-files",
            "kontiki-tls",
            "kontiki-gate",
            "kontiki-neighbours",
            "kontiki-proto",
            "kontiki-store",
            "kontiki-etcd",
            "kontiki-machinery",
            "kontiki-kinds",
            "kontiki-cache",
            "kontiki-api",
            "kontiki-plan",
            "kontiki-controllers",
            "kontiki-scheduler",
        ],
    ),
    ("kontiki-agent-plan", &["kontiki-model"]),
    ("kontiki-net", &["kontiki-files", "kontiki-neighbours", "kontiki-agent-plan"]),
    ("kontiki-ingress", &["kontiki-model", "kontiki-gate", "kontiki-agent-plan"]),
    (
        "kontiki-agent",
        &[
            "kontiki-model",
            "kontiki-files",
            "kontiki-tls",
            "kontiki-proto",
            "kontiki-agent-plan",
            "kontiki-net",
            "kontiki-ingress",
        ],
    ),
    ("kontiki", &["kontiki-files", "kontiki-tls", "kontiki-etcd", "kontiki-server", "kontiki-agent", "kontiki-net"]),
    ("kontiki-chaos-tests", &["kontiki-model", "kontiki-etcd-tests"]),
    ("kontiki-sim", &["kontiki-state", "kontiki-store"]),
    ("kontiki-test-ports", &[]),
    ("kontiki-etcd-tests", &["kontiki-proto", "kontiki-test-ports"]),
    ("kontiki-api-load", &["kontiki-etcd-tests", "kontiki-test-ports"]),
    ("kontiki-nemesis", &["kontiki-proto", "kontiki-etcd-tests"]),
    (
        "kontiki-walk",
        &[
            "kontiki-model",
            "kontiki-proto",
            "kontiki-store",
            "kontiki-kinds",
            "kontiki-api",
            "kontiki-plan",
            "kontiki-controllers",
            "kontiki-scheduler",
        ],
    ),
];

/// Crates that decide and never act: no runtime, no I/O, no clock. `deploy/touched.py` reads their names here.
const PURE: &[&str] = &[
    "kontiki-model",
    "kontiki-state",
    "kontiki-regexp",
    "kontiki-machinery",
    "kontiki-cel",
    "kontiki-kinds",
    "kontiki-plan",
    "kontiki-agent-plan",
];
const SHELL_ONLY: &[&str] = &["tokio", "hyper", "axum", "tonic", "rocksdb", "openraft", "nix", "rand"];

/// Crates the agent must never build. (tonic itself brings axum along for its router.)
const NOT_ON_NODES: &[&str] =
    &["rocksdb", "openraft", "kontiki-api", "kontiki-machinery", "kontiki-cel", "kontiki-kinds"];

fn graph() -> cargo_metadata::Metadata {
    cargo_metadata::MetadataCommand::new().current_dir(checkout()).exec().expect("cargo metadata runs")
}

/// Everything that `start` links, dev- and build-dependencies left out.
fn closure(graph: &cargo_metadata::Metadata, start: &str) -> BTreeSet<String> {
    let resolve = graph.resolve.as_ref().expect("cargo metadata resolves");
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let name = |id| graph[id].name.to_string();
    let mut todo: Vec<_> = resolve.nodes.iter().filter(|node| name(&node.id) == start).map(|node| &node.id).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if seen.insert(id) {
            let normal = |dep: &&cargo_metadata::NodeDep| {
                dep.dep_kinds.iter().any(|kind| kind.kind == cargo_metadata::DependencyKind::Normal)
            };
            todo.extend(nodes[id].deps.iter().filter(normal).map(|dep| &dep.pkg));
        }
    }
    seen.into_iter().map(name).collect()
}

/// A crate itself, and each crate that it may use.
fn arrows(name: &str, may: &[&str]) -> Vec<(String, Option<String>)> {
    let uses = may.iter().map(|used| (name.to_owned(), Some((*used).to_owned())));
    uses.chain([(name.to_owned(), None)]).collect()
}

#[test]
fn arrows_point_one_way() {
    let graph = graph();
    let mut found = BTreeSet::new();
    for package in graph.workspace_packages() {
        found.insert((package.name.to_string(), None));
        for dependency in &package.dependencies {
            let tests_only = dependency.kind == cargo_metadata::DependencyKind::Development;
            if dependency.path.is_some() && !tests_only {
                found.insert((package.name.to_string(), Some(dependency.name.clone())));
            }
        }
    }
    let allowed: BTreeSet<_> = ARROWS.iter().flat_map(|(name, may)| arrows(name, may)).collect();
    let (new, gone): (Vec<_>, Vec<_>) = (found.difference(&allowed).collect(), allowed.difference(&found).collect());
    assert!(new.is_empty(), "edges, or crates, that have no place in ARROWS: {new:#?}");
    assert!(gone.is_empty(), "no longer needed in ARROWS: {gone:#?}");
}

#[test]
fn deciders_do_no_io() {
    let graph = graph();
    for package in PURE {
        let direct = graph.workspace_packages().into_iter().find(|p| p.name == *package).expect("a pure crate exists");
        for dependency in &direct.dependencies {
            let shell = SHELL_ONLY.contains(&dependency.name.as_str());
            let normal = dependency.kind == cargo_metadata::DependencyKind::Normal;
            assert!(!(shell && normal), "{package} must not depend on {}", dependency.name);
        }
    }
}

/// `(file, what it says, why)`: no other source of a pure crate says such a thing.
const IMPURE: &[(&str, &str, &str)] = &[(
    "store/state/src/planted.rs",
    "std::env::var: the world is asked by shells",
    "mistakes are planted in tests' builds only",
)];

#[test]
fn deciders_ask_no_clock_and_no_dice() {
    let (root, graph) = (checkout(), graph());
    let mut found = BTreeSet::new();
    for package in graph.workspace_packages().into_iter().filter(|package| PURE.contains(&package.name.as_str())) {
        for (file, said) in product(&root, package) {
            found.extend(pure::offences(&said).into_iter().map(|offence| (file.clone(), offence)));
        }
    }
    let known: BTreeSet<_> =
        IMPURE.iter().map(|(file, offence, _)| ((*file).to_owned(), (*offence).to_owned())).collect();
    let (new, gone): (Vec<_>, Vec<_>) = (found.difference(&known).collect(), known.difference(&found).collect());
    assert!(new.is_empty(), "{new:#?}");
    assert!(gone.is_empty(), "no longer needed in IMPURE: {gone:#?}");
}

/// The one file of the API that asks the machine for time and chance, for all others.
const SYSTEM: &str = "control/api/src/clock.rs";

#[test]
fn the_api_takes_time_and_chance_from_one_source() {
    let sources = sources::read(&checkout(), "control/api/src");
    let (source, others): (Vec<_>, Vec<_>) = sources.iter().partition(|(file, _)| file == SYSTEM);
    assert!(source.iter().any(|(_, said)| !pure::asks_the_machine(said).is_empty()), "{SYSTEM} asks nothing");
    let found: Vec<_> = others.iter().map(|(file, said)| (file, pure::asks_the_machine(said))).collect();
    let wrong: Vec<_> = found.into_iter().filter(|(_, asked)| !asked.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Where the API still names kinds: file and names. To be emptied.
const NAMED: &[(&str, &[&str])] =
    &[("control/api/src/recorder.rs", &["Event"]), ("control/api/src/writes.rs", &["nodes"])];

#[test]
fn no_kind_is_named_by_the_api() {
    let root = checkout();
    let names = kinds::names(&root);
    for name in ["Pod", "pods", "pod", "Node", "ConfigMap", "events", "service"] {
        assert!(names.contains(name), "rows no longer say how they are called in a way that is known here: {names:?}");
    }
    let sources = sources::read(&root, "control/api/src");
    assert!(sources.len() > 20, "the API's sources were not found");
    let pairs = |file: &str, names: BTreeSet<&str>| {
        names.into_iter().map(|name| format!("{file}: {name:?}")).collect::<Vec<_>>()
    };
    let found: BTreeSet<_> = sources.iter().flat_map(|(file, said)| pairs(file, kinds::named(said, &names))).collect();
    let known: BTreeSet<_> =
        NAMED.iter().flat_map(|(file, names)| pairs(file, names.iter().copied().collect())).collect();
    let (new, gone): (Vec<_>, Vec<_>) = (found.difference(&known).collect(), known.difference(&found).collect());
    assert!(new.is_empty(), "the API names kinds, which belongs to their rows: {new:#?}");
    assert!(gone.is_empty(), "no longer needed in NAMED: {gone:#?}");
}

/// `make quick` tests what has changed, what decides, and what stands cheaply on either.
#[test]
fn changed_files_choose_crates() {
    let chosen = |path: &str| -> BTreeSet<String> {
        let mut script = Command::new(checkout().join("deploy/touched.py"));
        let ended = script.args(["--paths", path]).output().expect("the script starts");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let text = String::from_utf8(ended.stdout).expect("names are text");
        text.split_whitespace().filter(|word| *word != "--package").map(str::to_owned).collect()
    };
    let always: BTreeSet<String> = PURE.iter().chain(&["kontiki-chaos-tests"]).map(|name| (*name).to_owned()).collect();
    let cases: [(&str, &[&str]); 6] = [
        ("README.md", &[]),
        ("control/plan/src/lib.rs", &["kontiki-controllers", "kontiki-scheduler"]),
        ("control/kinds/src/lib.rs", &[]),
        ("agent/plan/src/lib.rs", &["kontiki-net"]),
        ("agent/node/src/lib.rs", &["kontiki-agent"]),
        ("chaos-tests/sim/src/lib.rs", &["kontiki-sim"]),
    ];
    for (path, more) in cases {
        let expected = always.iter().cloned().chain(more.iter().map(|name| (*name).to_owned())).collect();
        assert_eq!(chosen(path), expected, "{path}");
    }
}

#[test]
fn nodes_do_not_build_the_store() {
    let closure = closure(&graph(), "kontiki-agent");
    for name in NOT_ON_NODES {
        assert!(!closure.contains(*name), "the agent links {name}");
    }
}

/// Crates whose modules use each other one way only.
const ONE_WAY: &[&str] = &[
    "store/state/src",
    "store/src",
    "control/cache/src",
    "control/api/src",
    "agent/plan/src",
    "agent/net/src",
    "agent/ingress/src",
    "agent/node/src",
    "chaos-tests/sim/src",
];

#[test]
fn modules_do_not_use_each_other_in_circles() {
    for src in ONE_WAY {
        let uses = circles::uses(&checkout().join(src));
        assert!(
            2 * uses.values().map(BTreeSet::len).sum::<usize>() > uses.len(),
            "{src}: nothing uses anything: {uses:?}"
        );
        let knots = circles::knots(&uses);
        assert!(knots.is_empty(), "{src}: {knots:#?}");
    }
}

/// `(pattern, files that may hold it, why)`. Patterns are plain text in Rust sources.
const BANNED: &[(&str, &[&str], &str)] = &[
    ("SystemTime::now", &["store/src", "control/server", "agent/", "cli/", "chaos-tests/"], "deciders take `now`"),
    ("todo!(", &[], "half-done work is not committed"),
    ("unimplemented!(", &[], "half-done work is not committed"),
    ("dbg!(", &[], "left from debugging"),
];

/// Who may spell the keys of the store; tests may.
const KEYS: &[&str] = &["proto/model/src/key.rs", "control/cache/src/object.rs"];

#[test]
fn store_keys_are_made_in_one_place() {
    let (root, graph) = (checkout(), graph());
    let sources = graph.workspace_packages().into_iter().flat_map(|package| product(&root, package));
    let spells = |said: &sources::Said| said.strings.iter().any(|text| text.starts_with("/registry/"));
    let found: BTreeSet<String> = sources.filter(|(_, said)| spells(said)).map(|(file, _)| file).collect();
    let known: BTreeSet<String> = KEYS.iter().map(|file| (*file).to_owned()).collect();
    assert_eq!(found, known, "store keys are made by kontiki_model::key");
}

/// The sources of a crate, tests left out.
fn product(root: &Path, package: &cargo_metadata::Package) -> Vec<(String, sources::Said)> {
    let dir = package.manifest_path.parent().expect("a manifest lies in a directory").join("src");
    sources::read(root, dir.strip_prefix(root).expect("crates lie in the workspace").as_str())
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable directory").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            sources(&path, out);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn banned_patterns_stay_out() {
    let root = checkout();
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let path = file.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
        if path == "chaos-tests/tests/tidy.rs" {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a readable source");
        for (pattern, may, why) in BANNED {
            if text.contains(pattern) && !may.iter().any(|start| path.starts_with(start)) {
                wrong.push(format!("{path}: {pattern}: {why}"));
            }
        }
        if text.lines().count() > 800 && !text.starts_with("//! Long:") && !text.contains("\n//! Long:") {
            wrong.push(format!("{path}: over 800 lines; split it, or say why in a `//! Long:` line"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
