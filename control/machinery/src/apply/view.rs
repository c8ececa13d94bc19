//! Ownership seen through another shape of the object, e.g. its `scale`: one part of the view is one of the object.

use serde_json::Value;

use super::{
    managed::{self, Manager, Managers, Owned},
    set::{Path, Set},
};

/// Which part of a view is which part of the object.
pub struct Mapping<'a> {
    /// Version of the view.
    pub view_version: &'a str,
    /// The part of the view.
    pub in_view: Path,
    /// The version in which the object is asked for.
    pub object_version: &'a str,
    /// The part of the object in one of its versions. `None`: it is no version of it.
    pub in_object: &'a dyn Fn(&str) -> Option<Path>,
}

impl Mapping<'_> {
    /// The entries of the view, for those of the object.
    ///
    /// # Errors
    /// Those of the object have not their form.
    pub fn to_view(&self, entries: &Value) -> Result<Value, String> {
        let owns = |owned: &Owned| (self.in_object)(&owned.api_version).is_some_and(|path| owned.set.has(&path));
        let managers = managed::decode(entries)?.into_iter().filter(|(_, owned)| owns(owned));
        let seen = managers.map(|(manager, owned)| {
            let manager = Manager { updates_in: manager.updates_in.map(|_| self.view_version.to_owned()), ..manager };
            let set = Set::of([self.in_view.clone()]);
            (manager, Owned { set, api_version: self.view_version.to_owned(), time: owned.time })
        });
        Ok(managed::encode(&seen.collect()))
    }

    /// The entries of the object, which were `before`, after those of the view have become `entries`.
    ///
    /// # Errors
    /// One of them has not its form.
    pub fn to_object(&self, before: &Value, entries: &Value) -> Result<Value, String> {
        let mut seen = managed::decode(entries)?;
        let mut out = Managers::new();
        for (manager, mut owned) in managed::decode(before)? {
            let Some(path) = (self.in_object)(&owned.api_version) else { continue };
            if owned.set.has(&path) && seen.remove(&manager).is_none() {
                owned.set = owned.set.difference(&Set::of([path]));
            }
            if !owned.set.is_empty() {
                out.insert(manager, owned);
            }
        }
        let path = (self.in_object)(self.object_version);
        let path = path.as_ref();
        for (manager, owned) in seen {
            let Some(path) = path.filter(|_| owned.set.has(&self.in_view)) else { continue };
            let api_version = self.object_version.to_owned();
            let manager = Manager { updates_in: manager.updates_in.map(|_| api_version.clone()), ..manager };
            // Since when is not kept, as with upstream.
            let own = || Owned { set: Set::default(), api_version, time: None };
            out.entry(manager).or_insert_with(own).set.insert(path);
        }
        Ok(managed::encode(&out))
    }
}
