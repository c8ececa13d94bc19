//! Files of one volume that would lie where others do.

use serde_json::{Map, Value};

use super::super::value::{get, has, list, some, text};
use crate::field_error::quote;

/// Where a file is to lie, and whose it is; empty: the volume has one source only.
#[derive(Clone, PartialEq, Eq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn new(path: &str, source: impl Into<String>) -> Self {
        Self { path: path.trim_end_matches('/').to_owned(), source: source.into() }
    }

    /// Whether both cannot be there: they are one file, or one is a folder that the other lies in.
    fn collides(&self, other: &Self) -> bool {
        let (one, two) = (format!("{}/", self.path), format!("{}/", other.path));
        !self.path.is_empty() && !other.path.is_empty() && (one.starts_with(&two) || two.starts_with(&one))
    }

    fn shown(&self) -> String {
        let path = quote(&self.path);
        if self.source.is_empty() { path } else { format!("{path} ({})", self.source) }
    }
}

/// Warns of files in each other's way, and of sources without a kind.
pub fn warn(out: &mut Vec<String>, volumes: &[Value]) {
    for volume in volumes {
        for (field, kind, named) in [
            ("configMap", "ConfigMap", Some("name")),
            ("secret", "Secret", Some("secretName")),
            ("downwardAPI", "DownwardAPI", None),
        ] {
            if let Some(source) = some(volume, field) {
                let what = of(kind, named.map(|named| text(source, named)));
                overlap(out, volume, &what, files(source, ""));
            }
        }
        let sources = list(get(volume, "projected"), "sources");
        for _ in sources.iter().filter(|source| source.as_object().is_none_or(Map::is_empty)) {
            out.push(format!("volume {} (Projected) has no sources provided", quote(text(volume, "name"))));
        }
        overlap(out, volume, "Projected", sources.iter().flat_map(projection).collect());
    }
}

fn of(kind: &str, name: Option<&str>) -> String {
    name.map_or_else(|| kind.to_owned(), |name| format!("{kind} {}", quote(name)))
}

fn files(source: &Value, what: &str) -> Vec<File> {
    list(source, "items").iter().map(|item| File::new(text(item, "path"), what)).collect()
}

/// The files of a source of a projected volume.
fn projection(source: &Value) -> Vec<File> {
    for (field, kind, named) in
        [("configMap", "ConfigMap", true), ("secret", "Secret", true), ("downwardAPI", "DownwardAPI", false)]
    {
        if let Some(source) = some(source, field).filter(|source| has(source, "items")) {
            return files(source, &of(kind, named.then(|| text(source, "name"))));
        }
    }
    if let Some(token) = some(source, "serviceAccountToken") {
        return vec![File::new(text(token, "path"), "ServiceAccountToken")];
    }
    if let Some(bundle) = some(source, "clusterTrustBundle") {
        let name = if has(bundle, "name") { "name" } else { "signerName" };
        return vec![File::new(text(bundle, "path"), of("ClusterTrustBundle", Some(text(bundle, name))))];
    }
    let certificate = get(source, "podCertificate");
    let parts = [("certificateChainPath", "chain"), ("keyPath", "key"), ("credentialBundlePath", "credential bundle")];
    let parts = parts.into_iter().filter(|(field, _)| !text(certificate, field).is_empty());
    parts.map(|(field, what)| File::new(text(certificate, field), format!("PodCertificate {what}"))).collect()
}

fn overlap(out: &mut Vec<String>, volume: &Value, what: &str, files: Vec<File>) {
    let name = quote(text(volume, "name"));
    for (i, file) in files.iter().enumerate() {
        for other in files[..i].iter().filter(|other| other.collides(file)) {
            out.push(format!("volume {name} ({what}): overlapping paths: {} with {}", file.shown(), other.shown()));
        }
    }
}
