//! What each write does to `metadata.managedFields`, in the order of upstream's field manager.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{
    compare::compare,
    conflict::{self, Conflict},
    element::Element,
    last_applied,
    managed::{self, Manager, Managers, Owned},
    renew::renewed,
    set::Set,
    typed::validate,
    update::{Counted, Refusal, Updater},
    versions::Versions,
};
use crate::{GroupVersionKind, Status, schema::Schema};

/// Who owned an object before it was applied to for the first time, as far as nobody else is known.
const BEFORE: &str = "before-first-apply";
/// Who does not say who they are.
const UNKNOWN: &str = "unknown";

/// What nobody owns: the server's own metadata, and what an object is found by.
static NEVER_OWNED: LazyLock<Set> = LazyLock::new(|| {
    let metadata = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ];
    let mut set = Set::of(["apiVersion", "kind", "metadata"].map(|name| vec![Element::field(name)]));
    metadata.iter().for_each(|name| set.insert(&[Element::field("metadata"), Element::field(name)]));
    set
});

/// A door through which objects of a kind are changed.
pub struct FieldManager<'a> {
    /// The kind in the version of the request.
    pub gvk: &'a GroupVersionKind,
    /// Its type.
    pub schema: &'a Schema,
    /// All its versions.
    pub versions: &'a dyn Versions,
    /// The subresource; empty for the object.
    pub subresource: &'a str,
    /// What a write through it counts for.
    pub counted: &'a Counted,
    /// The time in whole seconds, e.g. `2001-02-03T04:05:06Z`.
    pub now: &'a str,
}

/// Why something was not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplyError {
    /// Others own what it wants to change: 409.
    Conflicts(Vec<Conflict>),
    /// It is not what can be applied here: 400.
    Misplaced(String),
    /// It does not fit its type: 422. Upstream answers 500.
    Unfit(String),
}

impl ApplyError {
    /// The answer to the client.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Conflicts(conflicts) => conflict::status(conflicts),
            Self::Misplaced(why) => Status::bad_request(why.as_str()),
            Self::Unfit(why) => Status::failure(422, "Invalid", why.as_str()),
        }
    }
}

impl From<Refusal> for ApplyError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Conflicts(conflicts) => Self::Conflicts(conflicts),
            Refusal::Unfit(why) => Self::Unfit(why),
        }
    }
}

