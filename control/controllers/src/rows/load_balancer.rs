//! Gives load balancers their addresses, and has nodes announce them: a controller each.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kontiki_api::Api;
use kontiki_api::leader::Settings;
use kontiki_cache::{Informer, TypedChange};
use kontiki_model::address::taken_by_nature;
use kontiki_plan::Plan;
use kontiki_plan::key::NamespacedName;
use kontiki_plan::network::announcing::{self, Fitness};
use kontiki_plan::network::load_balancer::{self, Holders, Offers, Question, is_ours, is_waiting, shown};
use kontiki_plan::network::pools::AddressPool;
use kontiki_plan::network::service_cidr::ranges;
use kontiki_plan::object::name;

use crate::controller::{Context, Controller, Inputs, NoFailure};
use crate::rows::endpointslice::Slices;

/// Services by an address that their status shows.
const BY_INGRESS: &str = "ingress";
/// Load balancers of ours: all of them, those that wait for an address, and those that a node announces.
const BALANCERS: &str = "balancers";
const ALL: &str = "all";
const WAITING: &str = "waiting";
/// Nodes by their addresses.
const BY_ADDRESS: &str = "address";

/// Under what a Service is found whose addresses a node announces; empty: none does yet.
fn announced_by(node: &str) -> String {
    format!("by {node}")
}

fn entries(service: &Service) -> Vec<String> {
    if !is_ours(service) {
        return Vec::new();
    }
    let mut all = vec![ALL.to_owned()];
    if is_waiting(service) {
        all.push(WAITING.to_owned());
    }
    if announcing::is_announced(service) {
        all.push(announced_by(announcing::named(service).unwrap_or_default()));
    }
    all
}

fn indexed(api: &Api) -> Informer<Service> {
    let services: Informer<Service> = api.cache().get();
    services.add_index(BY_INGRESS, |service: &Service| shown(service).iter().map(ToString::to_string).collect());
    services.add_index(BALANCERS, entries);
    services
}

fn keys(services: &[Arc<Service>]) -> Vec<NamespacedName> {
    services.iter().map(|service| NamespacedName::of(&service.metadata)).collect()
}

pub(crate) struct LoadBalancers {
    services: Informer<Service>,
    namespaces: Informer<Namespace>,
    pools: Informer<AddressPool>,
    nodes: Informer<Node>,
    cidrs: Informer<ServiceCIDR>,
    slices: Informer<EndpointSlice>,
    offers: Mutex<Offers>,
}

/// Who has which address, as one Service asks.
struct Known<'a> {
    controller: &'a LoadBalancers,
    offers: &'a Offers,
    own: &'a NamespacedName,
    /// What the cluster itself uses, and for what.
    reserved: Vec<(&'static str, IpNet)>,
}

impl Holders for Known<'_> {
    fn services(&self, address: IpAddr) -> Vec<Arc<Service>> {
        self.controller.services.by_index(BY_INGRESS, &address.to_string())
    }

    fn other(&self, address: IpAddr) -> Option<String> {
        if let Some(everybody) = taken_by_nature(address) {
            return Some(everybody.to_owned());
        }
        if let Some((what, _)) = self.reserved.iter().find(|(_, range)| range.contains(&address)) {
            return Some((*what).to_owned());
        }
        if let Some(other) = self.offers.kept_for(address, self.own) {
            return Some(format!("the Service {other}"));
        }
        let nodes = self.controller.nodes.by_index(BY_ADDRESS, &address.to_string());
        nodes.first().map(|node| format!("the node {}", name(&node.metadata)))
    }
}

impl LoadBalancers {
    /// What the cluster itself uses: nobody may be given it.
    fn reserved(&self, settings: &Settings) -> Vec<(&'static str, IpNet)> {
        let slice = self.slices.get(Some("default"), "kubernetes");
        let servers = slice.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let servers = servers.flat_map(|endpoint| &endpoint.addresses);
        let servers = servers.filter_map(|address| address.parse().ok()).chain(settings.virtual_address);
        let services = self.cidrs.list().into_iter().flat_map(|cidr| ranges(&cidr)).map(|range| ("Services", range));
        let servers = servers.map(|address: IpAddr| ("the API", IpNet::from(address)));
        [("pods", settings.pod_cidr)].into_iter().chain(services).chain(servers).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Offers> {
        // Nothing panics while it holds the lock, so a poisoned one is whole.
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Service, and those that wait for an address if it may have left one.
    fn by_service(&self, change: &TypedChange<Service>) -> Vec<NamespacedName> {
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        let touched = change
            .both()
            .any(|service| is_ours(service) || load_balancer::is_marked(service) || !shown(service).is_empty());
        if !touched {
            return Vec::new();
        }
        let freed = old.is_some_and(|old| {
            let now = new.map(shown).unwrap_or_default();
            let gone = is_ours(old) && !new.is_some_and(is_ours);
            gone || shown(old).iter().any(|address| !now.contains(address))
        });
        let waiting = if freed { self.found(WAITING) } else { Vec::new() };
        waiting.into_iter().chain([NamespacedName::from(&change.key)]).collect()
    }

    fn by_pool(&self, _: &TypedChange<AddressPool>) -> Vec<NamespacedName> {
        self.found(ALL)
    }

    /// Pools select by labels of namespaces.
    fn by_namespace(&self, change: &TypedChange<Namespace>) -> Vec<NamespacedName> {
        let labels = |namespace: &Option<Arc<Namespace>>| namespace.as_ref().map(|n| n.metadata.labels.clone());
        if self.pools.is_empty() || labels(&change.old) == labels(&change.new) {
            return Vec::new();
        }
        let mut services = self.services.by_namespace(&change.key.name);
        services.retain(|service| is_ours(service));
        keys(&services)
    }

    fn found(&self, which: &str) -> Vec<NamespacedName> {
        keys(&self.services.by_index(BALANCERS, which))
    }
}

impl Controller for LoadBalancers {
    const NAME: &'static str = "load-balancer";
    // Two that are asked at once could be given the same address.
    const WORKERS: usize = 1;
    type Key = NamespacedName;
    type View = load_balancer::View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        let nodes: Informer<Node> = api.cache().get();
        nodes.add_index(BY_ADDRESS, |node: &Node| {
            let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
            let ips = addresses.into_iter().flatten().filter(|address| address.type_.ends_with("IP"));
            ips.map(|address| address.address.clone()).collect()
        });
        let cache = api.cache();
        Self {
            services: indexed(api),
            namespaces: cache.get(),
            pools: cache.get(),
            nodes,
            cidrs: cache.get(),
            slices: cache.get(),
            offers: Mutex::default(),
        }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.services, Self::by_service);
        inputs.on(&self.pools, Self::by_pool);
        inputs.on(&self.namespaces, Self::by_namespace);
    }

