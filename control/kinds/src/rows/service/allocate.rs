//! Cluster addresses and node ports: each is a claim of its own, so that two Services never share one.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;
use serde_json::Value;

use super::super::value::{get, has, list, text, texts};
use super::{needs_cluster_ip, needs_health_check_port, needs_node_ports};
use crate::{FieldError, GroupResource, allocation::Pool};

const IPS: &str = "serviceips/";
const PORTS: &str = "nodeports/";
const SERVICE_CIDRS: GroupResource<'static> = GroupResource { group: "networking.k8s.io", resource: "servicecidrs" };
/// The ServiceCIDR of the range that a cluster begins with.
pub const DEFAULT_CIDR: &str = "kubernetes";
/// Random picks before the range is searched in order.
const TRIES: u32 = 64;

/// What Services take from.
#[derive(Clone, Debug)]
pub struct Ranges {
    /// Cluster addresses. The first one is the API's own Service's.
    pub addresses: IpNet,
    /// Node ports.
    pub node_ports: RangeInclusive<u16>,
}

/// Gives a Service its address, its node ports and its health check port, where it needs them.
pub(super) fn allocate(service: &mut Value, ranges: &Ranges, pool: &mut Pool<'_>) -> Result<(), FieldError> {
    take_address(pool, service, ranges.addresses)?;
    take_ports(pool, service, &ranges.node_ports)
}

/// The claim of an address.
pub fn ip_claim(ip: &str) -> String {
    format!("{IPS}{ip}")
}

fn port_claim(protocol: &str, port: u64) -> String {
    format!("{PORTS}{protocol}/{port}")
}

/// What a Service holds.
pub(super) fn claims(service: &Value) -> BTreeSet<String> {
    let spec = &service["spec"];
    let texts = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut claims: BTreeSet<String> = texts.filter(|ip| *ip != "None" && !ip.is_empty()).map(ip_claim).collect();
    for port in spec["ports"].as_array().into_iter().flatten() {
        if let Some(number) = port["nodePort"].as_u64().filter(|n| *n != 0) {
            claims.insert(port_claim(port["protocol"].as_str().unwrap_or("TCP"), number));
        }
    }
    if let Some(number) = spec["healthCheckNodePort"].as_u64().filter(|n| *n != 0) {
        claims.insert(port_claim("TCP", number));
    }
    claims
}

/// Where addresses come from now: the ranges that are ready; the cluster's first also while nobody has shown it.
fn ranges(pool: &Pool<'_>, first: IpNet) -> Vec<IpNet> {
    let known = pool.objects(SERVICE_CIDRS);
    let shown = known.iter().any(|cidr| text(get(cidr, "metadata"), "name") == DEFAULT_CIDR);
    let offered = known.iter().filter(|cidr| usable(cidr)).flat_map(|cidr| texts(get(cidr, "spec"), "cidrs"));
    let family = |range: &IpNet| matches!(range, IpNet::V4(_)) == matches!(first, IpNet::V4(_));
    let mut all: Vec<IpNet> = offered.filter_map(|range| range.parse().ok()).filter(family).collect();
    all.extend((!shown).then_some(first));
    // The cluster's own comes first, whatever the others are called.
    all.sort_by_key(|range| *range != first);
    all
}

fn usable(cidr: &Value) -> bool {
    let conditions = list(get(cidr, "status"), "conditions");
    let ready = conditions.iter().any(|c| text(c, "type") == "Ready" && text(c, "status") == "True");
    let own = text(get(cidr, "metadata"), "name") == DEFAULT_CIDR;
    // The first is there before anybody can have looked at it.
    !has(get(cidr, "metadata"), "deletionTimestamp") && (ready || (own && conditions.is_empty()))
}

fn take_address(pool: &mut Pool<'_>, service: &mut Value, first: IpNet) -> Result<(), FieldError> {
    if !needs_cluster_ip(service) {
        return Ok(());
    }
    let ranges = ranges(pool, first);
    let given = match service["spec"]["clusterIP"].as_str() {
        Some("None") => return Ok(()),
        None | Some("") => None,
        Some(ip) => Some(ip.to_owned()),
    };
    let ip = match given {
        Some(ip) => {
            let fail = |why: &str| {
                FieldError::invalid(
                    "spec.clusterIPs",
                    Value::from(vec![ip.clone()]),
                    format!("failed to allocate IP {ip}: {why}"),
                )
            };
            let parsed: IpAddr = ip.parse().map_err(|_| fail("not a valid IP address"))?;
            let held = pool.holds(&ip_claim(&ip));
            if !held && !ranges.iter().any(|range| range.contains(&parsed)) {
                let shown: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                let shown = shown.join(", ");
                return Err(fail(&format!(
                    "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {shown}"
                )));
            }
            if !pool.is_free(&ip_claim(&ip)) {
                return Err(fail("provided IP is already allocated"));
            }
            ip
        }
        None => ranges
            .iter()
            .find_map(|range| free_address(pool, *range))
            .ok_or_else(|| FieldError::internal("spec.clusterIPs", "failed to allocate a serviceIP: range is full"))?,
    };
    pool.take(ip_claim(&ip));
    let spec = &mut service["spec"];
    spec["clusterIPs"] = vec![ip.clone()].into();
    spec["clusterIP"] = ip.into();
    Ok(())
}

