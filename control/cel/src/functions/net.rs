//! Addresses and ranges of addresses, as Go's `net/netip` takes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::extension::{Cidr, Extension};
use super::go::quote;
use super::table::{Row, row};
use crate::value::{EvalError, NO_OVERLOAD, Value, failure};

const TEST: &str = "ip.() -> bool";

pub(crate) static ROWS: &[Row] = &[
    row(30, "ip", "string_to_ip", "(string) -> ip", |args| {
        read_ip(text(args, 0)?).map(|ip| Value::Extension(Extension::Ip(ip))).map_err(failure)
    }),
    row(30, "ip", "cidr_ip", "cidr.() -> ip", |args| Ok(Value::Extension(Extension::Ip(cidr(args, 0)?.address)))),
    row(30, "family", "ip_family", "ip.() -> int", |args| Ok(Value::Int(if ip(args, 0)?.is_ipv4() { 4 } else { 6 }))),
    row(30, "ip.isCanonical", "ip_is_canonical", "(string) -> bool", |args| {
        let text = text(args, 0)?;
        read_ip(text).map(|ip| Value::Bool(ip.to_string() == text)).map_err(failure)
    }),
    row(30, "isUnspecified", "ip_is_unspecified", TEST, |args| Ok(Value::Bool(ip(args, 0)?.is_unspecified()))),
    row(30, "isLoopback", "ip_is_loopback", TEST, |args| Ok(Value::Bool(ip(args, 0)?.is_loopback()))),
    row(30, "isLinkLocalMulticast", "ip_is_link_local_multicast", TEST, |args| {
        Ok(Value::Bool(match ip(args, 0)? {
            IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
            IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
        }))
    }),
    row(30, "isLinkLocalUnicast", "ip_is_link_local_unicast", TEST, |args| Ok(Value::Bool(link_local(ip(args, 0)?)))),
    row(30, "isGlobalUnicast", "ip_is_global_unicast", TEST, |args| {
        let ip = ip(args, 0)?;
        let special = ip.is_unspecified()
            || ip.is_loopback()
            || ip.is_multicast()
            || link_local(ip)
            || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        Ok(Value::Bool(!special))
    }),
    row(30, "isIP", "is_ip", "(string) -> bool", |args| Ok(Value::Bool(read_ip(text(args, 0)?).is_ok()))),
    row(30, "cidr", "string_to_cidr", "(string) -> cidr", |args| {
        read_cidr(text(args, 0)?).map(|cidr| Value::Extension(Extension::Cidr(cidr)))
    }),
    row(30, "containsIP", "cidr_contains_ip_string", "cidr.(string) -> bool", |args| {
        // Upstream forgets why.
        let other = read_ip(text(args, 1)?).map_err(|_| NO_OVERLOAD)?;
        Ok(Value::Bool(has(cidr(args, 0)?, other)))
    }),
    row(30, "containsIP", "cidr_contains_ip_ip", "cidr.(ip) -> bool", |args| {
        Ok(Value::Bool(has(cidr(args, 0)?, ip(args, 1)?)))
    }),
    row(30, "containsCIDR", "cidr_contains_cidr_string", "cidr.(string) -> bool", |args| {
        Ok(Value::Bool(covers(cidr(args, 0)?, read_cidr(text(args, 1)?)?)))
    }),
    row(30, "containsCIDR", "cidr_contains_cidr", "cidr.(cidr) -> bool", |args| {
        Ok(Value::Bool(covers(cidr(args, 0)?, cidr(args, 1)?)))
    }),
    row(30, "prefixLength", "cidr_prefix_length", "cidr.() -> int", |args| {
        Ok(Value::Int(i64::from(cidr(args, 0)?.bits)))
    }),
    row(30, "masked", "cidr_masked", "cidr.() -> cidr", |args| {
        let cidr = cidr(args, 0)?;
        let address = masked(cidr.address, cidr.bits);
        Ok(Value::Extension(Extension::Cidr(Cidr { address, bits: cidr.bits })))
    }),
    row(30, "isCIDR", "is_cidr", "(string) -> bool", |args| Ok(Value::Bool(read_cidr(text(args, 0)?).is_ok()))),
];

fn text<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v str, EvalError> {
    args.get(at).and_then(Value::as_str).ok_or(NO_OVERLOAD)
}

