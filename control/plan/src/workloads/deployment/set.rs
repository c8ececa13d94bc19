//! The ReplicaSets of a deployment: finding and making the one of the current template, and the
//! annotations by which `kubectl rollout` tells revisions apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_model::rollout::is_kept;

use super::{COMPONENT, Work, annotation_number, announced, limits, replicas, rolling};
use crate::action::{Action, DeleteHow, EventRecord, create, delete, patch_to, reference, to_value};
use crate::hash::{pod_template_hash, prune};
use crate::object::{annotation, controlled_by, controller_reference, deleting, name, uid};

pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// Longest list of earlier revisions that a set keeps, in characters.
const HISTORY_LIMIT: usize = 2000;

/// One set as it is and as it will be.
pub(super) struct Set {
    old: Arc<ReplicaSet>,
    pub(super) new: ReplicaSet,
    event: Option<EventRecord>,
    /// It exists only in this plan.
    fresh: bool,
}

impl Set {
    pub(super) fn new(old: Arc<ReplicaSet>) -> Self {
        Self { new: old.as_ref().clone(), old, event: None, fresh: false }
    }

    fn fresh(set: ReplicaSet) -> Self {
        Self { fresh: true, ..Self::new(Arc::new(set)) }
    }

    pub(super) fn name(&self) -> &str {
        name(&self.old.metadata)
    }

    pub(super) fn uid(&self) -> &str {
        uid(&self.old.metadata)
    }

    /// Wanted size after this plan.
    pub(super) fn size(&self) -> i32 {
        self.new.spec.replicas.unwrap_or(1)
    }

    /// Wanted size before this plan.
    pub(super) fn old_size(&self) -> i32 {
        if self.fresh { 0 } else { self.old.spec.replicas.unwrap_or(1) }
    }

    /// Pods there are.
    pub(super) fn actual(&self) -> i32 {
        self.old.status.as_ref().map_or(0, |status| status.replicas)
    }

    pub(super) fn available(&self) -> i32 {
        self.old.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    pub(super) fn ready(&self) -> i32 {
        self.old.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
    }

    pub(super) fn terminating(&self) -> Option<i32> {
        self.old.status.as_ref().and_then(|status| status.terminating_replicas)
    }

    pub(super) fn old(&self) -> &ReplicaSet {
        &self.old
    }

    pub(super) fn max_replicas(&self) -> Option<i64> {
        annotation_number(&self.old, MAXIMUM).filter(|number| *number > 0)
    }

    pub(super) fn desired_replicas(&self) -> Option<i64> {
        annotation_number(&self.old, DESIRED)
    }

    pub(super) fn revision(&self) -> i64 {
        annotation_number(&self.old, REVISION).unwrap_or(0)
    }

    pub(super) fn patch(&self) -> Option<Action> {
        if self.fresh {
            return None;
        }
        patch_to(self.old.as_ref(), &self.new, None).map(|action| announced(action, self.event.clone()))
    }

    pub(super) fn annotate(&mut self, key: &str, value: String) {
        self.new.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value);
    }

    /// Takes an annotation away.
    pub(super) fn forget(&mut self, key: &str) {
        if let Some(annotations) = self.new.metadata.annotations.as_mut() {
            annotations.remove(key);
        }
    }

    /// An annotation after this plan.
    pub(super) fn said(&self, key: &str) -> Option<&str> {
        annotation(&self.new.metadata, key)
    }

    /// Records an event once its write is done.
    pub(super) fn tell(&mut self, event: EventRecord) {
        self.event = Some(event);
    }
}

/// Whether the set is the one of the deployment's current template.
pub(super) fn same_template(spec: &DeploymentSpec, set: &ReplicaSet) -> bool {
    let Some(theirs) = set.spec.template.as_ref() else { return false };
    let (ours, theirs) = (without_hash(&spec.template), without_hash(theirs));
    ours == theirs || prune(to_value(&ours)) == prune(to_value(&theirs))
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(metadata) = template.metadata.as_mut() {
        if let Some(labels) = metadata.labels.as_mut() {
            labels.remove(HASH_LABEL);
        }
        metadata.labels.take_if(|labels| labels.is_empty());
        metadata.annotations.take_if(|annotations| annotations.is_empty());
    }
    template
}