/// A free address. The low end of the range is left to people who choose addresses themselves,
/// as long as there is another.
fn free_address(pool: &mut Pool<'_>, range: IpNet) -> Option<String> {
    let size = addresses(range);
    let reserved = if size > 256 { (size / 16).clamp(16, 256) } else { 1 };
    let last = size.checked_sub(2).filter(|last| *last > reserved)?; // the last address is the broadcast's
    let free = |pool: &Pool<'_>, offset: u128| {
        let ip = nth(range, offset).to_string();
        pool.is_free(&ip_claim(&ip)).then_some(ip)
    };
    let random = (0..TRIES).find_map(|_| {
        let offset = pool.pick(reserved + 1, last);
        free(pool, offset)
    });
    random.or_else(|| (reserved + 1..=last).chain(2..=reserved).find_map(|offset| free(pool, offset)))
}

fn addresses(range: IpNet) -> u128 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    1u128.checked_shl(bits.min(64)).unwrap_or(u128::MAX)
}

fn nth(range: IpNet, offset: u128) -> IpAddr {
    match range.network() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add(u32::try_from(offset).unwrap_or(u32::MAX))).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add(offset)).into(),
    }
}

fn take_ports(pool: &mut Pool<'_>, service: &mut Value, range: &RangeInclusive<u16>) -> Result<(), FieldError> {
    let (needs, local) = (needs_node_ports(service), needs_health_check_port(service));
    let Some(spec) = service["spec"].as_object_mut() else { return Ok(()) };
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for (i, port) in ports.into_iter().flatten().enumerate() {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        let number = match port["nodePort"].as_u64().filter(|n| *n != 0) {
            Some(number) => checked_port(pool, &format!("spec.ports[{i}].nodePort"), &protocol, number, range)?,
            None if needs => free_port(pool, &protocol, range)?,
            None => continue,
        };
        port["nodePort"] = number.into();
    }
    if local {
        let number = match spec.get("healthCheckNodePort").and_then(Value::as_u64).filter(|n| *n != 0) {
            Some(number) => checked_port(pool, "spec.healthCheckNodePort", "TCP", number, range)?,
            None => free_port(pool, "TCP", range)?,
        };
        spec.insert("healthCheckNodePort".into(), number.into());
    }
    Ok(())
}

fn checked_port(
    pool: &mut Pool<'_>,
    path: &str,
    protocol: &str,
    number: u64,
    range: &RangeInclusive<u16>,
) -> Result<u64, FieldError> {
    if pool.dry_run {
        return Ok(number);
    }
    if !(u64::from(*range.start())..=u64::from(*range.end())).contains(&number) {
        let text = format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            range.start(),
            range.end()
        );
        return Err(FieldError::invalid(path, number, text));
    }
    let claim = port_claim(protocol, number);
    if !pool.is_free(&claim) {
        return Err(FieldError::invalid(path, number, "provided port is already allocated"));
    }
    pool.take(claim);
    Ok(number)
}

