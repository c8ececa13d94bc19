//! The objects that every cluster has: its namespaces and PriorityClasses, and the `kubernetes` Service with the addresses
//! of the servers. What they should be is decided in `kontiki-plan`.
//!
//! Invariants
//! - Only the leader writes them, with what it has written before in view.
//! - The record of a server that is no longer a member goes.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kontiki_api::{Writer, leader::LeaderContext, recorder::Recorder};
use kontiki_cache::{Cache, Informer};
use kontiki_controllers::Executor;
use kontiki_model::{GroupResource, ObjectKey, Revision, key};
use kontiki_plan::{
    Plan,
    lifecycle::system_objects,
    network::kubernetes_service::{self, Member, NAME, NAMESPACE},
};
use kontiki_store::{Snapshot, Status, Store, Txn};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::servers::{self, Record};

/// How often the members are compared with the endpoints.
const EVERY: Duration = Duration::from_secs(2);
/// Pause after a failed attempt.
const RETRY: Duration = Duration::from_millis(500);
const NAMESPACES: GroupResource<'static> = GroupResource { group: "", resource: "namespaces" };

/// Where the namespaces lie in the store.
#[must_use]
pub fn prefix() -> String {
    key::prefix(NAMESPACES, None)
}

/// Whether the namespaces are there, as far as this member knows.
#[must_use]
pub fn complete(snapshot: &Snapshot) -> bool {
    let there = |name: &&str| snapshot.get(&ObjectKey::new(NAMESPACES, None, name).encode()).is_some();
    system_objects::NAMESPACES.iter().all(there)
}

/// What the objects are made from.
pub struct Basics {
    /// The first address of the service range.
    pub service_ip: IpAddr,
}

struct Caches {
    cache: Cache,
    namespaces: Informer<Namespace>,
    classes: Informer<PriorityClass>,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
}

impl Caches {
    fn new(cache: &Cache) -> Self {
        Self {
            cache: cache.clone(),
            namespaces: cache.get(),
            classes: cache.get(),
            services: cache.get(),
            endpoints: cache.get(),
            slices: cache.get(),
        }
    }
}

impl Basics {
    /// Keeps the objects as they should be while the term lasts.
    pub async fn run(self: Arc<Self>, context: LeaderContext, store: Store) {
        let (recorder, recording) = Recorder::new(context.client.clone(), Writer::Server, context.stop.clone());
        let mut tasks = JoinSet::from_iter([recording]);
        let executor = Executor::new(&context, &recorder, "system-objects", Writer::Server);
        let caches = Caches::new(context.api.cache());
        let mut floor = store.snapshot().revision();
        loop {
            let wait = self.turn(&caches, &executor, &store, &mut floor).await;
            tokio::select! {
                () = context.stop.cancelled() => break,
                // A dropped timer loses nothing: each turn looks at everything.
                () = tokio::time::sleep(wait) => {}
            }
        }
        tasks.shutdown().await;
    }

    /// One look. Returns how long to wait for the next.
    async fn turn(&self, caches: &Caches, executor: &Executor, store: &Store, floor: &mut Revision) -> Duration {
        caches.cache.wait_for(*floor).await;
        let status = store.status().borrow().clone();
        let records = servers::list(&store.snapshot());
        for gone in records.iter().filter(|record| !status.members.iter().any(|m| m.id == record.id)) {
            // Again next time if it fails.
            let _ = store.txn(Txn::write(vec![servers::removal(&gone.name)]).fenced(Some(status.term))).await;
        }
        // Everything else lies in a namespace.
        let objects = system_objects::plan(
            |name| caches.namespaces.get(None, name).is_some(),
            |name| caches.classes.get(None, name).is_some(),
        );
        let made = apply(executor, objects, floor).await;
        caches.cache.wait_for(*floor).await;
        let service = kubernetes_service::plan(&kubernetes_service::View {
            service: caches.services.get(Some(NAMESPACE), NAME),
            endpoints: caches.endpoints.get(Some(NAMESPACE), NAME),
            slice: caches.slices.get(Some(NAMESPACE), NAME),
            service_ip: self.service_ip,
            members: members(&status, &records),
        });
        let followed = apply(executor, service, floor).await;
        if made && followed { EVERY } else { RETRY }
    }
}

/// Carries a plan out. False if something went wrong.
async fn apply(executor: &Executor, plan: Plan, floor: &mut Revision) -> bool {
    if plan.actions.is_empty() {
        return true;
    }
    debug!(why = plan.why, actions = plan.actions.len(), "the cluster's own objects change");
    let applied = executor.apply(plan.actions).await;
    *floor = applied.floor;
    if let Some(refusal) = applied.refusals.first() {
        warn!(reason = refusal.message, "the cluster's own objects are not complete yet");
    }
    !applied.failed
}

/// The members that have said where they serve the API.
fn members(status: &Status, records: &[Record]) -> Vec<Member> {
    let member = |member: &kontiki_store::Member| {
        let api = records.iter().find(|record| record.id == member.id)?.api.parse().ok()?;
        Some(Member { reachable: member.reachable || member.id == status.id, api })
    };
    status.members.iter().filter_map(member).collect()
}

#[cfg(test)]
mod tests {
    use kontiki_store::{Member as StoreMember, Role, Term};

    use super::*;

    #[test]
    fn members_with_a_record_are_shown_and_the_leader_reaches_itself() {
        let record = |id: u64| Record {
            name: format!("s{id}"),
            id,
            api: format!("10.0.0.{id}:6443"),
            node: String::new(),
            version: String::new(),
        };
        let member = |id: u64| StoreMember {
            id,
            name: format!("s{id}"),
            address: String::new(),
            client_urls: Vec::new(),
            role: Role::Follower,
            reachable: false,
            matched: None,
            lag: None,
            term: Term(1),
        };
        let status = Status {
            id: 1,
            name: "s1".into(),
            leader: Some(1),
            term: Term(1),
            is_leader: true,
            last_quorum_ack: None,
            applied: 0,
            last_log: 0,
            members: vec![member(1), member(2), member(3)],
        };
        let got: Vec<String> = members(&status, &[record(1), record(2), record(9)])
            .iter()
            .map(|member| format!("{} {}", member.api, member.reachable))
            .collect();
        assert_eq!(got, ["10.0.0.1:6443 true", "10.0.0.2:6443 false"]);
    }
}