fn ip(args: &[Value<'_>], at: usize) -> Result<IpAddr, EvalError> {
    match args.get(at) {
        Some(Value::Extension(Extension::Ip(ip))) => Ok(*ip),
        _ => Err(NO_OVERLOAD),
    }
}

fn cidr(args: &[Value<'_>], at: usize) -> Result<Cidr, EvalError> {
    match args.get(at) {
        Some(Value::Extension(Extension::Cidr(cidr))) => Ok(*cidr),
        _ => Err(NO_OVERLOAD),
    }
}

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

/// An address without a zone that is no IPv4 address in IPv6's clothes.
pub(crate) fn read_ip(text: &str) -> Result<IpAddr, String> {
    let zoned = text.split_once('%').filter(|(address, _)| address.contains(':'));
    if let Some((address, zone)) = zoned
        && !zone.is_empty()
        && address.parse::<Ipv6Addr>().is_ok()
    {
        return Err(format!("IP address {} with zone value is not allowed", quote(text)));
    }
    let parsed: IpAddr = text.parse().map_err(|_| {
        let why = unparsed(text);
        format!("IP Address {0} parse error during conversion from string: ParseAddr({0}): {why}", quote(text))
    })?;
    match parsed {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {} is not allowed", quote(text)))
        }
        parsed => Ok(parsed),
    }
}

/// Why Go takes a text for no address.
fn unparsed(text: &str) -> String {
    match text.find(['.', ':', '%']).map(|at| text.as_bytes()[at]) {
        Some(b'.') => unparsed_v4(text),
        Some(b'%') => "missing IPv6 address".to_owned(),
        Some(_) => format!("unexpected character, want colon (at {})", quote(text)),
        None => "unable to parse IP".to_owned(),
    }
}

fn unparsed_v4(text: &str) -> String {
    let (mut value, mut digits, mut fields) = (0u32, 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '0'..='9' if digits == 1 && value == 0 => return "IPv4 field has octet with leading zero".to_owned(),
            '0'..='9' => {
                value = value * 10 + c as u32 - u32::from(b'0');
                digits += 1;
                if value > 255 {
                    return "IPv4 field has value >255".to_owned();
                }
            }
            '.' if at == 0 || at == text.len() - 1 || digits == 0 => {
                return format!("IPv4 field must have at least one digit (at {})", quote(&text[at..]));
            }
            '.' if fields == 3 => return "IPv4 address too long".to_owned(),
            '.' => (value, digits, fields) = (0, 0, fields + 1),
            _ => return format!("unexpected character (at {})", quote(&text[at..])),
        }
    }
    "IPv4 address too short".to_owned()
}

fn read_cidr(text: &str) -> Result<Cidr, EvalError> {
    let twice = "network address parse error during conversion from string: ";
    parse_cidr(text).map_err(|error| match error {
        Ok(why) => failure(format!("{twice}{twice}netip.ParsePrefix({}): {why}", quote(text))),
        Err(whole) => failure(format!("{twice}{whole}")),
    })
}

/// An error is why, or the whole sentence.
fn parse_cidr(text: &str) -> Result<Cidr, Result<String, String>> {
    let (address, bits) = text.rsplit_once('/').ok_or(Ok("no '/'".to_owned()))?;
    let parsed: IpAddr =
        address.parse().map_err(|_| Ok(format!("ParseAddr({}): {}", quote(address), unparsed(address))))?;
    let bad = || Ok(format!("bad bits after slash: {}", quote(bits)));
    let plain = bits == "0" || (!bits.starts_with('0') && !bits.is_empty());
    if !plain || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let most = if parsed.is_ipv4() { 32 } else { 128 };
    let bits: u8 = bits.parse().ok().filter(|bits| *bits <= most).ok_or(Ok("prefix length out of range".to_owned()))?;
    match parsed {
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            Err(Err(format!("IPv4-mapped IPv6 address {} is not allowed", quote(text))))
        }
        address => Ok(Cidr { address, bits }),
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

fn has(cidr: Cidr, ip: IpAddr) -> bool {
    ip.is_ipv4() == cidr.address.is_ipv4() && masked(ip, cidr.bits) == masked(cidr.address, cidr.bits)
}

fn covers(cidr: Cidr, other: Cidr) -> bool {
    cidr.bits <= other.bits && has(cidr, other.address)
}
