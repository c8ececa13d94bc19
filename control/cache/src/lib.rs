//! The one cache of objects that a master has: each version of each object once, whoever looks at it.
//!
//! ```text
//! store ──► backend (opens what is sealed) ──► follow ──► collection (one a kind) ──► informer     typed views: controllers, scheduler, gateway
//!                        │  object  facts  index └► subscription  watches of clients, found by what they select
//! ```
//!
//! A module knows only those before it: `vault`, `backend`, `contain`, `facts`, `object`, `index`, `filter`, `dispatch`, `collection`, `follow`,
//! `informer`, `subscription`.
//!
//! Not here: HTTP, selectors as text, what anything means.

mod backend;
mod collection;
mod contain;
mod dispatch;
mod facts;
mod filter;
mod follow;
mod index;
mod informer;
mod object;
mod subscription;
mod vault;

pub use backend::{Backend, Snapshot, Watch};
pub use collection::Collection;
pub use dispatch::{Change, Shown};
pub use facts::{Facts, served};
pub use filter::{Filter, Term};
pub use follow::Cache;
pub use informer::{Changes, Informer, Registration, TypedChange};
pub use object::{Cached, Object, Part, PartialObjectMetadata};
pub use subscription::{Ended, Subscription};
pub use vault::{Vault, VaultError, unreadable};
