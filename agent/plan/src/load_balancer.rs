//! Addresses of load balancers on this node: which it is to announce, how long the kernel may keep them, and what is to be
//! done about each.
//!
//! Invariants
//! - An address is announced only by the node that its Service names, and only while no leader can take that node for lost:
//!   [`TENURE`] after the heartbeat after which its Lease was last renewed. The kernel is told, so that an agent that hangs
//!   or died does not matter.
//! - Nothing is taken while somebody else on the link has it.
//!
//! Not here: which node is named (kontiki-plan), and where packets to an address go ([`crate::services`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use k8s_openapi::api::core::v1::Service;
use kontiki_model::address::taken_by_nature;

use crate::session::TENURE;

/// The class of load balancers that the cluster itself is, beside none.
const CLASS: &str = "kontiki.dev/l2";
/// Annotation: the node that announces a Service's addresses.
const ANNOUNCED_BY: &str = "kontiki.dev/announced-by";

/// How long to listen for others before an address is taken.
pub const PROBE: Duration = Duration::from_millis(200);

/// Addresses of a Service's load balancer that lead to nodes unchanged (`ipMode: VIP`).
#[must_use]
pub fn addresses(service: &Service) -> Vec<IpAddr> {
    let ingress = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    let vip = ingress.into_iter().flatten().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    vip.filter_map(|i| i.ip.as_ref()?.parse().ok()).collect()
}

/// The node that announces a Service's addresses, if the cluster does.
#[must_use]
pub fn announcer(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    let ours = spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS);
    let named = service.metadata.annotations.as_ref()?.get(ANNOUNCED_BY)?;
    (spec.type_.as_deref() == Some("LoadBalancer") && ours && !named.is_empty()).then_some(named)
}

/// The addresses that `node` is to announce.
#[must_use]
pub fn named<'a>(services: impl IntoIterator<Item = &'a Service>, node: &str) -> BTreeSet<IpAddr> {
    let named = services.into_iter().filter(|service| announcer(service) == Some(node));
    named.flat_map(addresses).filter(|address| taken_by_nature(*address).is_none()).collect()
}

/// Whether `node` is to announce `address` for a Service.
#[must_use]
pub fn is_for(service: &Service, node: &str, address: IpAddr) -> bool {
    announcer(service) == Some(node) && addresses(service).contains(&address)
}

/// How sure it is that nobody takes this node for lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// Nothing has been heard since this agent began. The kernel knows what the one before it heard.
    Unknown,
    /// So long yet.
    Left(Duration),
    /// Somebody may.
    Over,
}

impl Tenure {
    /// From how long ago the heartbeat was sent after which the Lease was last renewed.
    #[must_use]
    pub fn of(since: Option<Duration>) -> Self {
        match since {
            None => Self::Unknown,
            Some(since) if since < TENURE => Self::Left(TENURE.saturating_sub(since)),
            Some(_) => Self::Over,
        }
    }

    /// What the kernel may be told, in its whole seconds.
    #[must_use]
    pub fn seconds(self) -> Option<u32> {
        let Self::Left(left) = self else { return None };
        u32::try_from(left.as_secs()).ok().filter(|seconds| *seconds > 0)
    }
}

/// What is to be done about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is this node's from now on, unless somebody else has it.
    Take(IpAddr),
    /// The kernel is to keep it longer.
    Keep(IpAddr),
    /// It is no longer this node's.
    Leave(IpAddr),
}

/// What makes the addresses that the kernel has (`held`, with the seconds that it keeps them yet) those that are `named`.
/// Whatever is to be given up comes first.
#[must_use]
pub fn steps(named: &BTreeSet<IpAddr>, held: &BTreeMap<IpAddr, u32>, tenure: Tenure) -> Vec<Step> {
    let over = tenure == Tenure::Over;
    let leave = held.keys().filter(|address| over || !named.contains(address)).map(|address| Step::Leave(*address));
    let Some(seconds) = tenure.seconds() else { return leave.collect() };
    let kept = named.iter().filter_map(|address| match held.get(address) {
        // The kernel counts whole seconds, and each renewal is an event on the link.
        Some(left) => (seconds > left.saturating_add(1)).then_some(Step::Keep(*address)),
        None => Some(Step::Take(*address)),
    });
    let (keep, take): (Vec<_>, Vec<_>) = kept.partition(|step| matches!(step, Step::Keep(_)));
    leave.chain(keep).chain(take).collect()
}