fn free_port(pool: &mut Pool<'_>, protocol: &str, range: &RangeInclusive<u16>) -> Result<u64, FieldError> {
    let (first, last) = (u64::from(*range.start()), u64::from(*range.end()));
    let free = |pool: &Pool<'_>, number: u64| pool.is_free(&port_claim(protocol, number)).then_some(number);
    let random = (0..TRIES).find_map(|_| {
        let number = pool.pick(first.into(), last.into());
        u64::try_from(number).ok().and_then(|number| free(pool, number))
    });
    let number = random
        .or_else(|| (first..=last).find_map(|number| free(pool, number)))
        .ok_or_else(|| FieldError::internal("spec.ports", "failed to allocate a nodePort: range is full"))?;
    pool.take(port_claim(protocol, number));
    Ok(number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_come_from_the_ranges_that_are_ready() {
        let cidr = |name: &str, range: &str, ready: &str, going: bool| {
            let mut object = json!({"metadata": {"name": name}, "spec": {"cidrs": [range]}});
            if !ready.is_empty() {
                object["status"] = json!({"conditions": [{"type": "Ready", "status": ready}]});
            }
            if going {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            object
        };
        let first: IpNet = "10.96.0.0/30".parse().expect("a range");
        for (name, cidrs, ip, expect) in [
            ("nothing known", vec![], "", "10.96.0.2"),
            ("the first, not looked at yet", vec![cidr("kubernetes", "10.96.0.0/30", "", false)], "", "10.96.0.2"),
            (
                "the first before others",
                vec![cidr("a", "10.97.0.0/24", "True", false), cidr("kubernetes", "10.96.0.0/30", "True", false)],
                "",
                "10.96.0.2",
            ),
            (
                "another while the first goes",
                vec![cidr("a", "10.97.0.0/30", "True", false), cidr("kubernetes", "10.96.0.0/30", "True", true)],
                "",
                "10.97.0.2",
            ),
            ("another that is not ready", vec![cidr("a", "10.97.0.0/24", "", false)], "", "10.96.0.2"),
            (
                "none is ready",
                vec![cidr("a", "10.97.0.0/24", "", false), cidr("kubernetes", "10.96.0.0/30", "True", true)],
                "",
                "range is full",
            ),
            (
                "a chosen one",
                vec![cidr("a", "10.97.0.0/24", "True", false), cidr("kubernetes", "10.96.0.0/30", "True", false)],
                "10.97.0.9",
                "10.97.0.9",
            ),
            (
                "one of no range",
                vec![cidr("a", "10.97.0.0/24", "True", false), cidr("kubernetes", "10.96.0.0/30", "True", false)],
                "10.98.0.9",
                "is not in the valid range. The range of valid IPs is 10.96.0.0/30, 10.97.0.0/24",
            ),
        ] {
            let mut service = json!({"spec": {"type": "ClusterIP", "clusterIP": ip}});
            let ranges = Ranges { addresses: first, node_ports: 30000..=30002 };
            let (objects, mut random) = (|_: GroupResource<'_>| cidrs.clone(), || 1);
            let mut pool = Pool::new(BTreeSet::new(), &|_| true, &mut random, false).seeing(&objects);
            let got = match allocate(&mut service, &ranges, &mut pool) {
                Ok(()) => service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(got.ends_with(expect), "{name}: {got}");
        }
    }

    fn allocated(service: &mut Value, held: &[&str], taken: &[&str], dry_run: bool) -> Result<Vec<String>, String> {
        let ranges = Ranges { addresses: "10.96.0.0/24".parse().expect("a range"), node_ports: 30000..=30002 };
        let free = |claim: &str| !taken.contains(&claim);
        let mut seed = 0u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 33
        };
        let held = held.iter().map(|claim| (*claim).to_owned()).collect();
        let mut pool = Pool::new(held, &free, &mut random, dry_run);
        allocate(service, &ranges, &mut pool).map_err(|error| error.to_string())?;
        Ok(pool.settle().taken)
    }

    #[test]
    fn a_service_gets_what_it_needs() {
        let port = |number: u64| json!([{"port": 80, "protocol": "TCP", "nodePort": number}]);
        let mut own = json!({"spec": {"type": "ClusterIP", "clusterIP": "10.96.0.9"}});
        assert_eq!(allocated(&mut own, &[], &[], false), Ok(vec!["serviceips/10.96.0.9".into()]));
        assert_eq!(own["spec"]["clusterIPs"], json!(["10.96.0.9"]));
        assert_eq!(allocated(&mut own, &["serviceips/10.96.0.9"], &["serviceips/10.96.0.9"], false), Ok(vec![]));
        let again = allocated(&mut own, &[], &["serviceips/10.96.0.9"], false);
        assert!(again.is_err_and(|why| why.contains("provided IP is already allocated")));

        let mut node = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        let taken = allocated(&mut node, &[], &["nodeports/TCP/30000", "nodeports/TCP/30001"], false);
        assert!(taken.is_ok_and(|taken| taken[0] == "nodeports/TCP/30002" && taken.len() == 2));
        assert_eq!(node["spec"]["ports"], port(30002));

        let mut headless = json!({"spec": {"type": "ClusterIP", "clusterIP": "None"}});
        assert_eq!(allocated(&mut headless, &[], &[], false), Ok(vec![]));
        for (number, dry_run, refused) in [(30001, false, false), (99, false, true), (99, true, false)] {
            let mut node = json!({"spec": {"type": "NodePort", "ports": port(number)}});
            assert_eq!(allocated(&mut node, &[], &[], dry_run).is_err(), refused, "{number} {dry_run}");
        }
    }

    #[test]
    fn what_is_allocated_is_what_it_claims() {
        let mut service = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "ports": [{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}]}});
        let taken = allocated(&mut service, &[], &[], false).expect("there is room");
        assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), claims(&service));
    }
}