impl Work<'_> {
    /// Brings revision numbers up to date; makes the set of the current template if there is none
    /// and `make` says so. False if there is none before this plan.
    pub(super) fn sync_revisions(&mut self, make: bool) -> bool {
        let newest_old = self.old().map(|at| self.sets[at].revision()).max().unwrap_or(0);
        match self.new {
            Some(at) => {
                self.refresh(at, newest_old + 1);
                true
            }
            None if make && !self.view.namespace_terminating => self.make(newest_old + 1),
            None => false,
        }
    }

    /// The set that is there gets what the deployment says; its size may follow in the same write.
    fn refresh(&mut self, at: usize, revision: i64) {
        let spec = self.spec;
        let annotations = inherited(&self.view.deployment);
        let set = &mut self.sets[at];
        for (key, value) in annotations {
            set.annotate(&key, value);
        }
        if set.revision() < revision {
            raise_revision(set, revision);
        }
        let min_ready = |spec: &ReplicaSetSpec| spec.min_ready_seconds.unwrap_or(0);
        if min_ready(&set.new.spec) != spec.min_ready_seconds.unwrap_or(0) {
            set.new.spec.min_ready_seconds = spec.min_ready_seconds;
        }
        let (name, revision) = (set.name().to_owned(), annotation(&set.new.metadata, REVISION).map(str::to_owned));
        if let Some(revision) = revision {
            self.set_revision(revision);
        }
        self.progress_if_none("FoundNewReplicaSet", format!("Found new replica set \"{name}\""));
    }

    fn set_revision(&mut self, revision: String) {
        self.deployment.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision);
    }

    /// Creates the set of the current template. Its size, and everything else, comes next time.
    fn make(&mut self, revision: i64) -> bool {
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = hash_of(&self.deployment);
        let set_name = name_of(&self.deployment);
        if let Some(namesake) = &self.view.namesake {
            if !self.on_its_way_out(namesake) {
                let status = self.deployment.status.get_or_insert_default();
                status.collision_count = Some(collisions.unwrap_or(0) + 1);
            }
            return false;
        }
        let set = self.fresh_set(set_name, &hash, revision);
        self.sets.push(Set::fresh(set));
        let at = self.sets.len() - 1;
        self.new = Some(at);
        self.gate();
        let size = self.size_of_new(at, 0);
        self.sets[at].new.spec.replicas = Some(size);
        let set_name = self.sets[at].name().to_owned();
        self.actions.push(create(&self.sets[at].new, None));
        if size > 0 {
            self.note("ScalingReplicaSet", format!("Scaled up replica set {set_name} from 0 to {size}"));
        }
        self.set_revision(revision.to_string());
        self.progress("NewReplicaSetCreated", format!("Created new replica set \"{set_name}\""));
        false
    }

    /// A namesake of the same template that is still ours but leaving: wait, do not rename.
    fn on_its_way_out(&self, set: &ReplicaSet) -> bool {
        deleting(&set.metadata)
            && controlled_by(&set.metadata, uid(&self.view.deployment.metadata))
            && same_template(self.spec, set)
    }

    fn fresh_set(&self, set_name: String, hash: &str, revision: i64) -> ReplicaSet {
        let deployment = self.view.deployment.as_ref();
        let mut template = self.spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(HASH_LABEL.into(), hash.to_owned());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.to_owned());
        let mut annotations = inherited(deployment);
        annotations.insert(REVISION.into(), revision.to_string());
        annotations.extend(self.size_annotations());
        ReplicaSet {
            metadata: ObjectMeta {
                name: Some(set_name),
                namespace: deployment.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: Some(annotations),
                owner_references: Some(vec![controller_reference(deployment)]),
                ..ObjectMeta::default()
            },
            spec: ReplicaSetSpec {
                replicas: Some(0),
                selector,
                template: Some(template),
                min_ready_seconds: self.spec.min_ready_seconds,
            },
            status: None,
        }
    }

    /// The size of the set `at` of the new template, whose size now is `have`.
    pub(super) fn size_of_new(&self, at: usize, have: i32) -> i32 {
        let want = replicas(self.spec);
        if !rolling(self.spec) {
            return want;
        }
        let others: i32 = (0..self.sets.len()).filter(|i| *i != at).map(|i| self.sets[i].size()).sum();
        let room = (want + limits(self.spec).surge) - (others + have);
        if room <= 0 { have } else { have + room.min(self.bound.new - have) }
    }

    fn size_annotations(&self) -> [(String, String); 2] {
        let want = replicas(self.spec);
        [(DESIRED.into(), want.to_string()), (MAXIMUM.into(), (want + limits(self.spec).surge).to_string())]
    }

    /// Gives a set a size, with the annotations that say what it is a part of.
    pub(super) fn resize(&mut self, at: usize, size: i32) -> bool {
        let annotations = self.size_annotations();
        let regarding = reference(self.view.deployment.as_ref());
        let set = &mut self.sets[at];
        for (key, value) in annotations {
            set.annotate(&key, value);
        }
        if size == set.size() {
            return false;
        }
        set.new.spec.replicas = Some(size);
        let (from, direction) = (set.old_size(), if size > set.old_size() { "up" } else { "down" });
        let message = format!("Scaled {direction} replica set {} from {from} to {size}", set.name());
        set.event = Some(EventRecord::normal(regarding, COMPONENT, "ScalingReplicaSet", message));
        true
    }

    /// Drops the oldest revisions beyond the limit; a set with pods is kept.
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.spec.revision_history_limit.filter(|limit| *limit != i32::MAX) else { return };
        let mut old: Vec<usize> = self.old().filter(|at| !deleting(&self.sets[*at].old.metadata)).collect();
        old.retain(|at| Some(*at) != self.back);
        old.sort_by_key(|at| (self.sets[*at].revision(), *at));
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for at in old.into_iter().take(surplus) {
            let set = &self.sets[at];
            let observed = set.old.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
            if set.actual() == 0 && set.size() == 0 && set.old.metadata.generation.unwrap_or(0) <= observed {
                self.actions.push(delete(set.old.as_ref(), DeleteHow::default(), None));
            }
        }
    }
}

