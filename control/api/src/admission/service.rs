//! Cluster addresses and node ports: each is a key of its own, taken and given back in the same
//! transaction as the Service, so two Services never share one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use ipnet::IpNet;
use kontiki_kinds::{FieldError, rows::service as rules};
use kontiki_store::{Compare, Op, Snapshot};
use serde_json::Value;

use super::Operation;
use crate::Status;
use crate::object::meta_str;
use crate::state::Extra;

const IPS: &str = "/kontiki/serviceips/";
const PORTS: &str = "/kontiki/nodeports/";
/// Random picks before the range is searched in order.
const TRIES: u32 = 64;

/// Claims of one Service: the keys it needs and those it has.
struct Claims<'a> {
    state: &'a Snapshot,
    held: BTreeSet<Bytes>,
    wanted: BTreeSet<Bytes>,
    owner: Bytes,
    /// Nothing will be taken, so ports that a client chose are not judged, as upstream has it.
    dry_run: bool,
}

impl Claims<'_> {
    fn free(&self, key: &Bytes) -> bool {
        !self.wanted.contains(key) && (self.held.contains(key) || self.state.get(key).is_none())
    }

    fn into_extra(self) -> Extra {
        let mut extra = Extra::default();
        for key in self.wanted.difference(&self.held) {
            extra.compares.push(Compare::absent(key.clone()));
            extra.ops.push(Op::put(key.clone(), self.owner.clone()));
        }
        for key in self.held.difference(&self.wanted) {
            extra.ops.push(Op::delete(key.clone()));
        }
        extra
    }
}

pub(super) fn allocate(operation: &Operation<'_>, service: &mut Value) -> Result<Extra, Status> {
    let owner = format!("{}/{}", meta_str(service, "namespace"), meta_str(service, "name"));
    let mut claims = Claims {
        state: operation.state,
        held: operation.old.map(keys_of).unwrap_or_default(),
        wanted: BTreeSet::new(),
        owner: owner.into(),
        dry_run: operation.call.params.raw("dryRun").is_some(),
    };
    let config = &operation.call.api.inner.config;
    let mut errors = Vec::new();
    if let Err(error) = take_address(&mut claims, service, config.service_cidr) {
        errors.push(error);
    } else if let Err(error) = take_ports(&mut claims, service, &config.node_ports) {
        errors.push(error);
    }
    if errors.is_empty() {
        Ok(claims.into_extra())
    } else {
        Err(operation.call.invalid(meta_str(service, "name"), &errors))
    }
}

pub(super) fn release(service: &Value) -> Extra {
    Extra { compares: Vec::new(), ops: keys_of(service).into_iter().map(Op::delete).collect() }
}

fn ip_key(ip: &str) -> Bytes {
    Bytes::from(format!("{IPS}{ip}"))
}

fn port_key(protocol: &str, port: u64) -> Bytes {
    Bytes::from(format!("{PORTS}{protocol}/{port}"))
}

/// What a Service holds.
fn keys_of(service: &Value) -> BTreeSet<Bytes> {
    let spec = &service["spec"];
    let texts = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut keys: BTreeSet<Bytes> = texts.filter(|ip| *ip != "None" && !ip.is_empty()).map(ip_key).collect();
    for port in spec["ports"].as_array().into_iter().flatten() {
        if let Some(number) = port["nodePort"].as_u64().filter(|n| *n != 0) {
            keys.insert(port_key(port["protocol"].as_str().unwrap_or("TCP"), number));
        }
    }
    if let Some(number) = spec["healthCheckNodePort"].as_u64().filter(|n| *n != 0) {
        keys.insert(port_key("TCP", number));
    }
    keys
}

fn take_address(claims: &mut Claims<'_>, service: &mut Value, range: IpNet) -> Result<(), FieldError> {
    if !rules::needs_cluster_ip(service) {
        return Ok(());
    }
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
            if !range.contains(&parsed) {
                return Err(fail(&format!(
                    "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
                )));
            }
            if !claims.free(&ip_key(&ip)) {
                return Err(fail("provided IP is already allocated"));
            }
            ip
        }
        None => free_address(claims, range)
            .ok_or_else(|| FieldError::internal("spec.clusterIPs", "failed to allocate a serviceIP: range is full"))?,
    };
    claims.wanted.insert(ip_key(&ip));
    let spec = &mut service["spec"];
    spec["clusterIPs"] = vec![ip.clone()].into();
    spec["clusterIP"] = ip.into();
    Ok(())
}

/// A free address. The low end of the range is left to people who choose addresses themselves,
/// as long as there is another.
fn free_address(claims: &Claims<'_>, range: IpNet) -> Option<String> {
    let size = addresses(range);
    let reserved = if size > 256 { (size / 16).clamp(16, 256) } else { 1 };
    let usable = |offset: u128| {
        let ip = nth(range, offset).to_string();
        claims.free(&ip_key(&ip)).then_some(ip)
    };
    let last = size.checked_sub(2).filter(|last| *last > reserved)?; // the last address is the broadcast's
    let random = (0..TRIES).map(|_| rand::random_range(reserved + 1..=last));
    random.chain(reserved + 1..=last).chain(2..=reserved).find_map(usable)
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

fn take_ports(
    claims: &mut Claims<'_>,
    service: &mut Value,
    range: &std::ops::RangeInclusive<u16>,
) -> Result<(), FieldError> {
    let (needs, local) = (rules::needs_node_ports(service), rules::needs_health_check_port(service));
    let Some(spec) = service["spec"].as_object_mut() else { return Ok(()) };
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for (i, port) in ports.into_iter().flatten().enumerate() {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        let number = match port["nodePort"].as_u64().filter(|n| *n != 0) {
            Some(number) => checked_port(claims, &format!("spec.ports[{i}].nodePort"), &protocol, number, range)?,
            None if needs => free_port(claims, &protocol, range)?,
            None => continue,
        };
        port["nodePort"] = number.into();
    }
    if local {
        let number = match spec.get("healthCheckNodePort").and_then(Value::as_u64).filter(|n| *n != 0) {
            Some(number) => checked_port(claims, "spec.healthCheckNodePort", "TCP", number, range)?,
            None => free_port(claims, "TCP", range)?,
        };
        spec.insert("healthCheckNodePort".into(), number.into());
    }
    Ok(())
}

fn checked_port(
    claims: &mut Claims<'_>,
    path: &str,
    protocol: &str,
    number: u64,
    range: &std::ops::RangeInclusive<u16>,
) -> Result<u64, FieldError> {
    if claims.dry_run {
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
    let key = port_key(protocol, number);
    if !claims.free(&key) {
        return Err(FieldError::invalid(path, number, "provided port is already allocated"));
    }
    claims.wanted.insert(key);
    Ok(number)
}

fn free_port(
    claims: &mut Claims<'_>,
    protocol: &str,
    range: &std::ops::RangeInclusive<u16>,
) -> Result<u64, FieldError> {
    let (first, last) = (u64::from(*range.start()), u64::from(*range.end()));
    let random = (0..TRIES).map(|_| rand::random_range(first..=last));
    let found = random.chain(first..=last).find(|number| claims.free(&port_key(protocol, *number)));
    let number =
        found.ok_or_else(|| FieldError::internal("spec.ports", "failed to allocate a nodePort: range is full"))?;
    claims.wanted.insert(port_key(protocol, number));
    Ok(number)
}
