//! Admission: rules that look beyond the object itself. A step sees the cluster through [`Lookup`]; what it relied on
//! guards the write, so a race means another round, not a broken rule.

use jiff::Timestamp;
use serde_json::Value;

use crate::{GroupResource, ResourceDef, Status};

/// What is being done.
pub struct Request<'a> {
    /// The row of the object.
    pub def: &'a ResourceDef,
    /// The subresource that is written, if it is one.
    pub sub: Option<&'a str>,
    /// The namespace of the request.
    pub namespace: Option<&'a str>,
    /// The object before an update; `None` on create.
    pub old: Option<&'a Value>,
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
        self.old.is_none()
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

/// One step of admission.
pub trait Step: Send + Sync {
    /// Its name, as upstream's `--enable-admission-plugins` has it.
    fn name(&self) -> &'static str;

    /// Judges and may change an object before it is prepared and validated.
    ///
    /// # Errors
    /// Why the request is refused.
    fn admit(&self, request: &Request<'_>, object: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status>;
}
