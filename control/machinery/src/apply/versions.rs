//! One object in the versions in which it is served: who owns a part of it said so in one of them.

use std::borrow::Cow;

use serde_json::Value;

use crate::schema::shape::Shape;

/// The versions of a kind.
pub trait Versions {
    /// The shape of the kind in `api_version`. `None`: it is not served in it.
    fn shape(&self, api_version: &str) -> Option<Shape>;

    /// An object of version `from` as one of version `to`. `None`: there is no such thing.
    fn convert<'a>(&self, object: &'a Value, from: &str, to: &str) -> Option<Cow<'a, Value>>;
}

/// A kind of one version.
pub struct Single<'a> {
    /// That version.
    pub api_version: &'a str,
    /// Its shape.
    pub shape: &'a Shape,
}

impl Versions for Single<'_> {
    fn shape(&self, api_version: &str) -> Option<Shape> {
        (api_version == self.api_version).then(|| self.shape.clone())
    }

    fn convert<'a>(&self, object: &'a Value, from: &str, to: &str) -> Option<Cow<'a, Value>> {
        (from == to && to == self.api_version).then_some(Cow::Borrowed(object))
    }
}
