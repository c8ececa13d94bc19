//! Making pods and their claims, and keeping what is there as it should be.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::json;

use super::turn::{Work, ordinals};
use super::{claims, identity};
use crate::action::{Announce, create, patch};
use crate::object::{deleting, name};
use crate::pod;
use crate::workloads::history;

impl Work<'_> {
    /// Says of a pod which one it is. Its volumes are another thing that should fit, but nobody can change those.
    pub(super) fn label(&mut self, pod: &Pod, ordinal: i64) {
        if let Some(labels) = identity::missing_labels(pod, ordinal) {
            let labels: serde_json::Map<_, _> =
                labels.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
            self.patches.push(patch(pod, None, json!({"metadata": {"labels": labels}})));
        }
    }

    /// Makes the claims of a pod that waits for them, and gives those that are there the right owners.
    pub(super) fn settle_claims(&mut self, pod: &Pod, ordinal: i64, surplus: bool) {
        let (view, set) = (self.view, self.view.set.as_ref());
        if pod::phase(pod) == "Pending" && !surplus && !view.namespace_terminating {
            let missing = claims::missing(set, ordinal, |name| view.claims.contains_key(name));
            self.make_claims(&missing);
        }
        for template in claims::templates(set) {
            let name = claims::name_of(set, template, ordinal);
            let Some(claim) = view.claims.get(&name) else { continue };
            let Some(action) = claims::settle(set, pod, claim, surplus) else { continue };
            if claims::managed_by_others(set, pod, claim) {
                let message = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a managing controller, \
                     the retention policy is ignored for this claim"
                );
                self.warn("ConflictingController", message);
            }
            self.patches.push(action);
        }
    }

    /// Makes the pod of a number, or first its claims.
    pub(super) fn make(&mut self, ordinal: i64) {
        let (view, set) = (self.view, self.view.set.as_ref());
        if view.namespace_terminating {
            return;
        }
        let there: Vec<&PersistentVolumeClaim> = claims::templates(set)
            .filter_map(|template| view.claims.get(&claims::name_of(set, template, ordinal)))
            .map(Arc::as_ref)
            .collect();
        if there.iter().any(|claim| claims::goes_with_earlier_pod(set, claim, ordinal)) {
            return;
        }
        if let Some(claim) = there.iter().find(|claim| deleting(&claim.metadata)) {
            let (pod, set, claim) = (identity::pod_name(set, ordinal), name(&set.metadata), name(&claim.metadata));
            let message = format!("create Pod {pod} in StatefulSet {set} failed error: pvc {claim} is being deleted");
            self.warn("FailedCreate", message);
            return;
        }
        let missing = claims::missing(set, ordinal, |name| view.claims.contains_key(name));
        if !missing.is_empty() {
            self.make_claims(&missing);
            return;
        }
        let pod = self.versioned(ordinal);
        self.creations.push(create(&pod, Some(self.announce("create"))));
    }

    fn make_claims(&mut self, claims: &[PersistentVolumeClaim]) {
        let announce = Announce {
            done: ("SuccessfulCreate", "create Claim {object} in StatefulSet {owner} success"),
            failed: ("FailedCreate", "create Claim {object} in StatefulSet {owner} failed error: {error}"),
            ..self.announce("create")
        };
        self.claims.extend(claims.iter().map(|claim| create(claim, Some(announce.clone()))));
    }

    /// The pod of a number, from the revision that it should have now.
    fn versioned(&self, ordinal: i64) -> Pod {
        let set = self.view.set.as_ref();
        let said = set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
        let kept = match self.limits() {
            Some(limits) => i64::from(limits.partition.unwrap_or(0)),
            None if self.rolling() => i64::from(said),
            None => 0,
        };
        let old = history::template(self.current).filter(|_| ordinal < ordinals(set).start + kept);
        match old {
            Some(template) => identity::make(set, &template, name(&self.current.metadata), ordinal),
            None => identity::make(set, &set.spec.template, name(&self.update.metadata), ordinal),
        }
    }
}
