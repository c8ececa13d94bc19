//! Discovery of what servers behind serve, added to that of what is served here.

use std::collections::BTreeMap;
use std::sync::Arc;

use kontiki_machinery::Table;
use kontiki_machinery::delegate::Delegate;
use serde_json::{Value, json};

use crate::{Api, specs};

/// The versions that others serve, in order; those that are kept here are not theirs.
pub(crate) fn delegates(api: &Api, table: &Table) -> Vec<Arc<Delegate>> {
    let Some(aggregation) = api.inner.config.aggregation.as_ref() else { return Vec::new() };
    let all = aggregation.delegates.all();
    all.iter().filter(|delegate| !table.holds(&delegate.group, &delegate.version)).cloned().collect()
}

/// The server that has a document of version 3 of this name.
pub(crate) fn documents_server(api: &Api, table: &Table, wanted: &str) -> Option<Arc<Delegate>> {
    let found = delegates(api, table).into_iter().find(|delegate| specs::name(delegate) == wanted)?;
    api.inner.specs.of(&found).has_v3().then_some(found)
}

/// Adds versions to the groups of an `APIGroupList`, and groups behind those that are there.
pub(crate) fn add_to_list(list: &mut Value, delegates: &[Arc<Delegate>]) {
    let Some(groups) = list["groups"].as_array_mut() else { return };
    for delegate in delegates {
        let known = groups.iter_mut().find(|group| group["name"] == delegate.group.as_str());
        match known {
            Some(group) => add_version(group, delegate),
            None => groups.push(group(delegate)),
        }
    }
}

fn version(delegate: &Delegate) -> Value {
    json!({"groupVersion": format!("{}/{}", delegate.group, delegate.version), "version": delegate.version})
}

/// A group of one version that is served by another.
fn group(delegate: &Delegate) -> Value {
    let version = version(delegate);
    json!({"name": delegate.group, "versions": [version], "preferredVersion": version})
}

fn add_version(group: &mut Value, delegate: &Delegate) {
    let version = version(delegate);
    if let Some(versions) = group["versions"].as_array_mut().filter(|versions| !versions.contains(&version)) {
        versions.push(version);
    }
}

/// The `APIGroup` called `name`, of which `own` is what is served here; `None`: there is none.
pub(crate) fn add_to_group(own: Option<Value>, name: &str, delegates: &[Arc<Delegate>]) -> Option<Value> {
    let mut found = own;
    for delegate in delegates.iter().filter(|delegate| delegate.group == name) {
        match &mut found {
            Some(group) => add_version(group, delegate),
            None => {
                let mut made = group(delegate);
                made["kind"] = "APIGroup".into();
                made["apiVersion"] = "v1".into();
                found = Some(made);
            }
        }
    }
    found
}

/// Adds versions to an `APIGroupDiscoveryList`; `lists` are the `APIResourceList`s that are known of them.
pub(crate) fn add_to_aggregated(
    document: &mut Value,
    delegates: &[Arc<Delegate>],
    lists: impl Fn(&Delegate) -> Option<Arc<Value>>,
) {
    let Some(groups) = document["items"].as_array_mut() else { return };
    for delegate in delegates {
        // What was never seen is not shown; what does not answer any more is shown as it was, and said to be old.
        let Some(list) = lists(delegate) else { continue };
        let freshness = if delegate.available { "Current" } else { "Stale" };
        let version = json!({"version": delegate.version, "resources": resources(&list), "freshness": freshness});
        let known = groups.iter_mut().find(|group| group["metadata"]["name"] == delegate.group.as_str());
        match known.and_then(|group| group["versions"].as_array_mut()) {
            Some(versions) => {
                // In the place of what would be served here.
                versions.retain(|known| known["version"] != delegate.version.as_str());
                versions.push(version);
            }
            None => groups.push(json!({"metadata": {"name": delegate.group}, "versions": [version]})),
        }
    }
}

/// The rows of an `APIResourceList` as aggregated discovery has them.
fn resources(list: &Value) -> Vec<Value> {
    let rows = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut found = BTreeMap::<&str, Value>::new();
    for row in rows {
        let Some(name) = row["name"].as_str().filter(|name| !name.contains('/')) else { continue };
        let scope = if row["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let mut made = json!({"resource": name, "responseKind": kind(row), "scope": scope,
            "singularResource": row["singularName"].as_str().unwrap_or_default(), "verbs": row["verbs"]});
        for field in ["shortNames", "categories"] {
            if row[field].is_array() {
                made[field] = row[field].clone();
            }
        }
        found.insert(name, made);
    }
    for row in rows {
        let Some((name, sub)) = row["name"].as_str().and_then(|name| name.split_once('/')) else { continue };
        let Some(owner) = found.get_mut(name) else { continue };
        let made = json!({"subresource": sub, "responseKind": kind(row), "verbs": row["verbs"]});
        match owner["subresources"].as_array_mut() {
            Some(subs) => subs.push(made),
            None => owner["subresources"] = json!([made]),
        }
    }
    found.into_values().collect()
}

