//! Files of one volume that would lie where others do.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::super::value::{get, list, some, text};
use crate::field_error::quote;

/// Warns of keys of a volume that become one file, or a file and a folder of one name, and of one without any source.
pub fn warn(out: &mut Vec<String>, volumes: &[Value]) {
    for volume in volumes {
        let name = quote(text(volume, "name"));
        for (field, kind, named) in [
            ("configMap", "ConfigMap", Some("name")),
            ("secret", "Secret", Some("secretName")),
            ("downwardAPI", "DownwardAPI", None),
        ] {
            if let Some(source) = some(volume, field) {
                let what = of(kind, named.map(|named| text(source, named)));
                overlap(out, &paths(source), &format!("volume {name} ({what}): overlapping paths"));
            }
        }
        if let Some(projected) = some(volume, "projected") {
            warn_projected(out, &name, list(projected, "sources"));
        }
    }
}

fn of(kind: &str, name: Option<&str>) -> String {
    name.map_or_else(|| kind.to_owned(), |name| format!("{kind} {}", quote(name)))
}

fn paths(source: &Value) -> Vec<&str> {
    list(source, "items").iter().map(|item| text(item, "path")).collect()
}

fn warn_projected(out: &mut Vec<String>, name: &str, sources: &[Value]) {
    let empty = |source: &Value| source.as_object().is_none_or(Map::is_empty);
    if sources.is_empty() || sources.iter().any(empty) {
        out.push(format!("volume {name} (Projected) has no sources provided"));
    }
    let mut all = BTreeSet::new();
    for source in sources {
        let (what, own) = projection(source);
        if own.is_empty() {
            continue;
        }
        let message = format!("volume {name} (Projected {what}): overlapping paths");
        overlap(out, &own, &message);
        // Those of sources before come along, each once.
        let own: BTreeSet<&str> = own.into_iter().collect();
        let mut together: Vec<&str> = own.iter().chain(&all).copied().collect();
        together.sort_unstable();
        overlap(out, &together, &message);
        all.extend(own);
    }
}

/// What a source is, and where its files lie.
fn projection(source: &Value) -> (String, Vec<&str>) {
    for (field, kind, named) in
        [("configMap", "ConfigMap", true), ("secret", "Secret", true), ("downwardAPI", "DownwardAPI", false)]
    {
        if let Some(source) = some(source, field) {
            return (of(kind, named.then(|| text(source, "name"))), paths(source));
        }
    }
    if let Some(token) = some(source, "serviceAccountToken") {
        return ("ServiceAccountToken".into(), vec![text(token, "path")]);
    }
    let bundle = get(source, "clusterTrustBundle");
    let name = match text(bundle, "name") {
        "" => text(bundle, "signerName"),
        name => name,
    };
    let own = if bundle.is_null() { Vec::new() } else { vec![text(bundle, "path")] };
    (of("ClusterTrustBundle", Some(name)), own)
}

fn overlap(out: &mut Vec<String>, paths: &[&str], message: &str) {
    let mut seen: Vec<&str> = Vec::new();
    for path in paths.iter().map(|path| path.trim_end_matches('/')) {
        if let Some(other) = seen.iter().find(|other| collide(other, path)) {
            out.push(format!("{message}: {} with {}", quote(path), quote(other)));
        }
        if !seen.contains(&path) {
            seen.push(path);
        }
    }
}

/// Upstream compares the texts, so that `a` lies in the way of `ab`.
fn collide(one: &str, other: &str) -> bool {
    if one.is_empty() || other.is_empty() {
        return false;
    }
    one == other || format!("{one}/").starts_with(other) || format!("{other}/").starts_with(one)
}
