//! Server-side apply (KEP-555): who owns which part of an object, and what happens when somebody applies what they want
//! of it. Everything that does not need a server.
//!
//! ```text
//! manager      a write and metadata.managedFields        view    the same through a scale
//!    │
//! update       who owns what after an update or apply    managed  the entries     conflict  what others own
//! renew        the same where nobody owns more or less
//!    │
//! merge, remove, compare, fields, reconcile, typed       values beside their shape (schema::shape)
//!    │
//! set, element, value                                    sets of paths, as fieldsV1 has them
//! ```
//!
//! A module knows only those that are drawn beside or below it. The rules are those of structured-merge-diff v6 and of
//! apimachinery's `util/managedfields`; where they are odd, they are odd in the same way.
//!
//! Invariants
//! - No type is known here: a [`Shape`](crate::schema::shape::Shape) says how values are divided, [`Versions`] how an
//!   object looks in another version.
//! - An apply that changes nothing gives back the object that it was given.

mod compare;
mod conflict;
mod element;
mod fields;
mod last_applied;
mod managed;
mod manager;
mod merge;
mod reconcile;
mod remove;
mod renew;
mod set;
mod typed;
mod update;
mod value;
mod versions;
mod view;

pub use compare::{Comparison, compare};
pub use conflict::Conflict;
pub use element::Element;
pub use fields::fields_of;
pub use managed::{Manager, Managers, Owned, decode, encode, is_reset, keep_reset, same_but_times, write_entries};
pub use manager::{ApplyError, FieldManager};
pub use merge::merge;
pub use reconcile::reconcile;
pub use remove::remove;
pub use set::{Path, Set};
pub use typed::{Faults, validate};
pub use update::{Counted, Refusal, Updater};
pub use value::go_type;
pub use versions::{Single, Versions};
pub use view::Mapping;