fn hash_of(deployment: &Deployment) -> String {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    pod_template_hash(&deployment.spec.template, collisions)
}

/// The name that a new ReplicaSet of the deployment's template gets.
#[must_use]
pub fn name_of(deployment: &Deployment) -> String {
    format!("{}-{}", name(&deployment.metadata), hash_of(deployment))
}

/// The deployment's annotations that its sets carry too: not what is kept of one object.
fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    let own = |key: &str| [LAST_APPLIED, REVISION, HISTORY, DESIRED, MAXIMUM, ROLLBACK_TO].contains(&key);
    annotations.retain(|key, _| !own(key) && !is_kept(key));
    annotations
}

/// Gives a set that is in use again the next revision, and notes the one it had.
fn raise_revision(set: &mut Set, revision: i64) {
    if let Some(old) = annotation(&set.old.metadata, REVISION).map(str::to_owned) {
        let mut history: Vec<&str> = annotation(&set.old.metadata, HISTORY).unwrap_or_default().split(',').collect();
        history.retain(|entry| !entry.is_empty());
        history.push(&old);
        while history.join(",").len() > HISTORY_LIMIT {
            history.remove(0);
        }
        let history = history.join(",");
        set.annotate(HISTORY, history);
    }
    set.annotate(REVISION, revision.to_string());
}