/// How long to wait before somebody else's address is looked at again. `chance` keeps two that want it apart.
#[must_use]
pub fn pause(attempts: u32, chance: u8) -> Duration {
    let longest = 100_u64 << attempts.min(6);
    Duration::from_millis(longest / 2 + longest * u64::from(chance) / u64::from(u8::MAX) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Service {
        serde_yaml_ng::from_str(text).expect("a service")
    }

    fn show<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
        all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_node_announces_what_names_it() {
        let one = "{ip: 7.7.7.7, ipMode: VIP}";
        for (name, spec, annotations, ingress, expect) in [
            ("named", "type: LoadBalancer", "kontiki.dev/announced-by: n1", one, "7.7.7.7"),
            (
                "its class",
                "type: LoadBalancer, loadBalancerClass: kontiki.dev/l2",
                "kontiki.dev/announced-by: n1",
                one,
                "7.7.7.7",
            ),
            ("another's class", "type: LoadBalancer, loadBalancerClass: a/b", "kontiki.dev/announced-by: n1", one, ""),
            ("another node", "type: LoadBalancer", "kontiki.dev/announced-by: n2", one, ""),
            ("nobody", "type: LoadBalancer", "", one, ""),
            ("no load balancer any more", "type: ClusterIP", "kontiki.dev/announced-by: n1", one, ""),
            ("no address yet", "type: LoadBalancer", "kontiki.dev/announced-by: n1", "", ""),
            (
                "what no machine can have",
                "type: LoadBalancer",
                "kontiki.dev/announced-by: n1",
                "{ip: 127.0.0.1}, {ip: 224.0.0.1}, {ip: 255.255.255.255}, {ip: 0.0.0.0}, {ip: x}, {hostname: a.b}, \
                 {ip: 8.8.8.8, ipMode: Proxy}, {ip: 'fd00::1', ipMode: VIP}",
                "fd00::1",
            ),
        ] {
            let service = service(&format!(
                "{{metadata: {{annotations: {{{annotations}}}}}, spec: {{{spec}}}, \
                 status: {{loadBalancer: {{ingress: [{ingress}]}}}}}}"
            ));
            assert_eq!(show(named([&service], "n1")), expect, "{name}");
            let is_named = is_for(&service, "n1", IpAddr::from([7, 7, 7, 7]));
            assert_eq!(is_named, expect == "7.7.7.7", "{name}");
        }
    }

    /// `named`: last numbers of addresses; `held`: with the seconds left. `+` take, `=` keep, `-` leave.
    fn stepped(named: &str, held: &str, tenure: Tenure) -> String {
        let ip = |text: &str| format!("10.0.0.{text}").parse::<IpAddr>().expect("an address");
        let named = named.split_whitespace().map(ip).collect();
        let held = held.split_whitespace().filter_map(|word| word.split_once(':'));
        let held = held.map(|(address, left)| (ip(address), left.parse().expect("seconds"))).collect();
        let word = |step: Step| {
            let (sign, address) = match step {
                Step::Take(address) => ('+', address),
                Step::Keep(address) => ('=', address),
                Step::Leave(address) => ('-', address),
            };
            format!("{sign}{}", address.to_string().rsplit('.').next().unwrap_or_default())
        };
        show(steps(&named, &held, tenure).into_iter().map(word))
    }

    #[test]
    fn addresses_follow_what_is_named_and_how_long_it_is_sure() {
        let left = |seconds| Tenure::Left(Duration::from_secs(seconds));
        for (name, named, held, tenure, expect) in [
            ("a new one", "1", "", left(7), "+1"),
            ("held long enough", "1", "1:6", left(7), ""),
            ("renewed", "1", "1:4", left(7), "=1"),
            ("never shortened", "1", "1:7", left(3), ""),
            ("named no more", "", "1:6", left(7), "-1"),
            ("first what goes, last what comes", "2 3", "1:6 3:2", left(7), "-1 =3 +2"),
            ("somebody may take the node for lost", "1 2", "1:1", Tenure::Over, "-1"),
            ("the agent has just begun", "1 2", "1:5", Tenure::Unknown, ""),
            ("the agent has just begun, and another is named", "", "1:5", Tenure::Unknown, "-1"),
            ("not a whole second is left", "1 2", "1:1", Tenure::Left(Duration::from_millis(900)), ""),
        ] {
            assert_eq!(stepped(named, held, tenure), expect, "{name}");
        }
    }

    #[test]
    fn tenure_ends_before_the_leaders_patience() {
        for (since, expect, seconds) in [
            (None, Tenure::Unknown, None),
            (Some(0), Tenure::Left(TENURE), Some(8)),
            (Some(7_500), Tenure::Left(Duration::from_millis(500)), None),
            (Some(8_000), Tenure::Over, None),
        ] {
            let tenure = Tenure::of(since.map(Duration::from_millis));
            assert_eq!((tenure, tenure.seconds()), (expect, seconds));
        }
        // One more second for the kernel's rounding.
        assert!(TENURE + Duration::from_secs(1) < Duration::from_secs(10));
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let ms = Duration::from_millis;
        assert_eq!((pause(0, 0), pause(0, 255), pause(99, 255)), (ms(50), ms(100), ms(6_400)));
    }
}