    fn view(&self, key: &NamespacedName, context: &Context<'_, NoFailure>) -> Option<load_balancer::View> {
        let mut offers = self.lock();
        let on = context.settings.load_balancers;
        let service = self.services.get(Some(&key.namespace), &key.name);
        // What was given while this was on is still taken back.
        let Some(service) = service.filter(|service| on || load_balancer::is_marked(service)) else {
            offers.forget(key);
            return None;
        };
        let namespace = self.namespaces.get(None, &key.namespace);
        let outcome = load_balancer::decide(&Question {
            service: &service,
            namespace: namespace.as_deref(),
            pools: &if on { self.pools.list() } else { Vec::new() },
            holders: &Known { controller: self, offers: &offers, own: key, reserved: self.reserved(context.settings) },
        });
        let news = offers.keep(key, &service, &outcome);
        Some(load_balancer::View { service, outcome, news })
    }

    fn plan(view: &load_balancer::View, _: Timestamp) -> Plan {
        load_balancer::plan(view)
    }
}

pub(crate) struct Announcing {
    services: Informer<Service>,
    nodes: Informer<Node>,
    slices: Slices,
}

impl Announcing {
    fn by_service(&self, change: &TypedChange<Service>) -> Option<NamespacedName> {
        let touched = change.new.as_deref().is_some_and(is_ours);
        touched.then(|| NamespacedName::from(&change.key))
    }

    fn by_slice(&self, change: &TypedChange<EndpointSlice>) -> Vec<NamespacedName> {
        let mut keys = Slices::concerned(change);
        keys.retain(|key| {
            let service = self.services.get(Some(&key.namespace), &key.name);
            service.is_some_and(|service| is_ours(&service) && announcing::is_local(&service))
        });
        keys
    }

    /// The Services of a node that may no more; of one that may now, those that have none that may.
    fn by_node(&self, change: &TypedChange<Node>) -> Vec<NamespacedName> {
        let (before, now) = (announcing::fitness(change.old.as_deref()), announcing::fitness(change.new.as_deref()));
        if change.old.is_some() && before == now {
            return Vec::new();
        }
        if now != Fitness::Fit {
            return self.announced(&change.key.name);
        }
        let mut all = self.announced("");
        for node in self.nodes.list() {
            if announcing::fitness(Some(node.as_ref())) != Fitness::Fit {
                all.extend(self.announced(name(&node.metadata)));
            }
        }
        all
    }

    fn announced(&self, node: &str) -> Vec<NamespacedName> {
        keys(&self.services.by_index(BALANCERS, &announced_by(node)))
    }
}

impl Controller for Announcing {
    const NAME: &'static str = "load-balancer-announcing";
    const WORKERS: usize = 4;
    type Key = NamespacedName;
    type View = announcing::View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { services: indexed(api), nodes: api.cache().get(), slices: Slices::new(api) }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on(&self.services, Self::by_service);
        inputs.on(&self.nodes, Self::by_node);
        inputs.on(&self.slices.0, Self::by_slice);
    }

    fn view(&self, key: &NamespacedName, _: &Context<'_, NoFailure>) -> Option<announcing::View> {
        let service = self.services.get(Some(&key.namespace), &key.name)?;
        let announced = announcing::is_announced(&service);
        let serving = (announced && announcing::is_local(&service)).then(|| announcing::serving(&self.slices.of(key)));
        let node = announcing::named(&service).and_then(|node| self.nodes.get(None, node));
        let stays = !announced || announcing::stays(node.as_deref(), serving.as_ref());
        let nodes = if stays { Vec::new() } else { self.nodes.list() };
        Some(announcing::View { service, node, serving, nodes })
    }

    fn plan(view: &announcing::View, _: Timestamp) -> Plan {
        announcing::plan(view)
    }
}
