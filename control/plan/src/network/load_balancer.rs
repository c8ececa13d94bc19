//! Addresses of load balancers: which Service has which, from the AddressPools that there are. What upstream leaves to a cloud's
//! controller (`cloud-provider/controllers/service`).
//!
//! Invariants
//! - No two Services have the same address: of two that show it the older keeps it.
//! - A Service keeps its address as long as a pool that admits it has it.
//! - Only what is of our class, or of none, is touched; of that, while there is no pool, only what we gave an address before.
//! - What bears our mark is held by a finalizer until its address is given back.
//!
//! Not here: which node announces an address ([`super::announcing`]), and where its packets go (kontiki-agent-plan).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Namespace, Service, ServiceSpec};
use serde_json::{Value, json};

use super::pools::{AddressPool, Range};
use crate::action::{Action, EventRecord, Patch, Plan, patch, reference};
use crate::key::NamespacedName;
use crate::object::{annotation, deleting, labels, name, namespace};

/// Holds a Service until its address is given back; upstream's.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// The class that is ours, beside none.
pub const CLASS: &str = "kontiki.dev/l2";
/// Annotation: the pools that a Service's addresses are of. It marks what is ours.
pub const POOL: &str = "kontiki.dev/load-balancer-pool";
/// Annotation: the addresses that a Service wants, with commas between them.
pub const WANTED: &str = "kontiki.dev/load-balancer-ips";
/// Annotation: the node that announces a Service's addresses.
pub const ANNOUNCED_BY: &str = "kontiki.dev/announced-by";
const COMPONENT: &str = "load-balancer-controller";

/// Whether it is a load balancer of our class, or of none.
#[must_use]
pub fn is_ours(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    let class = spec.load_balancer_class.as_deref();
    spec.type_.as_deref() == Some("LoadBalancer") && class.is_none_or(|class| class == CLASS)
}

/// Whether it has, or had, an address of ours.
#[must_use]
pub fn is_marked(service: &Service) -> bool {
    annotation(&service.metadata, POOL).is_some()
}

/// Whether it waits for an address.
#[must_use]
pub fn is_waiting(service: &Service) -> bool {
    is_ours(service) && !deleting(&service.metadata) && ingress(service).is_empty()
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

/// The addresses that its status shows.
#[must_use]
pub fn shown(service: &Service) -> Vec<IpAddr> {
    ingress(service).iter().filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect()
}

/// Who has which address.
pub trait Holders {
    /// The Services whose status shows it.
    fn services(&self, address: IpAddr) -> Vec<Arc<Service>>;
    /// Who else has it, in words.
    fn other(&self, address: IpAddr) -> Option<String>;
}

/// What is asked about one Service.
pub struct Question<'a> {
    /// The Service.
    pub service: &'a Service,
    /// Its namespace.
    pub namespace: Option<&'a Namespace>,
    /// All pools.
    pub pools: &'a [Arc<AddressPool>],
    /// Who has which address.
    pub holders: &'a dyn Holders,
}

/// What a Service is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is none of our business.
    Foreign,
    /// Nothing any more.
    Nothing,
    /// These addresses, each of the pool named beside it.
    Addresses(Vec<(IpAddr, String)>),
    /// An address, but there is none for it; why.
    None(String),
}

/// Decides what a Service is to have.
#[must_use]
pub fn decide(question: &Question<'_>) -> Outcome {
    let (service, pools) = (question.service, question.pools);
    let balances = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    if balances && !is_ours(service) {
        return Outcome::Foreign;
    }
    if !balances || deleting(&service.metadata) {
        // Somebody may have taken the mark away.
        let held = balances && !pools.is_empty() && finalizers(service).contains(&FINALIZER);
        return if is_marked(service) || held { Outcome::Nothing } else { Outcome::Foreign };
    }
    if pools.is_empty() && !is_marked(service) && !ingress(service).is_empty() {
        return Outcome::Foreign;
    }
    match choose(question) {
        Ok(addresses) => Outcome::Addresses(addresses),
        Err(why) => Outcome::None(why),
    }
}

fn choose(question: &Question<'_>) -> Result<Vec<(IpAddr, String)>, String> {
    if question.pools.is_empty() {
        return Err("There is no AddressPool (kontiki.dev/v1) to take an address from".to_owned());
    }
    let service = &question.service.metadata;
    let space = question.namespace.map(|namespace| labels(&namespace.metadata)).unwrap_or_default();
    let own = labels(service);
    let mut pools: Vec<&AddressPool> =
        question.pools.iter().map(Arc::as_ref).filter(|pool| pool.admits(&own, &space)).collect();
    pools.sort_by_key(|pool| pool.name());
    match wanted(question.service) {
        Some(wanted) => wanted?.into_iter().map(|address| exactly(question, &pools, address)).collect(),
        None => any(question, &pools),
    }
}

