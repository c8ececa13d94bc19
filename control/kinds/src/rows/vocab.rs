//! The vocabulary of upstream's validation: names, numbers and addresses, and their messages.
//!
//! `*_errors` functions answer with the messages for one value (empty: it is fine); the functions
//! that take a [`Path`] add findings to a list.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::Value;

use super::value::{get, list, text};
use crate::field_error::quote;
use crate::schema::quantity::Amount;
use crate::{FieldError, Path};

/// Findings.
pub type Errors = Vec<FieldError>;

/// Message for a value below zero.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// Message for a field that may never change.
pub const IMMUTABLE: &str = "field is immutable";
/// Message for a mode outside of 0..=0777.
const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

const SUBDOMAIN_UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

fn lower_alnum(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn edges(text: &str, good: impl Fn(u8) -> bool) -> bool {
    text.bytes().next().is_some_and(&good) && text.bytes().next_back().is_some_and(&good)
}

/// A DNS label.
pub use crate::meta::dns1123_label as label_errors;
/// A DNS subdomain.
pub use crate::meta::dns1123_subdomain as subdomain_errors;
/// A label value.
pub use crate::meta::label_value as label_value_errors;
/// A qualified name.
pub use crate::meta::qualified_name as qualified_errors;

/// A DNS subdomain whose labels may hold underscores: a search path.
pub fn search_errors(text: &str) -> Vec<String> {
    let shaped = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label);
        edges(rest, lower_alnum) && rest.bytes().all(|c| lower_alnum(c) || c == b'-' || c == b'_')
    };
    let mut out = Vec::new();
    if text.len() > 253 {
        out.push("must be no more than 253 characters".into());
    }
    if !text.split('.').all(shaped) {
        out.push(SUBDOMAIN_UNDERSCORE.into());
    }
    out
}

/// A key of a ConfigMap or Secret.
pub fn config_key_errors(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 253 {
        out.push("must be no more than 253 characters".into());
    }
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c)) {
        out.push(CONFIG_KEY.into());
    }
    match text {
        "." => out.push("must not be '.'".into()),
        ".." => out.push("must not be '..'".into()),
        _ if text.starts_with("..") => out.push("must not start with '..'".into()),
        _ => {}
    }
    out
}

/// The name of an environment variable.
pub fn env_name_errors(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|c| (0x20..0x7f).contains(&c) && c != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".into()]
}

/// A port number.
pub fn port_errors(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".into()] }
}

/// The name of a port.
pub fn port_name_errors(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    if text.len() > 15 {
        out.push("must be no more than 15 characters".into());
    }
    if text.is_empty() || !text.bytes().all(|c| lower_alnum(c) || c == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen".into());
    }
    out
}

/// A user or group ID.
pub fn id_errors(id: i64) -> Vec<String> {
    if (0..=i64::from(i32::MAX)).contains(&id) { Vec::new() } else { vec![between(0, i64::from(i32::MAX))] }
}

/// The name of an HTTP header.
pub fn header_errors(text: &str) -> Vec<String> {
    let good = !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    if good { Vec::new() } else { vec![HEADER.into()] }
}

/// Message for a number out of its bounds.
pub fn between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// Adds each message as "invalid".
pub fn invalid(errs: &mut Errors, path: &Path, value: impl Into<Value>, messages: Vec<String>) {
    let value = value.into();
    errs.extend(messages.into_iter().map(|message| FieldError::invalid(path, value.clone(), message)));
}

/// A DNS label at a path.
pub fn label(errs: &mut Errors, path: &Path, text: &str) {
    invalid(errs, path, text, label_errors(text));
}

/// A DNS subdomain at a path.
pub fn subdomain(errs: &mut Errors, path: &Path, text: &str) {
    invalid(errs, path, text, subdomain_errors(text));
}

/// A qualified name at a path.
pub fn qualified_name(errs: &mut Errors, path: &Path, text: &str) {
    invalid(errs, path, text, qualified_errors(text));
}

