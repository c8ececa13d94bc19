//! One request to a resource, whichever way it came in, and what a verb answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use kontiki_cache::Filter;
use kontiki_machinery::subresource::View;
use kontiki_machinery::{FieldError, Handler, Name, ResourceDef, Subresource, access::Attributes};
use kontiki_model::resource::NAMESPACES;
use kontiki_store::{Entry, Revision, Term};
use parking_lot::Mutex;
use serde_json::Value;

use crate::object;
use crate::params::Params;
use crate::state::served;
use crate::writes::{Effect, Writer};
use crate::{Api, Status, User, corrupt};

/// One request to a resource.
pub(crate) struct Call {
    pub api: Api,
    pub user: User,
    pub def: Arc<ResourceDef>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub sub: Option<Arc<Subresource>>,
    pub params: Params,
    /// What a collection is narrowed to, or what is wrong with that. Read once, for authorization and the verb.
    pub filter: Result<Filter, Status>,
    /// When it stops waiting for others than the store.
    pub deadline: Instant,
    pub fence: Option<Term>,
    /// Who owns what it writes.
    pub manager: Name,
    /// Whom its writes are counted for.
    pub writer: Writer,
    /// What its write came to, once it is done.
    pub effect: Effect,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// What is to be warned of as well, if it is refused: what was to be said when it was.
    pub refused: Arc<Mutex<Vec<String>>>,
    /// What the audit log is to say of it.
    pub notes: Notes,
}

/// Annotations of a record of the audit log, by their keys.
pub(crate) type Notes = Arc<Mutex<BTreeMap<String, String>>>;

/// A body as it came, or as an in-process caller gave it.
pub(crate) enum Input {
    Bytes { content_type: Option<String>, data: Bytes },
    Value(Value),
}

/// One object on its way out.
pub(crate) enum Object {
    /// As it lies in the store, in the form it is served in; the same as a value, if there is one already.
    Stored { bytes: Bytes, revision: Revision, value: Option<Value> },
    /// Made for this answer.
    Built(Value),
}

impl Object {
    pub fn of_entry(def: &ResourceDef, entry: &Entry) -> Result<Self, Status> {
        if def.is_view() {
            return Ok(Self::Built(served(def, entry)?));
        }
        corrupt::check(entry)?;
        Ok(Self::Stored { bytes: entry.value.clone(), revision: entry.mod_revision, value: None })
    }

    /// One that was written at `revision`: `bytes` to the store, if it was not removed.
    pub fn of_write(def: &ResourceDef, bytes: Option<Bytes>, mut value: Value, revision: Revision) -> Self {
        object::set_resource_version(&mut value, Some(revision));
        match bytes {
            Some(bytes) if !def.is_view() => Self::Stored { bytes, revision, value: Some(value) },
            _ => Self::Built(value),
        }
    }

    pub fn value(&self) -> Result<Value, Status> {
        match self {
            Self::Stored { bytes, revision, value: None } => object::decode_at(bytes, *revision),
            Self::Stored { value: Some(value), .. } | Self::Built(value) => Ok(value.clone()),
        }
    }

    pub fn into_value(self) -> Result<Value, Status> {
        match self {
            Self::Stored { value: Some(value), .. } | Self::Built(value) => Ok(value),
            object => object.value(),
        }
    }

    pub fn json(&self) -> Bytes {
        match self {
            Self::Stored { bytes, revision, .. } => object::splice(bytes, *revision),
            Self::Built(value) => object::to_json(value),
        }
    }
}

/// A list on its way out.
pub(crate) struct List {
    pub items: Vec<Arc<Entry>>,
    pub revision: Revision,
    pub continue_token: String,
    pub remaining: Option<i64>,
}

/// What a verb answers.
pub(crate) enum Answer {
    Object {
        code: u16,
        object: Object,
    },
    List(List),
    /// A list of objects that were made for this answer.
    Made(Vec<Value>),
    /// A Status that is no failure, e.g. of a delete.
    Status {
        code: u16,
        status: Status,
    },
    /// A stream, or anything else that is not an object.
    Raw(Response<Body>),
}

impl Call {
    pub fn sub_name(&self) -> Option<&str> {
        self.sub.as_ref().map(|sub| sub.name.as_ref())
    }

    /// The object's name; only asked for where the route has one.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub fn key(&self) -> Bytes {
        crate::state::object_key(&self.def, self.namespace(), self.name())
    }

    pub fn not_found(&self) -> Status {
        Status::not_found(self.def.group_resource(), self.name())
    }

    /// The other shape that this call reads and writes the object in, if it does.
    pub fn view(&self) -> Option<Arc<dyn View>> {
        match &self.sub.as_ref()?.handler {
            Handler::View(view) => Some(Arc::clone(view)),
            _ => None,
        }
    }

    /// What a collection is narrowed to by fields.
    pub fn fields(&self) -> Vec<(&str, &str)> {
        self.filter.as_ref().map(Filter::exact_fields).unwrap_or_default()
    }

    /// What authorization is asked about: as upstream has it, a namespace lies in itself, and a collection that is
    /// narrowed to one name is asked for by it.
    pub fn attributes<'a>(&'a self, verb: &'a str, fields: &'a [(&'a str, &'a str)]) -> Attributes<'a> {
        let narrowed = fields.iter().find(|(path, _)| *path == "metadata.name" && matches!(verb, "list" | "watch"));
        let name = self.name.as_deref().or(narrowed.map(|(_, name)| *name)).unwrap_or_default();
        let own = (self.def.group_resource() == NAMESPACES).then_some(self.name());
        Attributes {
            verb,
            resource: &self.def.plural,
            group: &self.def.group,
            subresource: self.sub_name().unwrap_or_default(),
            namespace: self.namespace().or(own).unwrap_or_default(),
            name,
            path: "",
            fields,
            version: &self.def.version,
            labels: self.filter.as_ref().map(Filter::labels).unwrap_or_default(),
        }
    }

    /// The same call about the object instead of its subresource.
    pub fn on_object(&self) -> Call {
        Call {
            api: self.api.clone(),
            user: self.user.clone(),
            def: Arc::clone(&self.def),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            sub: None,
            params: self.params.clone(),
            filter: Ok(Filter::default()),
            deadline: self.deadline,
            fence: self.fence,
            manager: self.manager.clone(),
            writer: self.writer,
            effect: Effect::default(),
            warnings: Vec::new(),
            refused: Arc::clone(&self.refused),
            notes: Arc::clone(&self.notes),
        }
    }

    /// From now on the call is `user`'s.
    pub fn act_as(&mut self, user: User) {
        self.writer = Writer::of(&user.groups);
        self.user = user;
    }

    /// A failed validation.
    pub fn invalid(&self, name: &str, errors: &[FieldError]) -> Status {
        // Two views of one store answer as the stored kind, as upstream does.
        Status::invalid(&self.def.storage.group, &self.def.kind, name, errors)
    }
}
