//! The resource table: which kinds are served, as a value that may change while a server runs.
//!
//! Some rows are fixed; others a [`Source`] makes of objects in the store, each of which defines a kind.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use kontiki_model::{GroupResource, ObjectKey};
use serde_json::Value;

use crate::{
    Name, ResourceDef,
    openapi::{Document, Documents, Fixed},
};

/// All rows of one moment, in discovery order: the core group first, then the groups as upstream lists them, the
/// preferred version of a group first.
pub struct Table {
    rows: Vec<Arc<ResourceDef>>,
    /// By group, version and plural.
    paths: HashMap<Name, HashMap<Name, HashMap<Name, Arc<ResourceDef>>>>,
    /// Those that show the same objects, by what these are filed under.
    views: HashMap<Name, HashMap<Name, Vec<Arc<ResourceDef>>>>,
    documents: OnceLock<Documents>,
    /// Those that stay when only kinds that came at run time change.
    fixed: Arc<Fixed>,
    /// Aggregated discovery of the other groups, and of the core group.
    aggregated: [OnceLock<Document>; 2],
}

impl Table {
    /// A table of these rows.
    #[must_use]
    pub fn new(rows: Vec<Arc<ResourceDef>>) -> Self {
        let mut paths = HashMap::<Name, HashMap<Name, HashMap<Name, Arc<ResourceDef>>>>::new();
        let mut views = HashMap::<Name, HashMap<Name, Vec<Arc<ResourceDef>>>>::new();
        for def in &rows {
            let (group, plural) = (def.storage.group.clone(), def.storage.plural.clone());
            views.entry(group).or_default().entry(plural).or_default().push(Arc::clone(def));
            let versions = paths.entry(def.group.clone()).or_default();
            versions.entry(def.version.clone()).or_default().insert(def.plural.clone(), Arc::clone(def));
        }
        Self { rows, paths, views, documents: OnceLock::new(), fixed: Arc::default(), aggregated: Default::default() }
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

    /// Whether all kinds of a group came at run time.
    #[must_use]
    pub fn is_custom(&self, group: &str) -> bool {
        let mut rows = self.paths.get(group).into_iter().flat_map(HashMap::values).flat_map(HashMap::values);
        rows.all(|def| def.is_custom())
    }

    /// Whether a version of a group is served here for good: objects of it are stored. What is only measured gives way to
    /// another server.
    #[must_use]
    pub fn holds(&self, group: &str, version: &str) -> bool {
        let rows = self.paths.get(group).and_then(|versions| versions.get(version));
        rows.is_some_and(|rows| rows.values().any(|def| def.measured.is_none()))
    }

    /// The row that serves `plural` in `group`/`version`.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceDef>> {
        self.paths.get(group)?.get(version)?.get(plural)
    }

    /// The rows that show the same objects as `def`, itself included, in table order.
    #[must_use]
    pub fn views(&self, def: &ResourceDef) -> &[Arc<ResourceDef>] {
        let (group, plural) = (&def.storage.group, &def.storage.plural);
        self.views.get(group).and_then(|plurals| plurals.get(plural)).map_or(&[], Vec::as_slice)
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
            // Rows of a group mostly stand together.
            match groups.iter_mut().rev().find(|(group, _)| *group == def.group) {
                Some((_, versions)) if versions.contains(&def.version.as_ref()) => {}
                Some((_, versions)) => versions.push(&def.version),
                None => groups.push((&def.group, vec![&def.version])),
            }
        }
        groups
    }

    /// The aggregated discovery document of these rows, of the core group or the others; `make` makes it when it is first
    /// asked for.
    #[must_use]
    pub fn aggregated(&self, core: bool, make: impl FnOnce() -> Value) -> &Document {
        self.aggregated[usize::from(core)].get_or_init(|| Document::new(&make()))
    }

    /// The OpenAPI documents of these rows, made when first asked for.
    #[must_use]
    pub fn documents(&self) -> &Documents {
        self.documents.get_or_init(|| Documents::new(&self.rows, &self.fixed))
    }
}

