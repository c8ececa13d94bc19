//! Lists all stable types of k8s-openapi: whatever implements `JsonSchema` in its source, so that none is forgotten.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let package = k8s_openapi();
    let version = package["version"].as_str().expect("a package has a version");
    let manifest = PathBuf::from(package["manifest_path"].as_str().expect("a package has a manifest"));
    let release = release();
    let source = manifest.with_file_name("src").join(&release);

    let mut roots = Vec::new();
    collect(&source, "k8s_openapi", &mut roots).expect("k8s-openapi's source can be read");
    roots.sort();
    let calls: String = roots.iter().map(|root| format!("    generator.subschema_for::<{root}>();\n")).collect();
    let code = format!("fn add_all(generator: &mut schemars::SchemaGenerator) {{\n{calls}}}\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("roots.rs"), code).expect("OUT_DIR can be written");
    println!("cargo::rustc-env=K8S_OPENAPI={version}");
    println!("cargo::rustc-env=RELEASE={release}");
}

/// What cargo knows of the package.
fn k8s_openapi() -> Value {
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO");
    let output = Command::new(cargo).args(["metadata", "--format-version=1", "--locked"]).output();
    let output = output.expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    packages.into_iter().find(|package| package["name"] == "k8s-openapi").expect("k8s-openapi is a dependency")
}

/// The release whose feature is on, e.g. `v1_37`.
fn release() -> String {
    let own = fs::read_to_string("Cargo.toml").expect("the manifest can be read");
    let line = own.lines().find(|line| line.starts_with("k8s-openapi")).expect("k8s-openapi is a dependency");
    line.split('"').find(|word| word.starts_with("v1_")).expect("a release is chosen").to_owned()
}

/// Adds the paths of all types below `folder`, which is the module `path`.
fn collect(folder: &Path, path: &str, roots: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().into_string().expect("names of modules are text");
        if entry.file_type()?.is_dir() {
            if !name.contains("alpha") && !name.contains("beta") {
                collect(&entry.path(), &format!("{path}::{name}"), roots)?;
            }
            continue;
        }
        for line in fs::read_to_string(entry.path())?.lines() {
            let Some((generics, ty)) = line.strip_prefix("impl").and_then(|rest| rest.split_once("JsonSchema for "))
            else {
                continue;
            };
            let ty = ty.trim_end_matches(['{', ' ']);
            let ty = if generics.starts_with("<T>") { ty.replace("<T>", "<()>") } else { ty.to_owned() };
            roots.push(format!("{path}::{ty}"));
        }
    }
    Ok(())
}
