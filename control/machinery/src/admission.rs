//! Admission: rules that look beyond the object itself, in two phases. *Mutating* admission judges and may change an
//! object before it is prepared and validated; *validating* admission judges it as it would be stored.
//!
//! Invariants
//! - A pure [`Step`] sees the cluster through [`Lookup`]; what it relied on guards the write, so a race means another
//!   round, not a broken rule. It may run more than once for one request: a second run on its own result changes nothing.
//!   Of a [`Mutator`] it may: so it has its turns as those who wait have them.
//! - An [`AsyncStep`] (one of the chain, or one of a [`Source`]) waits for somebody else and sees no state of the cluster: what was true before a wait need not be
//!   true after it. It only tells what it would change, and whoever runs it applies that.
//!
//! Not here: running the steps, deadlines, remembering answers (the API's pipeline).

mod annotation;
mod mutator;

use std::{future::Future, pin::Pin, sync::Arc, time::Instant};

use bytes::Bytes;
use jiff::Timestamp;
use kontiki_model::ObjectKey;
use serde_json::Value;

use crate::{
    GroupResource, ResourceDef, Status,
    access::{Attributes, Question, Rule, User},
};
pub use annotation::{Annotation, AnnotationKey};
pub use mutator::{Mutator, Mutators};

/// What is done to the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// It is made.
    Create,
    /// It, or a part of it, is replaced or patched.
    Update,
    /// It is deleted. The object is null, the old one what would go.
    Delete,
    /// A stream to it is opened. The object is what was asked for; nothing is stored.
    Connect,
}

impl Operation {
    /// As rules and reviews have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// When a step is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Before the object is prepared and validated.
    Mutating,
    /// When it is what would be stored.
    Validating,
}

/// What is being done.
pub struct Request<'a> {
    /// What is done.
    pub operation: Operation,
    /// Who asks.
    pub user: &'a User,
    /// The row of the object.
    pub def: &'a ResourceDef,
    /// The subresource that is written, if it is one.
    pub sub: Option<&'a str>,
    /// The namespace of the request.
    pub namespace: Option<&'a str>,
    /// The name in the request's path; empty where it has none.
    pub name: &'a str,
    /// The object before an update or delete; `None` on create.
    pub old: Option<&'a Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
}

impl Request<'_> {
    /// Whether the object itself (not a subresource) is of this resource.
    #[must_use]
    pub fn is(&self, resource: GroupResource<'_>) -> bool {
        self.sub.is_none() && self.def.group_resource() == resource
    }

    /// Whether the object is new.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.operation == Operation::Create
    }

    /// The name of what this is about, which a new object may have only to be: then what its name begins with.
    #[must_use]
    pub fn named<'v>(&'v self, object: &'v Value) -> &'v str {
        let own = ["name", "generateName"].map(|field| object["metadata"][field].as_str().unwrap_or_default());
        [self.name, own[0], own[1]].into_iter().find(|name| !name.is_empty()).unwrap_or_default()
    }

    /// 403 by an admission step.
    #[must_use]
    pub fn forbid(&self, object: &Value, message: impl std::fmt::Display) -> Status {
        let named = ["name", "generateName"].map(|field| object["metadata"][field].as_str().unwrap_or_default());
        let name = named.into_iter().find(|name| !name.is_empty()).unwrap_or("Unknown");
        Status::forbidden(self.def.group_resource(), name, message)
    }
}

/// What must still be true of an object that was looked at when the write is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// It is there.
    Present,
    /// It is as it was seen.
    Unchanged,
}

/// The cluster as of one state.
pub trait Lookup {
    /// An object, whose being there or being as it is then guards the write.
    ///
    /// # Errors
    /// It cannot be read.
    fn object(
        &mut self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        name: &str,
        guard: Guard,
    ) -> Result<Option<Value>, Status>;

