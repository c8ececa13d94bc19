//! Sets of addresses as disjoint ranges.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// `net` less what is in `except`.
pub(super) fn without(net: Ipv4Net, except: &[Ipv4Net]) -> Vec<Ipv4Net> {
    if except.iter().any(|hole| hole.contains(&net)) {
        return Vec::new();
    }
    let inside: Vec<Ipv4Net> = except.iter().filter(|hole| net.contains(*hole)).copied().collect();
    match net.subnets(net.prefix_len() + 1) {
        Ok(halves) if !inside.is_empty() => halves.flat_map(|half| without(half, &inside)).collect(),
        _ => vec![net],
    }
}

/// Whether that is everybody.
pub(super) fn is_all(nets: &[Ipv4Net]) -> bool {
    nets.iter().any(|net| net.prefix_len() == 0)
}

/// Whether one of them has this address.
pub(super) fn holds(nets: &[Ipv4Net], ip: Ipv4Addr) -> bool {
    nets.iter().any(|net| net.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_cut_out() {
        for (net, except, expect) in [
            ("10.0.0.0/8", "", "10.0.0.0/8"),
            ("10.0.0.0/8", "11.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/8", "0.0.0.0/0", ""),
            ("10.0.0.0/30", "10.0.0.1/32", "10.0.0.0/32 10.0.0.2/31"),
            ("10.0.0.0/30", "10.0.0.1/32 10.0.0.2/31", "10.0.0.0/32"),
            ("10.0.0.7/32", "10.0.0.7/32", ""),
        ] {
            let parse = |text: &str| text.parse::<Ipv4Net>().expect("a range");
            let holes: Vec<Ipv4Net> = except.split_whitespace().map(parse).collect();
            let left: Vec<String> = without(parse(net), &holes).iter().map(ToString::to_string).collect();
            assert_eq!(left.join(" "), expect, "{net} less {except}");
        }
    }
}