/// A qualified name with a domain (`acme.io/foo`).
pub fn prefixed_key(errs: &mut Errors, path: &Path, text: &str) {
    let problems = qualified_errors(text);
    if text.is_empty() {
        errs.push(FieldError::required(path, ""));
    } else if problems.is_empty() && !text.contains('/') {
        errs.push(FieldError::invalid(path, text, "must be a domain-prefixed key (such as \"acme.io/foo\")"));
    } else {
        invalid(errs, path, text, problems);
    }
}

/// A map of labels at a path.
pub fn labels(errs: &mut Errors, path: &Path, labels: &Value) {
    errs.extend(crate::meta::validate_labels(labels, path));
}

/// A number that may not be negative.
pub fn not_negative(errs: &mut Errors, path: &Path, value: i64) {
    if value < 0 {
        errs.push(FieldError::invalid(path, value, NOT_NEGATIVE));
    }
}

/// A file mode, if set.
pub fn file_mode(errs: &mut Errors, path: &Path, mode: Option<i64>) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        errs.push(FieldError::invalid(path, mode, FILE_MODE));
    }
}

/// One of `known`. Empty counts as required.
pub fn one_of(errs: &mut Errors, path: &Path, text: &str, known: &[&str]) {
    if text.is_empty() {
        errs.push(FieldError::required(path, ""));
    } else {
        known_value(errs, path, text, known);
    }
}

/// One of `known`, whatever it is.
pub fn known_value(errs: &mut Errors, path: &Path, text: &str, known: &[&str]) {
    if !known.contains(&text) {
        errs.push(FieldError::not_supported(path, text, known));
    }
}

/// A port number or the name of one.
pub fn port_or_name(errs: &mut Errors, path: &Path, port: &Value) {
    match port {
        Value::String(name) => invalid(errs, path, name.as_str(), port_name_errors(name)),
        port => {
            let number = port.as_i64().unwrap_or(0);
            invalid(errs, path, number, port_errors(number));
        }
    }
}

/// A number or percentage, not negative. Answers whether it is well formed.
pub fn count_or_percent(errs: &mut Errors, path: &Path, value: &Value) {
    match value {
        Value::String(text) => {
            if percent(value).is_none() {
                errs.push(FieldError::invalid(path, text.as_str(), PERCENT));
            }
        }
        value => not_negative(errs, path, value.as_i64().unwrap_or(0)),
    }
}

/// The number before the percent sign.
pub fn percent(value: &Value) -> Option<i64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    let good = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    good.then(|| digits.parse().unwrap_or(i64::MAX))
}

/// A number, or the number before the percent sign; 0 for what is neither.
pub fn count_of(value: &Value) -> i64 {
    percent(value).or(value.as_i64()).or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap_or(0)
}

/// A percentage that is not more than all.
pub fn at_most_all(errs: &mut Errors, path: &Path, value: &Value) {
    if percent(value).is_some_and(|percent| percent > 100) {
        errs.push(FieldError::invalid(path, value.clone(), "must not be greater than 100%"));
    }
}

/// Reads an address as upstream's older code does: leading zeros and all.
pub fn loose_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let trimmed: Vec<String> = text
        .split('.')
        .map(|part| {
            let rest = part.trim_start_matches('0');
            if rest.is_empty() && !part.is_empty() { "0".to_owned() } else { rest.to_owned() }
        })
        .collect();
    trimmed.join(".").parse().ok()
}