/// The addresses that a Service names.
fn wanted(service: &Service) -> Option<Result<Vec<IpAddr>, String>> {
    let field = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref());
    let text = annotation(&service.metadata, WANTED).or(field).filter(|text| !text.trim().is_empty())?;
    let read = |one: &str| {
        one.trim().parse::<IpAddr>().map_err(|_| format!("It asks for {:?}, which is no address", one.trim()))
    };
    Some(text.split(',').map(read).collect())
}

fn exactly(question: &Question<'_>, pools: &[&AddressPool], address: IpAddr) -> Result<(IpAddr, String), String> {
    let pool = pools.iter().find(|pool| pool.has(address));
    let pool = pool.ok_or_else(|| format!("It asks for {address}, which is in no AddressPool that admits it"))?;
    match user(question, address, is_shown(question, address)) {
        Some(user) => Err(format!("It asks for {address}, which is used by {user}")),
        None => Ok((address, pool.name().to_owned())),
    }
}

fn any(question: &Question<'_>, pools: &[&AddressPool]) -> Result<Vec<(IpAddr, String)>, String> {
    let spec = question.service.spec.as_ref();
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for four in families(spec) {
        match kept(question, pools, four).or_else(|| free(question, pools, four)) {
            Some(address) => found.push(address),
            None => failed.push(lack(pools, four)),
        }
    }
    let both = spec.is_some_and(|spec| spec.ip_family_policy.as_deref() == Some("RequireDualStack"));
    match failed.into_iter().next() {
        Some(why) if both || found.is_empty() => Err(why),
        _ => Ok(found),
    }
}

/// Whether each family that is asked for is IPv4.
fn families(spec: Option<&ServiceSpec>) -> Vec<bool> {
    let named = spec.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    if named.is_empty() { vec![true] } else { named.iter().map(|family| family == "IPv4").collect() }
}

fn is_shown(question: &Question<'_>, address: IpAddr) -> bool {
    shown(question.service).contains(&address)
}

/// The address of a family that it has already.
fn kept(question: &Question<'_>, pools: &[&AddressPool], four: bool) -> Option<(IpAddr, String)> {
    shown(question.service).into_iter().filter(|address| address.is_ipv4() == four).find_map(|address| {
        let pool = pools.iter().find(|pool| pool.has(address))?;
        user(question, address, true).is_none().then(|| (address, pool.name().to_owned()))
    })
}

/// Addresses of a pool that are looked at for one that is free: a network of IPv6 has no end.
const LOOKED_AT: usize = 1 << 17;

/// The first address of a family that nobody has.
fn free(question: &Question<'_>, pools: &[&AddressPool], four: bool) -> Option<(IpAddr, String)> {
    for_all(pools).find_map(|pool| {
        let all = pool.ranges().filter(|range| range.is_ipv4() == four).flat_map(Range::addresses);
        let mut all = all.take(LOOKED_AT);
        let address = all.find(|address| user(question, *address, false).is_none())?;
        Some((address, pool.name().to_owned()))
    })
}

