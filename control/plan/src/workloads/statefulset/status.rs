//! What a StatefulSet says of itself.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::turn::Work;
use super::{collisions, identity};
use crate::action::{Action, patch_to};
use crate::object::{deleting, name};

/// Whether two statuses say the same.
fn same(old: Option<&StatefulSetStatus>, new: &StatefulSetStatus) -> bool {
    old.is_some_and(|old| normal(old.clone()) == normal(new.clone()))
}

/// Zeros and empty lists are left out on some roads and not on others; they mean the same.
fn normal(mut status: StatefulSetStatus) -> StatefulSetStatus {
    for number in [
        &mut status.collision_count,
        &mut status.ready_replicas,
        &mut status.available_replicas,
        &mut status.current_replicas,
        &mut status.updated_replicas,
    ] {
        number.take_if(|number| *number == 0);
    }
    status.conditions.take_if(|conditions| conditions.is_empty());
    status
}

impl Work<'_> {
    /// The status patch, if the status changed.
    pub(super) fn write_status(&self) -> Option<Action> {
        let (set, status) = (self.view.set.as_ref(), self.status());
        if same(set.status.as_ref(), &status) {
            return None;
        }
        patch_to(set, &StatefulSet { status: Some(status), ..set.clone() }, Some("status"))
    }

    fn status(&self) -> StatefulSetStatus {
        let set = self.view.set.as_ref();
        let count = |of: &dyn Fn(&Pod) -> bool| {
            let found = self.pods.values().filter(|pod| of(pod)).count();
            i32::try_from(found).unwrap_or(i32::MAX)
        };
        let (current, update) = (name(&self.current.metadata), name(&self.update.metadata));
        let of = |revision: &str| count(&|pod: &Pod| !deleting(&pod.metadata) && identity::revision(pod) == revision);
        let mut status = StatefulSetStatus {
            replicas: count(&|_| true),
            ready_replicas: Some(count(&|pod| self.running(pod))),
            available_replicas: Some(count(&|pod| self.running(pod) && self.available(pod))),
            current_replicas: Some(of(current)),
            updated_replicas: Some(of(update)),
            current_revision: Some(current.to_owned()),
            update_revision: Some(update.to_owned()),
            observed_generation: set.metadata.generation,
            collision_count: Some(collisions(set).unwrap_or(0)),
            conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        };
        let want = self.wanted();
        let all = |count: Option<i32>| count == Some(want);
        if self.rolling() && all(status.updated_replicas) && all(status.ready_replicas) && status.replicas == want {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
        status
    }
}