fn kind(row: &Value) -> Value {
    let text = |field: &str| row[field].as_str().unwrap_or_default();
    json!({"group": text("group"), "version": text("version"), "kind": text("kind")})
}

#[cfg(test)]
mod tests {
    use kontiki_machinery::outcall::{Credentials, Place, Target};

    use super::*;

    fn served(group: &str, version: &str) -> Arc<Delegate> {
        let place = Place::Url("https://h".into());
        Arc::new(Delegate {
            group: group.into(),
            version: version.into(),
            target: Target { place, ca_bundle: Vec::new(), credentials: Credentials::default() },
            insecure: false,
            available: false,
            group_priority: 1,
            version_priority: 1,
        })
    }

    #[test]
    fn what_others_serve_stands_behind_what_is_served_here() {
        let own = || {
            json!({"name": "a.io", "versions": [{"groupVersion": "a.io/v1", "version": "v1"}],
            "preferredVersion": {"groupVersion": "a.io/v1", "version": "v1"}})
        };
        let all = [served("a.io", "v2"), served("b.io", "v1")];
        let mut list = json!({ "groups": [own()] });
        add_to_list(&mut list, &all);
        assert_eq!(list["groups"][0]["versions"][1]["groupVersion"], "a.io/v2");
        assert_eq!(list["groups"][0]["preferredVersion"]["version"], "v1");
        assert_eq!(list["groups"][1]["name"], "b.io");
        assert_eq!(add_to_group(Some(own()), "a.io", &all).expect("known")["versions"][1]["version"], "v2");
        assert_eq!(add_to_group(None, "b.io", &all).expect("known")["kind"], "APIGroup");
        assert_eq!(add_to_group(None, "c.io", &all), None);
    }

    #[test]
    fn what_another_serves_stands_in_the_place_of_what_would_be_served_here() {
        let all = [served("a.io", "v1")];
        let version = json!({"groupVersion": "a.io/v1", "version": "v1"});
        let mut list = json!({"groups": [{"name": "a.io", "versions": [version]}]});
        add_to_list(&mut list, &all);
        assert_eq!(list["groups"][0]["versions"], json!([version]));
        let own = |freshness: &str| json!({"version": "v1", "resources": [], "freshness": freshness});
        let mut document = json!({"items": [{"metadata": {"name": "a.io"}, "versions": [own("Current")]}]});
        add_to_aggregated(&mut document, &all, |_| None);
        assert_eq!(document["items"][0]["versions"], json!([own("Current")]), "what it serves is not known");
        add_to_aggregated(&mut document, &all, |_| Some(Arc::new(json!({"resources": []}))));
        assert_eq!(document["items"][0]["versions"], json!([own("Stale")]));
    }

    #[test]
    fn lists_of_resources_become_rows() {
        let list = Arc::new(json!({"resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"], "shortNames": ["t"]},
            {"name": "things/status", "singularName": "", "namespaced": true, "kind": "Thing", "verbs": ["get"]},
            {"name": "lost/status", "kind": "Lost", "verbs": []},
            "nonsense"
        ]}));
        let mut document = json!({"items": [{"metadata": {"name": "a.io"}, "versions": []}]});
        let known = |delegate: &Delegate| (delegate.group == "a.io").then(|| list.clone());
        add_to_aggregated(&mut document, &[served("a.io", "v1"), served("b.io", "v1")], known);
        let none = json!({"group": "", "version": "", "kind": "Thing"});
        let status = json!({"subresource": "status", "responseKind": none, "verbs": ["get"]});
        let thing = json!({"resource": "things", "responseKind": none, "scope": "Namespaced", "singularResource": "thing",
            "verbs": ["get"], "shortNames": ["t"], "subresources": [status]});
        let version = json!({"version": "v1", "resources": [thing], "freshness": "Stale"});
        assert_eq!(document, json!({"items": [{"metadata": {"name": "a.io"}, "versions": [version]}]}));
    }
}