    /// An object as it is stored, whose being as it is then guards the write; so does its not being there.
    ///
    /// # Errors
    /// It cannot be read.
    fn stored(
        &mut self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Bytes>, Status> {
        let found = self.object(resource, namespace, name, Guard::Unchanged)?;
        Ok(found.map(|object| object.to_string().into()))
    }

    /// All objects of a resource. They guard nothing: another may come at any time.
    ///
    /// # Errors
    /// One of them cannot be read.
    fn objects(&self, resource: GroupResource<'_>) -> Result<Vec<Value>, Status>;

    /// An object that guards nothing.
    ///
    /// # Errors
    /// It cannot be read.
    fn glance(
        &self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        let is_it = |object: &Value| {
            object["metadata"]["name"] == name && object["metadata"]["namespace"].as_str() == namespace
        };
        Ok(self.objects(resource)?.into_iter().find(is_it))
    }

    /// The objects of a resource in one namespace, by name. They guard nothing.
    ///
    /// # Errors
    /// One of them cannot be read.
    fn within(&self, resource: GroupResource<'_>, namespace: &str) -> Result<Vec<Value>, Status> {
        let mut objects = self.objects(resource)?;
        objects.retain(|object| object["metadata"]["namespace"] == namespace);
        Ok(objects)
    }

    /// Another object, which is there, is written along with the one that is asked about: both or neither, and only if
    /// it is still as it was seen.
    ///
    /// # Errors
    /// It is not there.
    fn write_along(
        &mut self,
        resource: GroupResource<'_>,
        _namespace: Option<&str>,
        name: &str,
        _object: &Value,
    ) -> Result<(), Status> {
        Err(Status::not_found(resource, name))
    }

    /// Whether somebody may do this, as those authorizers say who decide at once.
    fn allows(&self, _user: &User, _asked: &Attributes<'_>) -> bool {
        false
    }

    /// The rules that somebody holds in a namespace; empty: outside of namespaces.
    fn rules(&self, _user: &User, _namespace: &str) -> Vec<Rule> {
        Vec::new()
    }

    /// An object of a row in the form in which another that shows the same objects has it.
    ///
    /// # Errors
    /// It cannot be converted, or that is not known yet: then whoever runs the step finds it out and runs it again.
    fn shown_as(&self, from: &ResourceDef, to: &ResourceDef, object: &Value) -> Result<Value, Status> {
        Ok(from.shown_as(to, object.clone()))
    }

    /// The row of a kind.
    fn row(&self, _group: &str, _version: &str, _kind: &str) -> Option<Arc<ResourceDef>> {
        None
    }

    /// The audit log is to say this of the request.
    fn annotate(&mut self, _key: String, _value: String) {}

    /// A number at random.
    fn random(&mut self) -> u64;

    /// The time.
    fn now(&self) -> Timestamp;
}

/// What the user must be allowed to do, beyond the request itself, for a write to pass.
pub struct Need {
    /// One of these is enough.
    pub any_of: Vec<Question>,
    /// What is answered to whoever may do none of them.
    pub refusal: Status,
}

/// One step of admission that needs nothing but the request and the cluster's state.
pub trait Step: Send + Sync {
    /// Its name, as upstream's `--enable-admission-plugins` has it.
    fn name(&self) -> &'static str;

    /// Whether it has a say when this is done.
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    /// What the user must be allowed to do besides. Whoever runs the step asks the authorizers before
    /// [`Step::validate`], so that a step which only asks for permission needs nothing else.
    fn needs(&self, _request: &Request<'_>, _object: &Value) -> Vec<Need> {
        Vec::new()
    }

    /// What the client is told of an object that nobody refuses: texts for `Warning` headers.
    ///
    /// # Errors
    /// The cluster cannot be looked at.
    fn warn(&self, _request: &Request<'_>, _object: &Value, _cluster: &mut dyn Lookup) -> Result<Vec<String>, Status> {
        Ok(Vec::new())
    }

    /// Whether who is refused is told what [`Step::warn`] says as well.
    fn warns_whom_it_refuses(&self) -> bool {
        false
    }

    /// Whether its [`Step::validate`] writes other objects along. Such a step is asked last, when everybody else has
    /// agreed, those who wait included.
    fn charges(&self) -> bool {
        false
    }

    /// Mutating admission.
    ///
    /// # Errors
    /// Why the request is refused.
    fn admit(&self, _request: &Request<'_>, _object: &mut Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        Ok(())
    }

    /// Validating admission.
    ///
    /// # Errors
    /// Why the request is refused.
    fn validate(&self, _request: &Request<'_>, _object: &Value, _cluster: &mut dyn Lookup) -> Result<(), Status> {
        Ok(())
    }

    /// The resources whose objects it keeps in a form of its own; see [`Source::follows`].
    fn follows(&self) -> &'static [GroupResource<'static>] {
        &[]
    }

    /// An object is so now, as it is stored; `None`: it is gone.
    fn changed(&self, _key: &ObjectKey, _object: Option<&[u8]>) {}
}

/// What comes later.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What an [`AsyncStep`] says of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// What it changes (RFC 6902); validating admission changes nothing.
    pub patch: Option<Value>,
    /// The whole object as it changed it, in the place of a patch.
    pub object: Option<Value>,
    /// Texts for the client's `Warning` headers.
    pub warnings: Vec<String>,
    /// What the audit log is to say of it.
    pub annotations: Vec<Annotation>,
    /// Why it refuses the object, if it does and has more to say than that.
    pub refusal: Option<Box<Status>>,
}

