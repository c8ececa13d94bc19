//! Admission: rules that look beyond the object itself, in two phases. *Mutating* admission judges and may change an
//! object before it is prepared and validated; *validating* admission judges it as it would be stored.
//!
//! Invariants
//! - A pure [`Step`] sees the cluster through [`Lookup`]; what it relied on guards the write, so a race means another
//!   round, not a broken rule. It may run more than once for one request: a second run on its own result changes nothing.
//! - An [`AsyncStep`] waits for somebody else and sees no state of the cluster: what was true before a wait need not be
//!   true after it. It only tells what it would change, and whoever runs it applies that.
//!
//! Not here: running the steps, deadlines, remembering answers (the API's pipeline).

use std::{future::Future, pin::Pin, sync::Arc, time::Instant};

use jiff::Timestamp;
use serde_json::Value;

use crate::{GroupResource, ResourceDef, Status, access::User};

/// What is done to the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// It is made.
    Create,
    /// It, or a part of it, is replaced or patched.
    Update,
    /// It is deleted. The object is null, the old one what would go.
    Delete,
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

    /// All objects of a resource. They guard nothing: another may come at any time.
    ///
    /// # Errors
    /// One of them cannot be read.
    fn objects(&self, resource: GroupResource<'_>) -> Result<Vec<Value>, Status>;

    /// A number at random.
    fn random(&mut self) -> u64;

    /// The time.
    fn now(&self) -> Timestamp;
}

/// One step of admission that needs nothing but the request and the cluster's state.
pub trait Step: Send + Sync {
    /// Its name, as upstream's `--enable-admission-plugins` has it.
    fn name(&self) -> &'static str;

    /// Whether it has a say when this is done.
    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Delete
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
}

/// What comes later.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What an [`AsyncStep`] says of an object that it does not refuse.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// What it changes (RFC 6902); validating admission changes nothing.
    pub patch: Option<Value>,
    /// Texts for the client's `Warning` headers.
    pub warnings: Vec<String>,
}

/// One step of admission that waits for an answer, e.g. over the network.
///
/// Who runs it stops waiting at `deadline`, the end of the request's time; a shorter limit, and what then follows, is the
/// step's own affair. It may be dropped at any `await`. An equal question within one request is answered from memory.
pub trait AsyncStep: Send + Sync {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Whether it has to be asked. Decides without waiting: a step that is not asked costs no more than this.
    fn handles(&self, phase: Phase, request: &Request<'_>, object: &Value, cluster: &mut dyn Lookup) -> bool;

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

/// One of the chain of admission.
#[derive(Clone)]
pub enum Member {
    /// Decides at once.
    Pure(Arc<dyn Step>),
    /// Waits.
    Async(Arc<dyn AsyncStep>),
}
