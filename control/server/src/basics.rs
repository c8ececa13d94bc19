//! The objects that every cluster has: its namespaces and PriorityClasses, what its rows begin with, roles and their
//! bindings, what servers of further APIs have to know, and the `kubernetes` Service with the addresses of the servers. What
//! they should be is decided in `kontiki-plan`.
//!
//! Invariants
//! - Only the leader writes them, with what it has written before in view.
//! - Roles and bindings are made right once a term, as by upstream at a start: who takes one away later means it.
//! - The record of a server that is no longer a member goes.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kontiki_api::{Writer, leader::LeaderContext, recorder::Recorder};
use kontiki_cache::{Cache, Informer};
use kontiki_controllers::Executor;
use kontiki_model::{GroupResource, ObjectKey, Revision, key};
use kontiki_plan::{
    Plan,
    lifecycle::{authentication_config, rbac_defaults, system_objects},
    network::{
        cluster_dns,
        kubernetes_service::{self, Member, NAME, NAMESPACE},
    },
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
/// The last that are made.
const BINDINGS: GroupResource<'static> = GroupResource { group: "rbac.authorization.k8s.io", resource: "rolebindings" };

/// Whether the namespaces are there, and the bindings by which anybody but administrators may do something, as far as this
/// member knows.
#[must_use]
pub fn complete(snapshot: &Snapshot) -> bool {
    let there = |name: &&str| snapshot.get(&ObjectKey::new(NAMESPACES, None, name).encode()).is_some();
    let bound = snapshot.range(key::prefix(BINDINGS, None).as_bytes()).next().is_some();
    bound && system_objects::NAMESPACES.iter().all(there)
}

/// What the objects are made from.
pub struct Basics {
    /// The first address of the service range.
    pub service_ip: IpAddr,
    /// Where the nodes' name servers answer, unless others do.
    pub dns_ip: Option<IpAddr>,
    /// Further objects, which are made where they are missing, and renewed where they are of an earlier edition.
    pub given: Vec<system_objects::Given>,
    /// The cluster's CA.
    pub ca_pem: String,
    /// The name in the certificate by which masters pass requests on to servers of further APIs.
    pub front_proxy: String,
}

struct Caches {
    cache: Cache,
    namespaces: Informer<Namespace>,
    config_maps: Informer<ConfigMap>,
    classes: Informer<PriorityClass>,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    cluster_roles: Informer<ClusterRole>,
    roles: Informer<Role>,
    cluster_role_bindings: Informer<ClusterRoleBinding>,
    role_bindings: Informer<RoleBinding>,
}

impl Caches {
    fn new(cache: &Cache) -> Self {
        Self {
            cache: cache.clone(),
            namespaces: cache.get(),
            config_maps: cache.get(),
            classes: cache.get(),
            services: cache.get(),
            endpoints: cache.get(),
            slices: cache.get(),
            cluster_roles: cache.get(),
            roles: cache.get(),
            cluster_role_bindings: cache.get(),
            role_bindings: cache.get(),
        }
    }

    /// What of the roles and bindings is still to be made.
    fn permissions(&self) -> Plan {
        rbac_defaults::plan(&rbac_defaults::View {
            cluster_roles: &|_, name| self.cluster_roles.get(None, name),
            roles: &|namespace, name| self.roles.get(Some(namespace), name),
            cluster_role_bindings: &|_, name| self.cluster_role_bindings.get(None, name),
            role_bindings: &|namespace, name| self.role_bindings.get(Some(namespace), name),
        })
    }
}

impl Basics {
    /// Keeps the objects as they should be while the term lasts.
    pub async fn run(self: Arc<Self>, context: LeaderContext, store: Store) {
        let (recorder, recording) = Recorder::new(context.client.clone(), Writer::Server, context.stop.clone());
        let mut tasks = JoinSet::from_iter([recording]);
        let executor = Executor::new(&context, &recorder, "system-objects", Writer::Server);
        let caches = Caches::new(context.api.cache());
        let mut progress = Progress { floor: store.snapshot().revision(), permitted: false };
        loop {
            let wait = self.turn(&caches, &executor, &store, &mut progress).await;
            tokio::select! {
                () = context.stop.cancelled() => break,
                // A dropped timer loses nothing: each turn looks at everything.
                () = tokio::time::sleep(wait) => {}
            }
        }
        tasks.shutdown().await;
    }

    /// One look. Returns how long to wait for the next.
    async fn turn(&self, caches: &Caches, executor: &Executor, store: &Store, progress: &mut Progress) -> Duration {
        let Progress { floor, permitted } = progress;
        caches.cache.wait_for(*floor).await;
        let status = store.status().borrow().clone();
        let records = servers::list(&store.snapshot());
        for gone in records.iter().filter(|record| !status.members.iter().any(|m| m.id == record.id)) {
            // Again next time if it fails.
            let _ = store.txn(Txn::write(vec![servers::removal(&gone.name)]).fenced(Some(status.term))).await;
        }
        // Everything else lies in a namespace.
        let mut objects = system_objects::plan(
            |name| caches.namespaces.get(None, name).is_some(),
            |name| caches.classes.get(None, name).is_some(),
        );
        let now = store.snapshot();
        objects.extend(system_objects::complete(&self.given, |given| {
            let resource = GroupResource { group: given.group, resource: given.resource };
            now.get(&ObjectKey::new(resource, None, given.name()).encode()).map(|entry| entry.value.clone())
        }));
        let mut made = apply(executor, objects, floor).await;
        caches.cache.wait_for(*floor).await;
        if made && !*permitted {
            let plan = caches.permissions();
            *permitted = plan.actions.is_empty();
            // Once more, soon, to see that nothing is left.
            made = apply(executor, plan, floor).await && *permitted;
            caches.cache.wait_for(*floor).await;
        }
        let known = caches.config_maps.get(Some(authentication_config::NAMESPACE), authentication_config::NAME);
        let known = authentication_config::plan(known.as_deref(), &self.ca_pem, &self.front_proxy);
        let known = apply(executor, known, floor).await;
        let service = kubernetes_service::plan(&kubernetes_service::View {
            service: caches.services.get(Some(NAMESPACE), NAME),
            endpoints: caches.endpoints.get(Some(NAMESPACE), NAME),
            slice: caches.slices.get(Some(NAMESPACE), NAME),
            service_ip: self.service_ip,
            members: members(&status, &records),
        });
        let followed = apply(executor, service, floor).await;
        let named = match self.dns_ip {
            None => true,
            Some(address) => {
                let there = caches.services.get(Some(cluster_dns::NAMESPACE), cluster_dns::NAME).is_some();
                apply(executor, cluster_dns::plan(there, address), floor).await
            }
        };
        if made && known && followed && named { EVERY } else { RETRY }
    }
}

/// How far this term has come.
struct Progress {
    /// What a view has to show.
    floor: Revision,
    /// Roles and bindings have been found to be right.
    permitted: bool,
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