impl FieldManager<'_> {
    fn updater<'u>(&'u self, api_version: &'u str) -> Updater<'u> {
        Updater { versions: self.versions, api_version, shape: self.schema.shape(), counted: self.counted }
    }

    /// Writes into `new` who owns what of it, if `manager` makes it of `live`. `None`: it is new.
    pub fn update(&self, live: Option<&Value>, new: &mut Value, manager: &str) {
        let sent = take_entries(new);
        let before = live.map_or(&Value::Null, |live| &live["metadata"]["managedFields"]);
        if let Some(renewed) = live.and_then(|live| self.renewed(live, new, (before, &sent), manager)) {
            return put_entries(new, renewed);
        }
        let managers = self.start(before, &sent);
        if managers.is_empty() && live.is_some() {
            // Nobody has been told apart here, and nobody is until somebody applies.
            return;
        }
        let updated = match live {
            Some(live) => self.updated(live, new, managers, manager),
            None => self.updated(&self.nothing(), new, managers, manager),
        };
        put_entries(new, updated.map_or_else(|_| before.clone(), |managers| managed::encode(&managers)));
    }

    /// The entries after an update that leaves everybody what they own, if it is one.
    fn renewed(&self, live: &Value, new: &Value, (before, sent): (&Value, &Value), manager: &str) -> Option<Value> {
        if self.subresource.is_empty() && !sent.is_null() && sent != before {
            return None;
        }
        let compared = compare(live, new, self.schema.shape()).ok()?.map(|set| self.counted.of(set));
        let owned = compared.changed().difference(&NEVER_OWNED);
        let manager = self.updates_as(manager);
        renewed(before, &compared, &owned, &manager, self.now)
    }

    fn updates_as(&self, manager: &str) -> Manager {
        let name = if manager.is_empty() { UNKNOWN } else { manager };
        Manager::updater(name, &self.gvk.api_version(), self.subresource)
    }

    /// Who owns what before an update: as it says itself, if it makes sense.
    fn start(&self, before: &Value, sent: &Value) -> Managers {
        let known = || managed::decode(before).unwrap_or_default();
        if !self.subresource.is_empty() {
            return known();
        }
        if managed::is_reset(sent) {
            return Managers::new();
        }
        match managed::decode(sent) {
            Ok(managers) if !managers.is_empty() => managers,
            _ => known(),
        }
    }

    fn updated(&self, live: &Value, new: &Value, managers: Managers, manager: &str) -> Result<Managers, Refusal> {
        let api_version = self.gvk.api_version();
        let (changed, mut managers) = self.updater(&api_version).update(live, new, managers)?;
        let changed = changed.difference(&NEVER_OWNED);
        if !changed.is_empty() {
            let manager = self.updates_as(manager);
            let time = Some(self.now.to_owned());
            let set = managers.remove(&manager).map_or_else(|| changed.clone(), |owned| changed.union(&owned.set));
            managers.insert(manager, Owned { set, api_version, time });
        }
        managed::cap(&mut managers);
        Ok(managers)
    }

    /// The object with `config` applied to it by `manager`, with who owns what. Types are as in `config`, defaults are not
    /// set.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn apply(&self, live: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, ApplyError> {
        self.check(config)?;
        let mut live_now = live.cloned().unwrap_or_else(|| self.nothing());
        let entries = take_entries(&mut live_now);
        let mut managers = managed::decode(&entries)
            .map_err(|why| ApplyError::Unfit(format!("failed to decode managed fields: {why}")))?;
        if managers.is_empty() {
            managers = self.updated(&self.nothing(), &live_now, managers, BEFORE)?;
        }
        let applied = self.applied(&live_now, config, managers.clone(), manager, force);
        let (mut new, managers) = match applied {
            Err(ApplyError::Conflicts(conflicts)) if manager == last_applied::KUBECTL => {
                let left = last_applied::conflicts(&live_now, &self.gvk.api_version(), self.schema.shape(), conflicts);
                if !left.is_empty() {
                    return Err(ApplyError::Conflicts(left));
                }
                self.applied(&live_now, config, managers, manager, true)?
            }
            applied => applied?,
        };
        if manager == last_applied::KUBECTL {
            last_applied::renew(&mut new, config);
        }
        put_entries(&mut new, managed::encode(&managers));
        Ok(new)
    }

    fn applied(
        &self,
        live: &Value,
        config: &Value,
        managers: Managers,
        manager: &str,
        force: bool,
    ) -> Result<(Value, Managers), ApplyError> {
        let api_version = self.gvk.api_version();
        let manager = Manager::applier(manager, self.subresource);
        let (new, mut managers) = self.updater(&api_version).apply(live, config, managers, &manager, force)?;
        if let Some(owned) = managers.get_mut(&manager) {
            owned.set = owned.set.difference(&NEVER_OWNED);
            if new.is_some() {
                owned.time = Some(self.now.to_owned());
            }
        }
        managers.retain(|_, owned| !owned.set.is_empty());
        Ok((new.unwrap_or_else(|| live.clone()), managers))
    }

    /// Checks what is to be applied for itself.
    fn check(&self, config: &Value) -> Result<(), ApplyError> {
        let text = |field: &str| config[field].as_str().unwrap_or_default();
        let version = text("apiVersion");
        let gvk = GroupVersionKind::new(if version.matches('/').count() > 1 { "" } else { version }, text("kind"));
        let shown = format!("{}/{}, Kind={}", gvk.group, gvk.version, gvk.kind);
        if gvk != *self.gvk {
            return Err(ApplyError::Misplaced(format!("invalid object type: {shown}")));
        }
        if !config["metadata"]["managedFields"].is_null() {
            return Err(ApplyError::Misplaced("metadata.managedFields must be nil".into()));
        }
        let name = |field: &str| config["metadata"][field].as_str().unwrap_or_default();
        validate(config, self.schema.shape(), false).map_err(|why| {
            let (namespace, name) = (name("namespace"), name("name"));
            ApplyError::Unfit(format!("failed to create typed patch object ({namespace}/{name}; {shown}): {why}"))
        })
    }

    /// An object in which nothing is said.
    fn nothing(&self) -> Value {
        let mut object = Value::Object(Map::new());
        self.schema.normalize(&mut object);
        object["apiVersion"] = self.gvk.api_version().into();
        object["kind"] = self.gvk.kind.as_str().into();
        object
    }
}

fn take_entries(object: &mut Value) -> Value {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.and_then(|metadata| metadata.remove("managedFields")).unwrap_or_default()
}

fn put_entries(object: &mut Value, entries: Value) {
    if !entries.is_null() && object.is_object() {
        object["metadata"]["managedFields"] = entries;
    }
}