/// An IP address at a path.
pub fn ip(errs: &mut Errors, path: &Path, text: &str) {
    match (text.parse::<IpAddr>(), loose_ip(text)) {
        (Ok(IpAddr::V6(ip)), _) if ip.to_ipv4_mapped().is_some() => {
            errs.push(FieldError::invalid(path, text, "must not be an IPv4-mapped IPv6 address"));
        }
        (Ok(_), _) => {}
        (Err(_), Some(_)) => errs.push(FieldError::invalid(path, text, "must not have leading 0s")),
        (Err(_), None) => {
            errs.push(FieldError::invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
        }
    }
}

/// The name of a host, which is not an address.
pub fn host_name(errs: &mut Errors, path: &Path, text: &str) {
    subdomain(errs, path, text);
    if loose_ip(text).is_some() {
        errs.push(FieldError::invalid(path, text, "must be a DNS name, not an IP address"));
    }
}

/// An address block at a path.
pub fn cidr(errs: &mut Errors, path: &Path, text: &str) {
    if let Some(message) = cidr_error(text) {
        errs.push(FieldError::invalid(path, text, message));
    }
}

fn cidr_error(text: &str) -> Option<&'static str> {
    let parts = text.split_once('/').and_then(|(first, bits)| Some((first, bits, bits.parse::<u8>().ok()?)));
    let parsed = parts.and_then(|(first, bits, length)| {
        let net = ipnet::IpNet::new(loose_ip(first)?, length).ok()?;
        Some((net, first.parse::<IpAddr>().is_ok() && length.to_string() == bits))
    });
    match parsed {
        None => Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        Some((_, false)) => Some("must not have leading 0s in IP or prefix length"),
        Some((ipnet::IpNet::V6(net), _)) if net.addr().to_ipv4_mapped().is_some() => {
            Some("must not have an IPv4-mapped IPv6 address")
        }
        Some((net, _)) if net.addr() != net.network() => Some("must not have bits set beyond the prefix length"),
        Some(_) => None,
    }
}