/// One step of admission that waits for an answer, e.g. over the network.
///
/// Who runs it stops waiting at `deadline`, the end of the request's time; a shorter limit, and what then follows, is the
/// step's own affair. It may be dropped at any `await`. An equal question within one request is answered from memory.
pub trait AsyncStep: Send + Sync {
    /// Its name, for people; unique among the steps of one [`Source`].
    fn name(&self) -> &str;

    /// Whether it has to be asked. Decides without waiting: a step that is not asked costs no more than this.
    ///
    /// # Errors
    /// It cannot be told, which refuses the request.
    fn handles(
        &self,
        phase: Phase,
        request: &Request<'_>,
        object: &Value,
        cluster: &mut dyn Lookup,
    ) -> Result<bool, Status>;

    /// Whether mutating admission asks it once more when others have changed the object since (upstream's
    /// `reinvocationPolicy: IfNeeded`).
    fn reinvocable(&self) -> bool {
        false
    }

    /// Whether its answer may depend on the object's status where that is not what is written. If it does not, a status
    /// that changed meanwhile is no reason to ask again.
    fn reads_status(&self) -> bool {
        true
    }

    /// Mutating admission.
    ///
    /// # Errors
    /// Why the request is refused, or that no answer came.
    fn mutate<'a>(
        &'a self,
        _request: &'a Request<'a>,
        _object: &'a Value,
        _deadline: Instant,
    ) -> Waiting<'a, Result<Verdict, Status>> {
        Box::pin(std::future::ready(Ok(Verdict::default())))
    }

    /// Validating admission: all that are asked are asked at once.
    ///
    /// # Errors
    /// As [`AsyncStep::mutate`].
    fn validate<'a>(
        &'a self,
        _request: &'a Request<'a>,
        _object: &'a Value,
        _deadline: Instant,
    ) -> Waiting<'a, Result<Verdict, Status>> {
        Box::pin(std::future::ready(Ok(Verdict::default())))
    }
}

/// Steps that wait and come and go while a server runs, as the objects do that they are made from.
pub trait Source: Send + Sync {
    /// The resources whose objects say which steps there are. Whoever runs them tells of each that is there, then of each
    /// change ([`Self::changed`]), in order.
    fn follows(&self) -> &'static [GroupResource<'static>];

    /// An object is so now, as it is stored; `None`: it is gone.
    fn changed(&self, key: &ObjectKey, object: Option<&[u8]>);

    /// The steps that may have to be asked, in order. Each is then asked whether it [handles](AsyncStep::handles) what
    /// has become of the object by its turn.
    fn steps(&self, phase: Phase, request: &Request<'_>) -> Vec<Arc<dyn AsyncStep>>;
}

/// One of the chain of admission.
#[derive(Clone)]
pub enum Member {
    /// Decides at once.
    Pure(Arc<dyn Step>),
    /// Waits.
    Async(Arc<dyn AsyncStep>),
    /// Any number of those who wait.
    Many(Arc<dyn Source>),
    /// Any number of those who change objects at once.
    Mutators(Arc<dyn Mutators>),
}

impl Member {
    /// The resources that it wants to be told of.
    #[must_use]
    pub fn follows(&self) -> &'static [GroupResource<'static>] {
        match self {
            Self::Pure(step) => step.follows(),
            Self::Async(_) => &[],
            Self::Many(source) => source.follows(),
            Self::Mutators(source) => source.follows(),
        }
    }

    /// Tells it of an object; see [`Source::changed`].
    pub fn changed(&self, key: &ObjectKey, object: Option<&[u8]>) {
        match self {
            Self::Pure(step) => step.changed(key, object),
            Self::Async(_) => {}
            Self::Many(source) => source.changed(key, object),
            Self::Mutators(source) => source.changed(key, object),
        }
    }
}
