//! Who owns what of what a request writes: [`crate::apply`] for the rows of the resource table.
//!
//! A row is asked for its versions (all rows that show the same objects), for what a write through one of its
//! subresources counts for ([`ResourceDef::counted`]), and a view for the part of the object that it shows.

use std::borrow::Cow;

use serde_json::Value;

use crate::{
    GroupVersionKind, Handler, ResourceDef, Subresource, Table,
    apply::{ApplyError, Counted, Element, FieldManager, Mapping, Path, Single, Versions},
    conversion::Conversions,
    schema::{Schema, shape::Shape},
    subresource::View,
};

/// A kind of the resource table, with all rows that show the same objects.
struct Served<'a> {
    table: &'a Table,
    /// The row that is asked by.
    def: &'a ResourceDef,
    conversions: &'a Conversions,
}

impl<'a> Served<'a> {
    fn row(&self, api_version: &str) -> Option<&'a ResourceDef> {
        if self.def.api_version_is(api_version) {
            return Some(self.def);
        }
        let rows = self.table.rows().iter().map(AsRef::as_ref);
        rows.filter(|row| row.stored_as() == self.def.stored_as()).find(|row| row.api_version_is(api_version))
    }
}

impl Versions for Served<'_> {
    fn shape(&self, api_version: &str) -> Option<Shape> {
        self.row(api_version).map(|row| row.schema.shape().clone())
    }

    fn convert<'a>(&self, object: &'a Value, from: &str, to: &str) -> Option<Cow<'a, Value>> {
        if from == to {
            return self.row(to).map(|_| Cow::Borrowed(object));
        }
        let (from, to) = (self.row(from)?, self.row(to)?);
        if to.strategy.conversion().is_some() {
            let mut object = self.conversions.ask(object, &to.api_version())?;
            to.strategy.from_storage(&mut object);
            return Some(Cow::Owned(object));
        }
        let mut object = object.clone();
        from.strategy.to_storage(&mut object);
        to.strategy.from_storage(&mut object);
        object["apiVersion"] = to.api_version().into();
        object["kind"] = to.kind.as_ref().into();
        Some(Cow::Owned(object))
    }
}

/// What a request writes to.
pub struct Ownership<'a> {
    /// The table that it sees.
    pub table: &'a Table,
    /// The row.
    pub def: &'a ResourceDef,
    /// The subresource.
    pub sub: Option<&'a Subresource>,
    /// The time in whole seconds, e.g. `2001-02-03T04:05:06Z`.
    pub now: &'a str,
    /// What is known of objects in other versions, where somebody outside knows those. While questions are open there,
    /// nothing that comes of it counts.
    pub conversions: &'a Conversions,
}

fn path(names: Vec<String>) -> Path {
    names.into_iter().map(|name| Element::Field(name.into())).collect()
}

impl<'a> Ownership<'a> {
    /// Writes into `new` who owns what of it, if `manager` makes it of `live`. `None`: it is new.
    pub fn update(&self, live: Option<&Value>, new: &mut Value, manager: &str) {
        self.on_object(|door| door.update(live, new, manager));
    }

    /// The object with `config` applied to it, with who owns what. Defaults are not set.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn apply(&self, live: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, ApplyError> {
        self.on_object(|door| door.apply(live, config, manager, force))
    }

    /// The same for a view of `object`: the view as it is to be, with who owns what of it.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_view(
        &self,
        view: &dyn View,
        object: &Value,
        config: &Value,
        manager: &str,
        force: bool,
    ) -> Result<Value, ApplyError> {
        let live = self.view_of(view, object);
        self.on_view(view, |door| door.apply(Some(&live), config, manager, force))
    }

    /// Writes into `sent`, what the view of `object` is to be, who owns what of it then.
    pub fn update_view(&self, view: &dyn View, object: &Value, sent: &mut Value, manager: &str) {
        let live = self.view_of(view, object);
        self.on_view(view, |door| door.update(Some(&live), sent, manager));
    }

    /// Writes into `new`, which has been made of `sent` and has the owners of before, who owns what of it.
    pub fn take_view(&self, view: &dyn View, new: &mut Value, sent: &Value) {
        let entries = |object: &Value| object["metadata"]["managedFields"].clone();
        let taken = self.mapped(view, |mapping| mapping.to_object(&entries(new), &entries(sent)));
        // What cannot be read is left alone.
        let Some(Ok(taken)) = taken else { return };
        let Some(metadata) = new["metadata"].as_object_mut() else { return };
        if taken.is_null() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), taken);
        }
    }

    fn view_of(&self, view: &dyn View, object: &Value) -> Value {
        let mut live = view.of(object);
        let entries = self.mapped(view, |mapping| mapping.to_view(&object["metadata"]["managedFields"]));
        if let Some(Ok(entries)) = entries {
            live["metadata"]["managedFields"] = entries;
        }
        live
    }

    fn served(&self) -> Served<'a> {
        Served { table: self.table, def: self.def, conversions: self.conversions }
    }

    fn on_object<R>(&self, run: impl FnOnce(&FieldManager<'_>) -> R) -> R {
        let (group, version, kind) = (&self.def.group, &self.def.version, &self.def.kind);
        let gvk = GroupVersionKind { group: group.to_string(), version: version.to_string(), kind: kind.to_string() };
        let counted = self.def.counted(self.sub.map(|sub| sub.name.as_ref()));
        self.door(&gvk, &self.def.schema, &self.served(), &counted, run)
    }

    fn on_view<R>(&self, view: &dyn View, run: impl FnOnce(&FieldManager<'_>) -> R) -> R {
        let gvk = self.view_kind();
        let api_version = gvk.api_version();
        let versions = Single { api_version: &api_version, shape: view.schema().shape() };
        self.door(&gvk, view.schema(), &versions, &Counted::All, run)
    }

    fn door<R>(
        &self,
        gvk: &GroupVersionKind,
        schema: &Schema,
        versions: &dyn Versions,
        counted: &Counted,
        run: impl FnOnce(&FieldManager<'_>) -> R,
    ) -> R {
        let subresource = self.sub.map_or("", |sub| &sub.name);
        run(&FieldManager { gvk, schema, versions, subresource, counted, now: self.now })
    }

    fn view_kind(&self) -> GroupVersionKind {
        let text = |name: fn(&Subresource) -> &str| self.sub.map_or("", name).to_owned();
        GroupVersionKind {
            group: text(|sub| &sub.group),
            version: text(|sub| &sub.version),
            kind: text(|sub| &sub.kind),
        }
    }

    /// Runs with what part of the view is what part of the object, if there is such a thing.
    fn mapped<R>(&self, view: &dyn View, run: impl FnOnce(&Mapping<'_>) -> R) -> Option<R> {
        let (in_view, _) = view.part()?;
        let (served, name) = (self.served(), self.sub.map_or("", |sub| &sub.name));
        let in_object = |version: &str| match &served.row(version)?.subresource(name)?.handler {
            Handler::View(view) => view.part().map(|(_, in_object)| path(in_object)),
            _ => None,
        };
        let (view_version, object_version) = (self.view_kind().api_version(), self.def.api_version());
        let (view_version, object_version) = (view_version.as_str(), object_version.as_str());
        Some(run(&Mapping { view_version, in_view: path(in_view), object_version, in_object: &in_object }))
    }
}
