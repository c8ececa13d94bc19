//! What a DaemonSet says of itself.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};

use super::Work;
use crate::action::{Action, patch_to};
use crate::pod;

/// Zeros and empty lists are left out on some roads and not on others; they mean the same.
fn normal(mut status: DaemonSetStatus) -> DaemonSetStatus {
    for number in [&mut status.number_available, &mut status.number_unavailable, &mut status.updated_number_scheduled] {
        number.take_if(|number| *number == 0);
    }
    status.conditions.take_if(|conditions| conditions.is_empty());
    status
}

impl Work<'_> {
    /// The status patch, if the status changed.
    pub(super) fn write_status(&self) -> Option<Action> {
        let status = self.status();
        let old = self.set.status.clone().unwrap_or_default();
        if normal(old) == normal(status.clone()) {
            return None;
        }
        patch_to(self.set, &DaemonSet { status: Some(status), ..self.set.clone() }, Some("status"))
    }

    fn status(&self) -> DaemonSetStatus {
        let old = self.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: old.collision_count,
            conditions: old.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for place in &self.places {
            // The first pod is the one that counts.
            let first = place.pods.first();
            if !place.verdict.run {
                status.number_misscheduled += i32::from(first.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = first else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pod::ready(pod));
            available += i32::from(self.available(pod));
            updated += i32::from(self.updated(pod));
        }
        status.updated_number_scheduled = Some(updated);
        status.number_available = Some(available);
        status.number_unavailable = Some(status.desired_number_scheduled - available);
        status
    }
}
