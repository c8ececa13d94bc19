//! Those who change objects at once, by rules that come and go.

use std::sync::Arc;

use kontiki_model::ObjectKey;
use serde_json::Value;

use super::{Lookup, Request};
use crate::{GroupResource, Status};

/// One that changes objects at once, by what somebody wrote about it: unlike that of a [`super::Step`], a second run may change
/// more.
pub trait Mutator: Send + Sync {
    /// Its name, unique among those of one [`Mutators`].
    fn name(&self) -> &str;

    /// Whether it is run once more when others have changed the object since (upstream's `reinvocationPolicy: IfNeeded`).
    fn reinvocable(&self) -> bool;

    /// Changes the object.
    ///
    /// # Errors
    /// Why the request is refused.
    fn mutate(&self, request: &Request<'_>, object: &mut Value, cluster: &mut dyn Lookup) -> Result<(), Status>;
}

/// Mutators that come and go while a server runs, as the objects do that they are made from.
pub trait Mutators: Send + Sync {
    /// As [`super::Source::follows`].
    fn follows(&self) -> &'static [GroupResource<'static>];

    /// As [`super::Source::changed`].
    fn changed(&self, key: &ObjectKey, object: Option<&[u8]>);

    /// Those that mean the request, in order.
    ///
    /// # Errors
    /// It cannot be told, which refuses the request.
    fn mutators(
        &self,
        request: &Request<'_>,
        object: &Value,
        cluster: &dyn Lookup,
    ) -> Result<Vec<Arc<dyn Mutator>>, Status>;
}