/// An address that may serve as an endpoint: not loopback, link-local or unspecified.
pub fn non_special_ip(errs: &mut Errors, path: &Path, text: &str) {
    let Some(ip) = loose_ip(text) else {
        errs.push(FieldError::invalid(path, text, "must be a valid IP address"));
        return;
    };
    if ip.is_unspecified() {
        errs.push(FieldError::invalid(path, text, format!("may not be unspecified ({text})")));
    }
    if ip.is_loopback() {
        errs.push(FieldError::invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    let (unicast, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    if unicast {
        errs.push(FieldError::invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if multicast {
        let message = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errs.push(FieldError::invalid(path, text, message));
    }
}

/// A path segment: what a name must be that stands in a path.
pub fn path_segment(errs: &mut Errors, path: &Path, text: &str) {
    invalid(errs, path, text, crate::meta::name_is_path_segment(text, false));
}

/// A DNS subdomain whose first label is an asterisk.
pub fn wildcard_errors(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 253 {
        out.push(crate::meta::max_length_rule(253));
    }
    let shaped = text.strip_prefix("*.").is_some_and(|rest| {
        rest.split('.').all(|label| edges(label, lower_alnum) && label.bytes().all(|c| lower_alnum(c) || c == b'-'))
    });
    if !shaped {
        out.push(WILDCARD.into());
    }
    out
}

/// An address in the one form that it is known by.
pub fn canonical_ip_errors(text: &str) -> Vec<String> {
    let mut errs = Errors::new();
    ip(&mut errs, &Path::new(""), text);
    if errs.is_empty() && text.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() != text) {
        let canonical = text.parse::<IpAddr>().map_or_else(|_| String::new(), |ip| ip.to_string());
        return vec![format!("must be in canonical form (\"{canonical}\")")];
    }
    errs.into_iter().map(|error| error.detail).collect()
}

/// An address block in the one form that it is known by.
pub fn canonical_cidr(errs: &mut Errors, path: &Path, text: &str) {
    let before = errs.len();
    cidr(errs, path, text);
    if errs.len() == before
        && let Ok(net) = text.parse::<ipnet::IpNet>()
        && net.to_string() != text
    {
        errs.push(FieldError::invalid(path, text, format!("must be in canonical form (\"{net}\")")));
    }
}

/// An amount above zero.
pub fn positive(errs: &mut Errors, path: &Path, amount: Amount) {
    if amount <= Amount::ZERO {
        errs.push(FieldError::invalid(path, amount.to_string(), "must be greater than zero"));
    }
}

/// The fields in which two objects differ, below `place`.
#[must_use]
pub fn changed_fields(place: &str, new: &Value, old: &Value) -> Vec<String> {
    let mut names: Vec<&String> =
        [new, old].into_iter().filter_map(Value::as_object).flat_map(serde_json::Map::keys).collect();
    names.sort();
    names.dedup();
    names.into_iter().filter(|name| new.get(*name) != old.get(*name)).map(|name| format!("{place}.{name}")).collect()
}

/// Adds a finding if a field changed.
pub fn immutable(errs: &mut Errors, path: &str, new: &Value, old: &Value) {
    if new != old {
        errs.push(FieldError::invalid(path, new.clone(), IMMUTABLE));
    }
}

/// Warns of an address that is not written as it will be compared, or will not be taken for one later.
pub fn warn_ip(out: &mut Vec<String>, path: &Path, text: &str) {
    let odd = match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => address.to_ipv4_mapped().map(IpAddr::V4),
        Ok(IpAddr::V4(_)) => None,
        Err(_) => loose_ip(text),
    };
    if let Some(address) = odd {
        let (found, wanted) = (quote(text), quote(&address.to_string()));
        let why = "will be considered invalid in a future Kubernetes release";
        out.push(format!("{path}: non-standard IP address {found} {why}: use {wanted}"));
    }
    if let Ok(address) = text.parse::<Ipv6Addr>()
        && address.to_string() != text
    {
        let (found, canonical) = (quote(text), quote(&address.to_string()));
        out.push(format!("{path}: IPv6 address {found} should be in RFC 5952 canonical format ({canonical})"));
    }
}

/// The same of the addresses that a load balancer was given for an object.
pub fn warn_balanced(obj: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    for (i, point) in list(get(get(obj, "status"), "loadBalancer"), "ingress").iter().enumerate() {
        warn_ip(&mut out, &path.index(i), text(point, "ip"));
    }
    out
}

/// The same of a range of addresses.
pub fn warn_cidr(out: &mut Vec<String>, path: &Path, text: &str) {
    if let Some((first, bits)) = text.split_once('/')
        && let Ok(address) = first.parse::<Ipv6Addr>()
        && address.to_string() != first
    {
        let (found, canonical) = (quote(text), quote(&format!("{address}/{bits}")));
        out.push(format!("{path}: IPv6 CIDR value {found} should be in RFC 5952 canonical format ({canonical})"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_names_and_addresses() {
        for (text, good) in
            [("a", true), ("a-b", true), ("1", true), ("-a", false), ("a-", false), ("A", false), ("", false)]
        {
            assert_eq!(label_errors(text).is_empty(), good, "{text}");
        }
        assert_eq!(label_errors("a.b"), ["must not contain dots"]);
        assert_eq!(qualified_errors("a/b/c").len(), 1);
        assert_eq!(qualified_errors("").len(), 2);
        assert_eq!(port_name_errors("A_B").len(), 2);
        let mut errs = Errors::new();
        let path = Path::new("ip");
        for (text, count) in
            [("10.0.0.1", 0), ("010.0.0.1", 1), ("x", 1), ("::1", 0), ("::ffff:1.2.3.4", 1), ("1.2.3", 1)]
        {
            errs.clear();
            ip(&mut errs, &path, text);
            assert_eq!(errs.len(), count, "{text}");
        }
        for (text, expect) in [
            ("10.0.0.0/8", ""),
            ("2001:db8::/64", ""),
            ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
            ("010.0.0.0/8", "must not have leading 0s in IP or prefix length"),
            ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            ("::ffff:10.0.0.0/104", "must not have an IPv4-mapped IPv6 address"),
            ("10.0.0.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
            ("10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        ] {
            errs.clear();
            cidr(&mut errs, &path, text);
            assert_eq!(errs.first().map(|error| error.detail.as_str()).unwrap_or_default(), expect, "{text}");
        }
        let mut warned = Vec::new();
        for text in ["10.0.0.1", "2001:db8::1", "2001:DB8:0:0::1"] {
            warn_ip(&mut warned, &path, text);
            warn_cidr(&mut warned, &path, &format!("{text}/128"));
        }
        let expect = [
            "ip: IPv6 address \"2001:DB8:0:0::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")",
            "ip: IPv6 CIDR value \"2001:DB8:0:0::1/128\" should be in RFC 5952 canonical format (\"2001:db8::1/128\")",
        ];
        assert_eq!(warned, expect);
    }
}
