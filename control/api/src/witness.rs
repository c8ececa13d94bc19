//! Who looks on while a client writes, and may hold it up. The product has nobody there; the walk through every kill
//! (`chaos-tests/walk`) ends leaders so, between any two of their writes.

use futures::future::BoxFuture;
use kontiki_machinery::Verb;

use crate::{Target, Writer};

/// A write that a client is about to make.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Who makes it.
    pub writer: Writer,
    /// What is done.
    pub verb: Verb,
    /// To what; creations have no name yet.
    pub target: Target<'a>,
}

/// See the module.
pub trait Witness: Send + Sync {
    /// The write is made once this is over. The number is the witness's own.
    fn before(&self, write: Write<'_>) -> BoxFuture<'_, u64>;

    /// The client hears what came of the write of that number once this is over.
    fn after(&self, number: u64) -> BoxFuture<'_, ()>;
}