fn for_all<'a>(pools: &'a [&'a AddressPool]) -> impl Iterator<Item = &'a AddressPool> {
    pools.iter().copied().filter(|pool| pool.is_for_all())
}

fn lack(pools: &[&AddressPool], four: bool) -> String {
    let family = if four { "IPv4" } else { "IPv6" };
    let fits = |pool: &&AddressPool| pool.ranges().any(|range| range.is_ipv4() == four);
    let names: Vec<&str> = for_all(pools).filter(fits).map(AddressPool::name).collect();
    if names.is_empty() {
        return format!("No AddressPool that is for it has {family} addresses");
    }
    format!("All {family} addresses of {} are used", names.join(", "))
}

/// Who else has an address, so that the Service cannot. One that has it already gives way to older ones only.
fn user(question: &Question<'_>, address: IpAddr, has: bool) -> Option<String> {
    let own = NamespacedName::of(&question.service.metadata);
    let before = |other: &&Arc<Service>| {
        let key = NamespacedName::of(&other.metadata);
        key != own && (!has || rank(other) < rank(question.service))
    };
    let others = question.holders.services(address);
    let other = others.iter().find(before).map(|other| format!("the Service {}", NamespacedName::of(&other.metadata)));
    other.or_else(|| question.holders.other(address))
}

fn rank(service: &Service) -> (Option<jiff::Timestamp>, &str, &str) {
    let meta = &service.metadata;
    (meta.creation_timestamp.as_ref().map(|time| time.0), namespace(meta), name(meta))
}

/// Addresses that were chosen and are not shown yet, and who was told what.
#[derive(Debug, Default)]
pub struct Offers {
    by_address: HashMap<IpAddr, NamespacedName>,
    by_service: HashMap<NamespacedName, Vec<IpAddr>>,
    told: HashMap<NamespacedName, String>,
}

impl Offers {
    /// Which other Service an address is kept for.
    #[must_use]
    pub fn kept_for(&self, address: IpAddr, own: &NamespacedName) -> Option<&NamespacedName> {
        self.by_address.get(&address).filter(|holder| *holder != own)
    }

    /// Keeps what was decided for a Service until it is shown. False if people have been told why it gets nothing.
    pub fn keep(&mut self, key: &NamespacedName, service: &Service, outcome: &Outcome) -> bool {
        self.release(key);
        if let Outcome::Addresses(addresses) = outcome {
            let shown = shown(service);
            let new = addresses.iter().map(|(address, _)| *address).filter(|address| !shown.contains(address));
            let new: Vec<IpAddr> = new.collect();
            if !new.is_empty() {
                self.by_address.extend(new.iter().map(|address| (*address, key.clone())));
                self.by_service.insert(key.clone(), new);
            }
        }
        match outcome {
            Outcome::None(why) => self.told.insert(key.clone(), why.clone()).is_none_or(|before| before != *why),
            _ => {
                self.told.remove(key);
                true
            }
        }
    }

    /// A Service is gone.
    pub fn forget(&mut self, key: &NamespacedName) {
        self.release(key);
        self.told.remove(key);
    }

    fn release(&mut self, key: &NamespacedName) {
        for address in self.by_service.remove(key).unwrap_or_default() {
            if self.by_address.get(&address) == Some(key) {
                self.by_address.remove(&address);
            }
        }
    }
}

/// What a plan is made from.
pub struct View {
    /// The Service.
    pub service: Arc<Service>,
    /// What it is to have.
    pub outcome: Outcome,
    /// Whether people do not know yet why it gets nothing.
    pub news: bool,
}

/// Decides the next write for one Service.
#[must_use]
pub fn plan(view: &View) -> Plan {
    let service = view.service.as_ref();
    match &view.outcome {
        Outcome::Foreign => Plan::rest("it is not ours"),
        Outcome::Nothing => give_back(service),
        Outcome::Addresses(addresses) => give(service, addresses),
        Outcome::None(why) => {
            let mut actions = Vec::new();
            if is_marked(service) && !ingress(service).is_empty() {
                actions.push(show(service, Vec::new()));
            }
            if view.news {
                let event = EventRecord::warning(reference(service), COMPONENT, "NoAddress", why.clone());
                actions.push(Action::Event(event));
            }
            Plan::new("there is no address for it", actions)
        }
    }
}

fn finalizers(service: &Service) -> Vec<&str> {
    service.metadata.finalizers.iter().flatten().map(String::as_str).collect()
}

fn give(service: &Service, addresses: &[(IpAddr, String)]) -> Plan {
    let mut pools: Vec<&str> = addresses.iter().map(|(_, pool)| pool.as_str()).collect();
    pools.dedup();
    let (pools, held) = (pools.join(","), finalizers(service));
    if annotation(&service.metadata, POOL) != Some(pools.as_str()) || !held.contains(&FINALIZER) {
        let others = held.into_iter().filter(|other| *other != FINALIZER);
        let all: Vec<&str> = others.chain([FINALIZER]).collect();
        let body = json!({"metadata": {"annotations": {POOL: pools}, "finalizers": all}});
        return Plan::new("it is not marked yet", vec![patch(service, None, body)]);
    }
    let wanted: Vec<LoadBalancerIngress> = addresses.iter().map(|(address, _)| entry(*address)).collect();
    if ingress(service) == wanted {
        return Plan::rest("it has its addresses");
    }
    let texts: Vec<String> = addresses.iter().map(|(address, _)| address.to_string()).collect();
    let message = format!("Assigned {} of {pools}", texts.join(", "));
    let mut action = show(service, addresses.iter().map(|(address, _)| *address).collect());
    if let Action::Patch(Patch { announce, .. }) = &mut action {
        *announce = Some(EventRecord::normal(reference(service), COMPONENT, "AddressAssigned", message));
    }
    Plan::new("it gets its addresses", vec![action])
}

fn give_back(service: &Service) -> Plan {
    if !ingress(service).is_empty() {
        return Plan::new("it gives its addresses back", vec![show(service, Vec::new())]);
    }
    let left: Vec<&str> = finalizers(service).into_iter().filter(|other| *other != FINALIZER).collect();
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    let body = json!({"metadata": {"annotations": {POOL: null, ANNOUNCED_BY: null}, "finalizers": left}});
    Plan::new("nothing is left of its addresses", vec![patch(service, None, body)])
}

fn entry(address: IpAddr) -> LoadBalancerIngress {
    let (ip, ip_mode) = (Some(address.to_string()), Some("VIP".to_owned()));
    LoadBalancerIngress { ip, ip_mode, ..LoadBalancerIngress::default() }
}

/// Makes the status show exactly these.
fn show(service: &Service, addresses: Vec<IpAddr>) -> Action {
    let ingress: Vec<LoadBalancerIngress> = addresses.into_iter().map(entry).collect();
    let ingress = if ingress.is_empty() { Value::Null } else { json!(ingress) };
    patch(service, Some("status"), json!({"status": {"loadBalancer": {"ingress": ingress}}}))
}

#[cfg(test)]
#[path = "load_balancer_tests.rs"]
mod tests;
