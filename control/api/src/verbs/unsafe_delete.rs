//! Deleting what cannot be read (KEP-3926): a DELETE with `ignoreStoreReadErrorWithClusterBreakingPotential`.
//!
//! Invariants
//! - Only what cannot be read is deleted so, as it was looked at; whoever asks must be allowed a verb of its own.
//! - Nothing is known of the object: no admission, finalizers, grace or preconditions. What it had claimed (an address, a
//!   port) stays claimed.

use kontiki_machinery::status::StatusDetails;
use kontiki_store::{Compare, Op};

use crate::Status;
use crate::call::{Answer, Call};
use crate::corrupt;
use crate::state::Extra;

/// What one must be allowed to do besides.
const VERB: &str = "unsafe-delete-ignore-read-errors";

impl Call {
    /// Deletes the object that this call names, which must be one that cannot be read.
    pub(super) async fn delete_corrupt(&mut self, dry_run: bool) -> Result<Answer, Status> {
        self.authorize_unsafe().await?;
        let key = self.key();
        let entry = self.api.fresh().await?.get(&key).ok_or_else(|| self.not_found())?;
        if !corrupt::is_corrupt(&entry) {
            let why = "unsafe deletion is not allowed because the object is decodable from storage";
            let why = corrupt::storage_error(("invalid object", 4), &key, why);
            return Err(Status::conflict(self.def.group_resource(), self.name(), why));
        }
        if !dry_run {
            let guard = Compare::unchanged(key.clone(), entry.mod_revision);
            let written = self.commit(guard, Op::delete(key), Extra::default()).await?;
            if !written.succeeded {
                return Err(Status::modified(self.def.group_resource(), self.name()));
            }
            self.effect = true.into();
            tracing::warn!(key = %String::from_utf8_lossy(&entry.key), user = self.user.name, "an object that cannot be read was deleted");
        }
        let (name, kind) = (self.name().to_owned(), self.def.kind.to_string());
        let details = StatusDetails { name, kind, ..StatusDetails::default() };
        Ok(Answer::Status { code: 200, status: Status { code: 200, ..Status::success(Some(details)) } })
    }

    async fn authorize_unsafe(&self) -> Result<(), Status> {
        let asked = self.attributes(VERB, &[]);
        let judged = self.api.judge(&self.user, &asked, self.deadline).await?;
        if judged.allowed {
            return Ok(());
        }
        let reason = self.api.explain(&self.user, &asked, &judged);
        let why = format!("not permitted to do \"{VERB}\", reason: {reason}");
        Err(Status::forbidden(self.def.group_resource(), self.name(), why))
    }
}
