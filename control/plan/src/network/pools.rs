//! AddressPools (`kontiki.dev`): which addresses load balancers may have, as an operator says it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, Metadata, Resource};
use kontiki_model::selector::Selector;
use serde::{Deserialize, Serialize};

use crate::object::{Labels, name};

/// One pool. What its fields mean is said in its definition (`kontiki_kinds::bootstrap`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AddressPool {
    /// As of every object.
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default)]
    pub spec: Spec,
}

/// See [`AddressPool`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Ranges: `10.1.2.0/28`, `10.1.2.40-10.1.2.50`, `10.1.2.7`.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Whether a Service gets one that asks for none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_assign: Option<bool>,
    /// Which Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
    /// Of which namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
}

impl Resource for AddressPool {
    const API_VERSION: &'static str = "kontiki.dev/v1";
    const GROUP: &'static str = "kontiki.dev";
    const KIND: &'static str = "AddressPool";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "addresspools";
    type Scope = ClusterResourceScope;
}

impl Metadata for AddressPool {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl AddressPool {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        name(&self.metadata)
    }

    /// Its ranges, in order; what cannot be read is left out.
    pub fn ranges(&self) -> impl Iterator<Item = Range> {
        self.spec.addresses.iter().filter_map(|text| Range::parse(text))
    }

    /// Whether it has the address.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.ranges().any(|range| range.contains(address))
    }

    /// Whether Services get an address of it that do not ask for one.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.spec.auto_assign != Some(false)
    }

    /// Whether a Service with these labels, in a namespace with those, may have an address of it.
    #[must_use]
    pub fn admits(&self, service: &Labels, namespace: &Labels) -> bool {
        let fits = |selector: &Option<LabelSelector>, labels| {
            // One that cannot be read selects nothing.
            selector.as_ref().is_none_or(|spec| Selector::from_spec(spec).is_some_and(|s| s.matches(labels)))
        };
        fits(&self.spec.service_selector, service) && fits(&self.spec.namespace_selector, namespace)
    }
}

/// Addresses of one family from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

impl Range {
    /// Reads one, whichever end is said first; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(net) = text.parse::<IpNet>() {
            return Some(Self { first: net.network(), last: net.broadcast() });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first.is_ipv4() == last.is_ipv4()).then(|| Self { first: first.min(last), last: first.max(last) })
    }

    /// Which family it is of.
    #[must_use]
    pub fn is_ipv4(self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether it has an address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && self.first <= address && address <= self.last
    }

    /// Its addresses, in order.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let four = self.first.is_ipv4();
        (number(self.first)..=number(self.last)).map(move |number| match u32::try_from(number) {
            Ok(number) if four => IpAddr::V4(Ipv4Addr::from(number)),
            _ => IpAddr::V6(Ipv6Addr::from(number)),
        })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::map;

    #[test]
    fn ranges_are_read_as_people_write_them() {
        for (text, expect) in [
            ("10.1.2.0/30", "10.1.2.0 10.1.2.1 10.1.2.2 10.1.2.3"),
            ("10.1.2.1/30", "10.1.2.0 10.1.2.1 10.1.2.2 10.1.2.3"),
            ("10.1.2.254-10.1.3.1", "10.1.2.254 10.1.2.255 10.1.3.0 10.1.3.1"),
            (" 10.1.2.7 - 10.1.2.8 ", "10.1.2.7 10.1.2.8"),
            ("10.1.2.7", "10.1.2.7"),
            ("255.255.255.255/32", "255.255.255.255"),
            ("fd00::fffe-fd00::1:0", "fd00::fffe fd00::ffff fd00::1:0"),
            ("10.1.2.8-10.1.2.7", "10.1.2.7 10.1.2.8"),
            ("10.1.2.8-fd00::1", ""),
            ("10.1.2", ""),
            ("10.1.2.0/33", ""),
            ("", ""),
        ] {
            let all: Vec<String> =
                Range::parse(text).into_iter().flat_map(Range::addresses).map(|ip| ip.to_string()).collect();
            assert_eq!(all.join(" "), expect, "{text}");
        }
        let large = Range::parse("fd00::/64").expect("a range");
        assert_eq!(large.addresses().nth(2), Some("fd00::2".parse().expect("an address")));
        assert!(large.contains("fd00::ffff:ffff:ffff:ffff".parse().expect("an address")));
        assert!(!large.contains(IpAddr::from([10, 1, 2, 3])));
    }

    #[test]
    fn a_pool_says_whom_it_is_for() {
        let pool = |spec: serde_json::Value| AddressPool {
            spec: serde_json::from_value(spec).expect("a spec"),
            ..AddressPool::default()
        };
        let labels = map(&[("team", "a")]);
        for (spec, expect) in [
            (serde_json::json!({}), true),
            (serde_json::json!({"serviceSelector": {"matchLabels": {"team": "a"}}}), true),
            (serde_json::json!({"serviceSelector": {"matchLabels": {"team": "b"}}}), false),
            (serde_json::json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}), false),
            (
                serde_json::json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}),
                true,
            ),
            (
                serde_json::json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Odd"}]}}),
                false,
            ),
        ] {
            assert_eq!(pool(spec.clone()).admits(&labels, &map(&[])), expect, "{spec}");
        }
        let read = pool(serde_json::json!({"addresses": ["10.0.0.0/31", "junk", "10.0.0.9"], "autoAssign": false}));
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        assert_eq!([0, 1, 2, 9].map(|last| read.has(ip(last))), [true, true, false, true]);
        assert!(!read.is_for_all() && pool(serde_json::json!({})).is_for_all());
    }
}
