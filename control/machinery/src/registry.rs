//! The resource table: which kinds are served, as a value that may change while a server runs.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use kontiki_model::GroupResource;

use crate::{Name, ResourceDef, openapi::Documents};

/// All rows of one moment, in discovery order: the core group first, then the groups as upstream lists them, the
/// preferred version of a group first.
pub struct Table {
    rows: Vec<Arc<ResourceDef>>,
    /// By group, version and plural.
    paths: HashMap<Name, HashMap<Name, HashMap<Name, Arc<ResourceDef>>>>,
    documents: OnceLock<Documents>,
}

impl Table {
    /// A table of these rows.
    #[must_use]
    pub fn new(rows: Vec<Arc<ResourceDef>>) -> Self {
        let mut paths = HashMap::<Name, HashMap<Name, HashMap<Name, Arc<ResourceDef>>>>::new();
        for def in &rows {
            let versions = paths.entry(def.group.clone()).or_default();
            versions.entry(def.version.clone()).or_default().insert(def.plural.clone(), Arc::clone(def));
        }
        Self { rows, paths, documents: OnceLock::new() }
    }

    /// Every row.
    #[must_use]
    pub fn rows(&self) -> &[Arc<ResourceDef>] {
        &self.rows
    }

    /// Whether something is served in a group.
    #[must_use]
    pub fn has_group(&self, group: &str) -> bool {
        self.paths.contains_key(group)
    }

    /// Whether something is served in a version of a group.
    #[must_use]
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.paths.get(group).is_some_and(|versions| versions.contains_key(version))
    }

    /// The row that serves `plural` in `group`/`version`.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceDef>> {
        self.paths.get(group)?.get(version)?.get(plural)
    }

    /// The row of a kind.
    #[must_use]
    pub fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<ResourceDef>> {
        self.paths.get(group)?.get(version)?.values().find(|def| def.kind == kind)
    }

    /// The row of a resource in its preferred version.
    #[must_use]
    pub fn find_resource(&self, resource: GroupResource<'_>) -> Option<&Arc<ResourceDef>> {
        self.rows.iter().find(|def| def.group_resource() == resource)
    }

    /// Groups in table order, each with its versions.
    #[must_use]
    pub fn groups(&self) -> Vec<(&str, Vec<&str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for def in &self.rows {
            match groups.iter_mut().find(|(group, _)| *group == def.group) {
                Some((_, versions)) if versions.contains(&def.version.as_ref()) => {}
                Some((_, versions)) => versions.push(&def.version),
                None => groups.push((&def.group, vec![&def.version])),
            }
        }
        groups
    }

    /// The OpenAPI documents of these rows, made when first asked for.
    #[must_use]
    pub fn documents(&self) -> &Documents {
        self.documents.get_or_init(|| Documents::new(&self.rows))
    }
}

/// The table of a server. Cheap to clone; all clones see the same rows.
#[derive(Clone)]
pub struct Registry(Arc<ArcSwap<Table>>);

impl Registry {
    /// A registry of these rows.
    #[must_use]
    pub fn new(rows: Vec<ResourceDef>) -> Self {
        let rows = rows.into_iter().map(Arc::new).collect();
        Self(Arc::new(ArcSwap::from_pointee(Table::new(rows))))
    }

    /// The table as it is now.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.0.load_full()
    }

    /// Serves `def` from now on, in the place of a row of the same group, version and plural if there is one.
    pub fn put(&self, def: ResourceDef) {
        let def = Arc::new(def);
        self.0.rcu(|table| {
            let same =
                |row: &ResourceDef| (row.group == def.group && row.version == def.version) && row.plural == def.plural;
            let mut rows = table.rows.clone();
            match rows.iter_mut().find(|row| same(row)) {
                Some(row) => *row = Arc::clone(&def),
                None => rows.push(Arc::clone(&def)),
            }
            Table::new(rows)
        });
    }

    /// Serves a resource no more.
    pub fn remove(&self, group: &str, version: &str, plural: &str) {
        self.0.rcu(|table| {
            let gone = |row: &ResourceDef| row.group == group && row.version == version && row.plural == plural;
            Table::new(table.rows.iter().filter(|row| !gone(row)).cloned().collect())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strategy;

    struct Plain;

    impl Strategy for Plain {}

    fn row(group: &'static str, version: &'static str, plural: &'static str) -> ResourceDef {
        let schema = "io.k8s.api.core.v1.ConfigMap";
        ResourceDef::new((group, version), (plural, "thing", "Thing"), schema, Plain)
    }

    #[test]
    fn rows_come_and_go() {
        let registry = Registry::new(vec![row("", "v1", "a"), row("x", "v2", "a"), row("x", "v1", "b")]);
        let before = registry.table();
        assert_eq!(before.groups(), [("", vec!["v1"]), ("x", vec!["v2", "v1"])]);
        registry.put(row("y", "v1", "c"));
        registry.put(row("x", "v1", "b"));
        registry.remove("x", "v2", "a");
        let after = registry.table();
        assert!(before.find("y", "v1", "c").is_none(), "a table in use stays what it is");
        assert!(after.find("y", "v1", "c").is_some() && after.find("x", "v2", "a").is_none());
        assert_eq!(after.groups(), [("", vec!["v1"]), ("x", vec!["v1"]), ("y", vec!["v1"])]);
        assert!(!after.has_version("x", "v2") && after.has_group("x"));
        let resource = GroupResource { group: "x", resource: "b" };
        assert_eq!(after.find_resource(resource).map(|def| def.api_version()).as_deref(), Some("x/v1"));
        assert!(after.documents().v3("apis/y/v1").is_some());
    }
}
