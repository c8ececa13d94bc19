//! ServiceCIDRs: ready while they are there, held while Services have addresses of theirs (KEP-1880; upstream's
//! `pkg/controller/servicecidrs`).
//!
//! Invariant: a range goes only when each address of it that is taken lies in another range that stays, and not before
//! whoever allocates has had time to see that it is going.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use super::service_ip;
use crate::action::{Plan, patch, patch_to};
use crate::object::{deleting, name, time};

/// What holds a range.
pub const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long a range stays after its deletion was asked for at least.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// What a plan is made from.
pub struct View {
    /// The range.
    pub cidr: Arc<ServiceCIDR>,
    /// All ranges.
    pub all: Vec<Arc<ServiceCIDR>>,
    /// All addresses that are taken.
    pub addresses: Vec<Arc<IPAddress>>,
}

/// Decides the next write for one range.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let cidr = view.cidr.as_ref();
    let finalizers: Vec<&str> = cidr.metadata.finalizers.iter().flatten().map(String::as_str).collect();
    let held = finalizers.contains(&FINALIZER);
    let Some(deleted) = cidr.metadata.deletion_timestamp.as_ref() else {
        if !held {
            let all: Vec<&str> = finalizers.into_iter().chain([FINALIZER]).collect();
            return Plan::new("it is not held yet", vec![patch(cidr, None, json!({"metadata": {"finalizers": all}}))]);
        }
        return say(cidr, ("True", "", "Kubernetes Service CIDR is ready"), now);
    };
    if !held {
        return Plan::rest("it is going");
    }
    if in_use(view) {
        const WHY: &str =
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        return say(cidr, ("False", "Terminating", WHY), now);
    }
    let free = deleted.0.checked_add(GRACE).unwrap_or(Timestamp::MAX);
    if now < free {
        let mut plan = Plan::rest("whoever allocates is to see that it is going");
        plan.wake_at(free);
        return plan;
    }
    let left: Vec<&str> = finalizers.into_iter().filter(|other| *other != FINALIZER).collect();
    Plan::new("no address depends on it", vec![patch(cidr, None, json!({"metadata": {"finalizers": left}}))])
}

/// Puts the condition right.
fn say(cidr: &ServiceCIDR, (status, reason, message): (&str, &str, &str), now: Timestamp) -> Plan {
    let conditions = cidr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is = |c: &&Condition| c.type_ == "Ready";
    if conditions.iter().find(is).is_some_and(|c| c.status == status && c.reason == reason) {
        return Plan::rest("its condition is right");
    }
    let mut all: Vec<Condition> = conditions.iter().filter(|c| !is(c)).cloned().collect();
    all.push(Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: time(now),
        observed_generation: None,
    });
    let new = ServiceCIDR { status: Some(ServiceCIDRStatus { conditions: Some(all) }), ..cidr.clone() };
    Plan::new("its condition changed", patch_to(cidr, &new, Some("status")).into_iter().collect())
}

/// The ranges of one object.
#[must_use]
pub fn ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let texts = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Whether an address of Services lies in this range alone.
fn in_use(view: &View) -> bool {
    let own = ranges(&view.cidr);
    let stays =
        |other: &&Arc<ServiceCIDR>| name(&other.metadata) != name(&view.cidr.metadata) && !deleting(&other.metadata);
    let others: Vec<IpNet> = view.all.iter().filter(stays).flat_map(|other| ranges(other)).collect();
    let within = |ranges: &[IpNet], ip: &IpAddr| ranges.iter().any(|range| range.contains(ip));
    let taken = view.addresses.iter().filter(|address| service_ip::is_ours(address));
    let mut ips = taken.filter_map(|address| name(&address.metadata).parse::<IpAddr>().ok());
    ips.any(|ip| within(&own, &ip) && !within(&others, &ip))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::ServiceCIDRSpec;

    use super::*;
    use crate::testing::{Cluster, NOW, meta, show};

    fn cidr(name: &str, range: &str) -> ServiceCIDR {
        let spec = ServiceCIDRSpec { cidrs: Some(vec![range.to_owned()]) };
        ServiceCIDR { metadata: meta(name), spec: Some(spec), status: None }
    }

    fn turn(cluster: &Cluster, name_of: &str, now: Timestamp) -> Vec<crate::Action> {
        let all: Vec<Arc<ServiceCIDR>> = cluster.list();
        let Some(cidr) = all.iter().find(|cidr| name(&cidr.metadata) == name_of).cloned() else { return Vec::new() };
        plan(&View { cidr, all, addresses: cluster.list() }, now).actions
    }

    fn ready(cluster: &Cluster, name_of: &str) -> String {
        let all: Vec<Arc<ServiceCIDR>> = cluster.list();
        let found = all.iter().find(|cidr| name(&cidr.metadata) == name_of);
        let condition = found.and_then(|cidr| cidr.status.as_ref()?.conditions.as_ref()?.first().cloned());
        condition.map(|c| format!("{} {}", c.status, c.reason)).unwrap_or_default()
    }

    #[test]
    fn a_range_becomes_ready_and_rests() {
        let mut cluster = Cluster::default();
        cluster.add(&cidr("a", "10.96.0.0/16"));
        assert!(cluster.settle(3, |cluster| turn(cluster, "a", NOW)), "{}", cluster.trace());
        assert_eq!(ready(&cluster, "a"), "True ");
        assert_eq!(cluster.only::<ServiceCIDR>().metadata.finalizers, Some(vec![FINALIZER.to_owned()]));
    }

    #[test]
    fn a_range_that_is_used_alone_stays() {
        let late = NOW + SignedDuration::from_secs(60);
        for (name_of, other, now, expect) in [
            ("used by nobody else", "10.97.0.0/16", late, "status a"),
            ("covered by another", "10.0.0.0/8", late, "patch a"),
            ("covered, but just deleted", "10.0.0.0/8", NOW, ""),
        ] {
            let mut going = cidr("a", "10.96.0.0/16");
            going.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
            going.metadata.deletion_timestamp = Some(time(NOW));
            let mut cluster = Cluster::default();
            cluster.add(&going);
            cluster.add(&cidr("b", other));
            cluster.add(&service_ip::address(IpAddr::from([10, 96, 0, 7]), "d", "web"));
            let actions = turn(&cluster, "a", now);
            assert_eq!(show(&actions), expect, "{name_of}");
        }
    }
}
