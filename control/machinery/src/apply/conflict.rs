//! What others own of what somebody wants to change.

use std::{collections::BTreeMap, fmt};

use super::{
    managed::Manager,
    set::{Path, Set},
};
use crate::{
    Status,
    status::{StatusCause, StatusDetails},
};

/// One part, and one who owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it.
    pub manager: Manager,
    /// The part.
    pub path: Path,
}

/// All conflicts, by who owns the parts.
pub(super) fn list(taken: &BTreeMap<Manager, Set>) -> Vec<Conflict> {
    let mut out: Vec<Conflict> = taken
        .iter()
        .flat_map(|(manager, set)| set.paths().into_iter().map(|path| Conflict { manager: manager.clone(), path }))
        .collect();
    out.sort_by_cached_key(|conflict| conflict.manager.identifier());
    out
}

impl fmt::Display for Manager {
    /// As conflicts name it: `"a"`, `"b" with subresource "status" using v1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::field_error::quote(&self.name))?;
        if !self.subresource.is_empty() {
            write!(f, " with subresource {}", crate::field_error::quote(&self.subresource))?;
        }
        match &self.updates_in {
            Some(version) => write!(f, " using {version}"),
            None => Ok(()),
        }
    }
}

impl Conflict {
    fn field(&self) -> String {
        self.path.iter().map(ToString::to_string).collect()
    }
}

/// The answer to who wants to change what others own.
#[must_use]
pub fn status(conflicts: &[Conflict]) -> Status {
    let cause = |conflict: &Conflict| StatusCause {
        reason: "FieldManagerConflict".into(),
        message: format!("conflict with {}", conflict.manager),
        field: conflict.field(),
    };
    let details = StatusDetails { causes: conflicts.iter().map(cause).collect(), ..StatusDetails::default() };
    Status::failure(409, "Conflict", message(conflicts)).with_details(details)
}

fn message(conflicts: &[Conflict]) -> String {
    if let [conflict] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", conflict.manager, conflict.field());
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.field()));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}
