//! The phases of a write, in order. Every verb and every kind walks them; what is special about one is in its row, in a
//! step of admission or in an authorizer.
//!
//! | phase | where | waits for | after a conflict |
//! | --- | --- | --- | --- |
//! | authenticate | `auth::identity` | the store, if a token's object is not known here | |
//! | authorize | `auth::access` | authorizers | |
//! | decode | `codec`, `verbs::patch` | the body | a patch is applied to the newer object |
//! | default | `codec` | | as decode |
//! | mutating admission | `mutating` | steps | again |
//! | prepare, validate | `prepare`, `validate` | | again |
//! | allocate, warn | `allocate`, `warn` | | again |
//! | validating admission | `validating` | steps | again |
//! | charge | `charge` | | again |
//! | commit | `commit` | the store | |
//! | encode | `encode` | | |
//!
//! Invariants
//! - What stands in [`WRITE`], [`VIEWED`], [`CREATE`] and [`REMOVAL`] depends on the cluster's state. It is run on one snapshot; what it relied
//!   on there is compared in the transaction that commits it. If something moved, it runs again on newer state, and
//!   nothing else does.
//! - No snapshot is believed across a wait: phases and steps after one look at a newer state, and what was relied on
//!   before it is compared all the same.
//! - A decision made anew draws the same numbers, and asks nobody who has answered the same question ([`Memo`]).
//! - Who waits for nobody boxes no future and copies no object.

mod allocate;
mod ask;
pub(crate) mod charge;
pub(crate) mod commit;
mod draft;
pub(crate) mod lookup;
mod memo;
mod mutating;
mod prepare;
mod rerun;
mod validate;
mod validating;
mod warn;

pub(crate) use allocate::release;
pub(crate) use draft::Draft;
pub(crate) use memo::Memo;

use crate::Status;

/// A phase that depends on the cluster's state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    /// Steps of admission may change the object.
    MutatingAdmission,
    /// The server's own fields are filled in, and those that this request may not change are put back.
    Prepare,
    /// The object is judged for itself, and beside the old one.
    Validate,
    /// It gets what there is only one of.
    Allocate,
    /// The client is told what is legal and unwise.
    Warn,
    /// Steps of admission judge what would be stored.
    ValidatingAdmission,
    /// Steps of admission write other objects along.
    Charge,
}

/// The phases of an update.
pub(crate) const WRITE: [Phase; 7] = [
    Phase::MutatingAdmission,
    Phase::Prepare,
    Phase::Validate,
    Phase::Allocate,
    Phase::Warn,
    Phase::ValidatingAdmission,
    Phase::Charge,
];

/// The phases of a create. It is charged when it is handed over: see [`crate::ledger`].
pub(crate) const CREATE: [Phase; 6] = [
    Phase::MutatingAdmission,
    Phase::Prepare,
    Phase::Validate,
    Phase::Allocate,
    Phase::Warn,
    Phase::ValidatingAdmission,
];

/// The phases of an update by way of a view, which admission has judged.
pub(crate) const VIEWED: [Phase; 5] = [Phase::Prepare, Phase::Validate, Phase::Allocate, Phase::Warn, Phase::Charge];

/// The phases of what writes no object.
pub(crate) const ADMISSION: [Phase; 2] = [Phase::MutatingAdmission, Phase::ValidatingAdmission];

/// The phases of a delete.
pub(crate) const REMOVAL: [Phase; 2] = ADMISSION;

/// Takes a draft through `phases`.
///
/// # Errors
/// Why it may not be written.
pub(crate) async fn run(draft: &mut Draft<'_>, phases: &[Phase]) -> Result<(), Status> {
    let ended = walk(draft, phases).await;
    // Who is refused is told of as well.
    if !draft.memo.annotations.is_empty() {
        draft.call.notes.lock().append(&mut draft.memo.annotations);
    }
    if ended.is_err() {
        *draft.call.refused.lock() = std::mem::take(&mut draft.warnings);
    }
    ended
}

async fn walk(draft: &mut Draft<'_>, phases: &[Phase]) -> Result<(), Status> {
    for phase in phases {
        match phase {
            Phase::MutatingAdmission => mutating::run(draft).await?,
            Phase::Prepare => prepare::run(draft),
            Phase::Validate => validate::run(draft)?,
            Phase::Allocate => allocate::run(draft)?,
            Phase::Warn => warn::run(draft),
            Phase::ValidatingAdmission => validating::run(draft).await?,
            Phase::Charge => charge::run(draft, None)?,
        }
    }
    Ok(())
}