/// Makes rows of objects in the store.
pub trait Source: Send + Sync {
    /// The resource whose objects define kinds.
    fn follows(&self) -> GroupResource<'static>;

    /// An object is there as it is stored, or gone. Takes a note only: it is told where nobody may wait.
    fn changed(&self, key: &ObjectKey, stored: Option<Bytes>);

    /// Brings the rows that come from objects to what was noted.
    fn settle(&self, registry: &Registry);
}

/// The table of a server. Cheap to clone; all clones see the same rows.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    table: ArcSwap<Table>,
    source: Option<Arc<dyn Source>>,
}

impl Registry {
    /// A registry of these rows.
    #[must_use]
    pub fn new(rows: Vec<ResourceDef>) -> Self {
        Self::of(rows, None)
    }

    /// A registry of these rows and of those that `source` makes.
    #[must_use]
    pub fn with_source(rows: Vec<ResourceDef>, source: Arc<dyn Source>) -> Self {
        Self::of(rows, Some(source))
    }

    fn of(rows: Vec<ResourceDef>, source: Option<Arc<dyn Source>>) -> Self {
        let rows = rows.into_iter().map(Arc::new).collect();
        Self(Arc::new(Inner { table: ArcSwap::from_pointee(Table::new(rows)), source }))
    }

    /// The table as it is now.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.0.table.load_full()
    }

    /// Where rows come from while a server runs.
    #[must_use]
    pub fn source(&self) -> Option<&Arc<dyn Source>> {
        self.0.source.as_ref()
    }

    /// Brings the rows that come from objects to what is known of those.
    pub fn settle(&self) {
        if let Some(source) = self.source() {
            source.settle(self);
        }
    }

    /// Serves these rows in the place of those for which `replaced` holds, after all others. A row whose place is taken
    /// is left out.
    pub fn replace(&self, replaced: impl Fn(&ResourceDef) -> bool, rows: &[Arc<ResourceDef>]) {
        self.0.table.rcu(|table| {
            let kept: Vec<_> = table.rows.iter().filter(|row| !replaced(row)).cloned().collect();
            let taken = |row: &ResourceDef| {
                kept.iter().any(|other| {
                    (&other.group, &other.version, &other.plural) == (&row.group, &row.version, &row.plural)
                })
            };
            let free = rows.iter().filter(|row| !taken(row)).cloned();
            let built_in = |row: &&Arc<ResourceDef>| row.schema.digest().is_none();
            let same = kept.iter().filter(built_in).count() == table.rows.iter().filter(built_in).count();
            let fixed = if same && rows.iter().all(|row| row.schema.digest().is_some()) {
                Arc::clone(&table.fixed)
            } else {
                Arc::default()
            };
            Table { fixed, ..Table::new(kept.iter().cloned().chain(free).collect()) }
        });
    }

    /// Serves `def` from now on, in the place of a row of the same group, version and plural if there is one.
    pub fn put(&self, def: ResourceDef) {
        let def = Arc::new(def);
        self.0.table.rcu(|table| {
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
        self.0.table.rcu(|table| {
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
        assert!(after.holds("y", "v1") && !after.holds("x", "v2"));
    }

    #[test]
    fn rows_of_a_source_are_replaced_as_one() {
        let registry = Registry::new(vec![row("", "v1", "a"), row("x", "v1", "b")]);
        let custom = |row: &ResourceDef| !row.group.is_empty();
        let rows = |names: &[&'static str]| names.iter().map(|name| Arc::new(row("", "v1", name))).collect::<Vec<_>>();
        registry.replace(custom, &rows(&["a", "c", "d"]));
        let names = |table: &Table| table.rows().iter().map(|row| row.plural.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&registry.table()), ["a", "c", "d"], "the place of a is taken");
        registry.replace(|row| ["c", "d"].contains(&row.plural.as_ref()), &rows(&["e"]));
        assert_eq!(names(&registry.table()), ["a", "e"]);
    }
}
