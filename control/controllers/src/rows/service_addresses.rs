//! Shows the cluster addresses of Services as objects, and holds the ranges that they come from: a controller each.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kontiki_api::Api;
use kontiki_cache::{Informer, TypedChange};
use kontiki_plan::Plan;
use kontiki_plan::key::Name;
use kontiki_plan::network::{service_cidr, service_ip};

use crate::controller::{Context, Controller, Inputs, NoFailure};

/// Services by cluster address.
const BY_ADDRESS: &str = "address";

pub(crate) struct ServiceAddresses {
    services: Informer<Service>,
    addresses: Informer<IPAddress>,
}

impl ServiceAddresses {
    fn by_service(&self, change: &TypedChange<Service>) -> Vec<Name> {
        change
            .both()
            .flat_map(|service| service_ip::of(service))
            .map(|ip| Name::from(ip.to_string().as_str()))
            .collect()
    }
}

impl Controller for ServiceAddresses {
    const NAME: &'static str = "service-ip-address";
    const WORKERS: usize = 4;
    type Key = Name;
    type View = service_ip::View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        let services: Informer<Service> = api.cache().get();
        services.add_index(BY_ADDRESS, |service: &Service| {
            service_ip::of(service).into_iter().map(|ip| ip.to_string()).collect()
        });
        Self { services, addresses: api.cache().get() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.addresses);
        inputs.on(&self.services, Self::by_service);
    }

    fn view(&self, key: &Name, _: &Context<'_, NoFailure>) -> Option<Self::View> {
        let ip: IpAddr = key.as_str().parse().ok()?;
        let service = self.services.by_index(BY_ADDRESS, key.as_str()).into_iter().next();
        Some(service_ip::View { ip, address: self.addresses.get(None, key.as_str()), service })
    }

    fn plan(view: &Self::View, _: Timestamp) -> Plan {
        service_ip::plan(view)
    }
}

pub(crate) struct ServiceCidrs {
    cidrs: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

impl ServiceCidrs {
    /// A range may go when another covers it.
    fn by_cidr(&self, _: &TypedChange<ServiceCIDR>) -> Vec<Name> {
        self.all()
    }

    /// An address that is given back may have been the last.
    fn by_address(&self, change: &TypedChange<IPAddress>) -> Vec<Name> {
        if change.new.is_none() { self.going() } else { Vec::new() }
    }

    fn all(&self) -> Vec<Name> {
        self.names(|_| true)
    }

    fn going(&self) -> Vec<Name> {
        self.names(|cidr| cidr.metadata.deletion_timestamp.is_some())
    }

    fn names(&self, wanted: impl Fn(&ServiceCIDR) -> bool) -> Vec<Name> {
        let all = self.cidrs.list();
        let wanted = all.iter().filter(|cidr| wanted(cidr));
        wanted.filter_map(|cidr| cidr.metadata.name.as_deref().map(Name::from)).collect()
    }
}

impl Controller for ServiceCidrs {
    const NAME: &'static str = "service-cidr";
    const WORKERS: usize = 1;
    type Key = Name;
    type View = service_cidr::View;
    type Failure = NoFailure;

    fn new(api: &Api) -> Self {
        Self { cidrs: api.cache().get(), addresses: api.cache().get() }
    }

    fn inputs(&self, inputs: &mut Inputs<Self>) {
        inputs.on_own(&self.cidrs);
        inputs.on(&self.cidrs, Self::by_cidr);
        inputs.on(&self.addresses, Self::by_address);
    }

    fn view(&self, key: &Name, _: &Context<'_, NoFailure>) -> Option<Self::View> {
        let cidr: Arc<ServiceCIDR> = self.cidrs.get(None, key.as_str())?;
        let going = cidr.metadata.deletion_timestamp.is_some();
        // Only a range that is to go is judged by all others.
        let (all, addresses) = if going { (self.cidrs.list(), self.addresses.list()) } else { Default::default() };
        Some(service_cidr::View { cidr, all, addresses })
    }

    fn plan(view: &Self::View, now: Timestamp) -> Plan {
        service_cidr::plan(view, now)
    }
}
