//! What the table knows beside its rows: who asks about whom, and volumes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ClusterEvent, NodeTable, Tally};
use crate::scheduler::peers::{CarriedTerm, Namespaces, PodQuery};
use crate::scheduler::pod::{PodInfo, SchedulingSpec};
use crate::scheduler::volumes::Volumes;

impl NodeTable {
    /// What has to be the same for an answer about a row to hold that looked at the row alone: the words, and who
    /// asks about whom.
    #[must_use]
    pub fn shared_generation(&self) -> (u64, u64) {
        (self.words.generation(), self.counts.version())
    }

    /// Counts the pods that a question is about from now on, until it is released as often as it was held.
    pub fn hold(&mut self, query: &Arc<PodQuery>) {
        self.counts.hold(query, &self.pods);
    }

    /// See [`Self::hold`].
    pub fn release(&mut self, query: &Arc<PodQuery>) {
        self.counts.release(query);
    }

    /// The pods that a question is about, counted per row.
    #[must_use]
    pub fn tally(&self, query: &PodQuery) -> Cow<'_, Tally> {
        self.counts.answer(query, &self.pods)
    }

    /// The terms of pods that are there, with how many pods of each row carry them.
    pub fn carried(&self) -> impl Iterator<Item = (&CarriedTerm, &Tally)> {
        self.counts.carried()
    }

    /// The labels of namespaces.
    #[must_use]
    pub fn namespaces(&self) -> &Namespaces {
        self.counts.namespaces()
    }

    /// A namespace has these labels; `None`: it is gone. Terms with a namespace selector may mean others now.
    pub fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) -> bool {
        let news = self.counts.set_namespace(name, labels, &self.pods);
        self.generation += u64::from(news);
        news
    }

    /// Claims, volumes, classes.
    #[must_use]
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// Changes them.
    pub fn change_volumes(&mut self, change: impl FnOnce(&mut Volumes)) {
        change(&mut self.volumes);
        self.generation += 1;
    }

    /// Whether a pod that is filed mounts a claim.
    #[must_use]
    pub fn mounts(&self, namespace: &str, claim: &str) -> bool {
        self.users.contains_key(&(namespace.to_owned(), claim.to_owned()))
    }

    /// The scheduler made a pod go. Whatever is said of the pod next replaces that.
    pub fn mark_preempted(&mut self, uid: &str) -> Option<ClusterEvent> {
        let row = self.file.get(uid).copied()?;
        let pod = self.pods[row.index()].iter().find(|pod| pod.uid == uid)?;
        let going = PodInfo { terminating: true, preempted: true, ..PodInfo::clone(pod) };
        let node = self.name(row).clone();
        self.add_pod(Arc::new(going), &node)
    }

    pub(super) fn count_users(&mut self, spec: &SchedulingSpec, sign: i64) {
        for claim in &spec.mounts.claims {
            let key = (spec.namespace.clone(), claim.name.clone());
            let users = self.users.entry(key.clone()).or_default();
            *users = if sign > 0 { *users + 1 } else { users.saturating_sub(1) };
            if *users == 0 {
                self.users.remove(&key);
            }
        }
    }
}
