//! Tables: Services and pools in, addresses out; and that own actions lead to rest.

use k8s_openapi::api::core::v1::{LoadBalancerStatus, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;
use crate::object::time;
use crate::testing::{Cluster, NOW, map, meta, show as show_actions};

/// A Service from words: `class=C` `ip=A` (field) `want=A` (annotation) `has=A` `team=T` (label) `v6` `dual` `both`, `marked`, `held`,
/// `going`, `cluster` (another type), `old`.
fn service(name: &str, words: &str) -> Service {
    let mut service = Service {
        metadata: meta(name),
        spec: Some(ServiceSpec { type_: Some("LoadBalancer".into()), ..ServiceSpec::default() }),
        status: None,
    };
    let spec = service.spec.as_mut().expect("just made");
    let meta = &mut service.metadata;
    let mut annotations = Vec::new();
    let mut ingress = Vec::new();
    for word in words.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("class", value) => spec.load_balancer_class = Some(value.into()),
            ("ip", value) => spec.load_balancer_ip = Some(value.into()),
            ("want", value) => annotations.push((WANTED, value)),
            ("has", value) => ingress.push(entry(value.parse().expect("an address"))),
            ("team", value) => meta.labels = Some(map(&[("team", value)])),
            ("v6", _) => spec.ip_families = Some(vec!["IPv6".into()]),
            ("dual" | "both", _) => {
                spec.ip_families = Some(vec!["IPv4".into(), "IPv6".into()]);
                let policy = if word == "both" { "RequireDualStack" } else { "PreferDualStack" };
                spec.ip_family_policy = Some(policy.into());
            }
            ("marked", _) => annotations.push((POOL, "main")),
            ("held", _) => meta.finalizers = Some(vec!["other/one".into(), FINALIZER.into()]),
            ("going", _) => meta.deletion_timestamp = Some(time(NOW)),
            ("cluster", _) => spec.type_ = Some("ClusterIP".into()),
            ("old", _) => meta.creation_timestamp = Some(time(crate::object::after_seconds(NOW, -90_000))),
            other => panic!("unknown word {other:?}"),
        }
    }
    if !annotations.is_empty() {
        meta.annotations = Some(map(&annotations));
    }
    if !ingress.is_empty() {
        let load_balancer = Some(LoadBalancerStatus { ingress: Some(ingress) });
        service.status = Some(ServiceStatus { load_balancer, ..ServiceStatus::default() });
    }
    service
}

/// `main 10.0.0.0/30 10.0.0.9`; `!` after the name: only for those that ask; `team=T` and `space=S` select.
fn pool(text: &str) -> Arc<AddressPool> {
    let mut words = text.split_whitespace();
    let name = words.next().expect("a name");
    let mut pool = AddressPool {
        metadata: ObjectMeta { namespace: None, ..meta(name.trim_end_matches('!')) },
        ..AddressPool::default()
    };
    pool.spec.auto_assign = name.ends_with('!').then_some(false);
    let labels = |value: &str| {
        let match_labels = Some(map(&[("team", value)]));
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector { match_labels, match_expressions: None })
    };
    for word in words {
        match word.split_once('=') {
            Some(("team", value)) => pool.spec.service_selector = labels(value),
            Some(("space", value)) => pool.spec.namespace_selector = labels(value),
            _ => pool.spec.addresses.push(word.to_owned()),
        }
    }
    Arc::new(pool)
}

/// Those that show an address, those it is kept for, and the node 10.0.0.1.
struct Known<'a> {
    services: Vec<Arc<Service>>,
    offers: &'a Offers,
    own: NamespacedName,
}

impl Holders for Known<'_> {
    fn services(&self, address: IpAddr) -> Vec<Arc<Service>> {
        self.services.iter().filter(|service| shown(service).contains(&address)).cloned().collect()
    }

    fn other(&self, address: IpAddr) -> Option<String> {
        let node = (address == IpAddr::from([10, 0, 0, 1])).then(|| "the node n1".to_owned());
        node.or_else(|| Some(format!("the Service {}", self.offers.kept_for(address, &self.own)?)))
    }
}

fn decided(service: &Service, others: &[Arc<Service>], pools: &[Arc<AddressPool>], offers: &Offers) -> Outcome {
    let own = NamespacedName::of(&service.metadata);
    let holders = Known { services: others.to_vec(), offers, own };
    let space = Namespace {
        metadata: ObjectMeta { labels: Some(map(&[("team", "s")])), namespace: None, ..meta("ns") },
        ..Namespace::default()
    };
    decide(&Question { service, namespace: Some(&space), pools, holders: &holders })
}

/// The outcome for `web`, with other Services given as `name: words`.
fn outcome(words: &str, others: &str, pools: &str) -> String {
    let split = |text: &str, at: char| -> Vec<String> {
        text.split(at).map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let (others, pools) = (split(others, ';'), split(pools, ';'));
    let mut all: Vec<Arc<Service>> = others
        .iter()
        .map(|text| text.split_once(':').expect("a name"))
        .map(|(name, words)| Arc::new(service(name, words)))
        .collect();
    let web = service("web", words);
    all.push(Arc::new(web.clone()));
    let pools: Vec<_> = pools.iter().map(|text| pool(text)).collect();
    match decided(&web, &all, &pools, &Offers::default()) {
        Outcome::Foreign => "foreign".to_owned(),
        Outcome::Nothing => "nothing".to_owned(),
        Outcome::None(why) => why,
        Outcome::Addresses(all) => all.iter().map(|(ip, pool)| format!("{ip}/{pool}")).collect::<Vec<_>>().join(" "),
    }
}

#[test]
fn addresses_come_from_pools() {
    const MAIN: &str = "main 10.0.0.0/30";
    for (name, words, others, pools, expect) in [
        ("the first that is free", "", "", MAIN, "10.0.0.0/main"),
        ("nodes have theirs", "", "a: has=10.0.0.0", MAIN, "10.0.0.2/main"),
        ("of any class that is ours", "class=kontiki.dev/l2", "", MAIN, "10.0.0.0/main"),
        ("another's class", "class=other/one", "", MAIN, "foreign"),
        ("another's class, whatever it bears", "class=other/one marked held going", "", MAIN, "foreign"),
        ("no load balancer", "cluster", "", MAIN, "foreign"),
        ("no pool", "", "", "", "There is no AddressPool (kontiki.dev/v1) to take an address from"),
        ("no pool, and another gave one", "has=7.7.7.7", "", "", "foreign"),
        (
            "no pool any more",
            "marked has=10.0.0.2",
            "",
            "",
            "There is no AddressPool (kontiki.dev/v1) to take an address from",
        ),
        ("what it has it keeps", "marked has=10.0.0.3", "", MAIN, "10.0.0.3/main"),
        ("what it has from a pool for those that ask", "marked has=10.0.0.3", "", "main! 10.0.0.0/30", "10.0.0.3/main"),
        ("what is in no pool any more is replaced", "marked has=10.0.9.9", "", MAIN, "10.0.0.0/main"),
        ("a Service that others have served is taken over", "has=7.7.7.7", "", MAIN, "10.0.0.0/main"),
        (
            "all are used",
            "",
            "a: has=10.0.0.0; b: has=10.0.0.2; c: has=10.0.0.3",
            MAIN,
            "All IPv4 addresses of main are used",
        ),
        (
            "the next pool",
            "",
            "a: has=10.0.0.0; b: has=10.0.0.2; c: has=10.0.0.3",
            "main 10.0.0.0/30; more 10.0.1.0",
            "10.0.1.0/more",
        ),
        ("pools by name", "", "", "b 10.0.1.0; a 10.0.2.0", "10.0.2.0/a"),
        ("overlapping pools", "", "a: has=10.0.0.2", "a 10.0.0.2; b 10.0.0.2-10.0.0.3", "10.0.0.3/b"),
        ("only for those that ask", "", "", "main! 10.0.0.0/30", "No AddressPool that is for it has IPv4 addresses"),
        (
            "for another team",
            "team=b",
            "",
            "main team=a 10.0.0.0/30",
            "No AddressPool that is for it has IPv4 addresses",
        ),
        ("for its team", "team=a", "", "main team=a 10.0.0.0/30", "10.0.0.0/main"),
        (
            "for another namespace",
            "",
            "",
            "main space=t 10.0.0.0/30",
            "No AddressPool that is for it has IPv4 addresses",
        ),
        ("for its namespace", "", "", "main space=s 10.0.0.0/30", "10.0.0.0/main"),
        ("IPv6 alone", "v6", "", "main 10.0.0.0/30 fd00::/120", "fd00::/main"),
        ("IPv6 alone without a pool", "v6", "", MAIN, "No AddressPool that is for it has IPv6 addresses"),
        ("both families", "dual", "", "main 10.0.0.0/30 fd00::7", "10.0.0.0/main fd00::7/main"),
        ("one family will do", "dual", "", MAIN, "10.0.0.0/main"),
        ("one family will not do", "both", "", MAIN, "No AddressPool that is for it has IPv6 addresses"),
        ("the one that it asks for", "ip=10.0.0.3", "", MAIN, "10.0.0.3/main"),
        ("of a pool for those that ask", "ip=10.0.0.3", "", "main! 10.0.0.0/30", "10.0.0.3/main"),
        ("the annotation goes before the field", "ip=10.0.0.3 want=10.0.0.2", "", MAIN, "10.0.0.2/main"),
        ("several", "want=10.0.0.2,fd00::9", "", "main 10.0.0.0/30 fd00::/120", "10.0.0.2/main fd00::9/main"),
        ("asked for later", "marked has=10.0.0.0 want=10.0.0.2", "", MAIN, "10.0.0.2/main"),
        (
            "asked for and taken",
            "want=10.0.0.2",
            "a: has=10.0.0.2",
            MAIN,
            "It asks for 10.0.0.2, which is used by the Service ns/a",
        ),
        ("asked for and a node's", "want=10.0.0.1", "", MAIN, "It asks for 10.0.0.1, which is used by the node n1"),
        (
            "asked for outside",
            "want=10.0.9.9",
            "",
            MAIN,
            "It asks for 10.0.9.9, which is in no AddressPool that admits it",
        ),
        (
            "asked for of a pool of others",
            "want=10.0.0.2",
            "",
            "main team=a 10.0.0.0/30",
            "It asks for 10.0.0.2, which is in no AddressPool that admits it",
        ),
        ("asked for nonsense", "want=10.0.0.2,x", "", MAIN, "It asks for \"x\", which is no address"),
        ("of two with one address the older keeps it", "has=10.0.0.2", "a: has=10.0.0.2 old", MAIN, "10.0.0.0/main"),
        ("and is the older", "has=10.0.0.2 old", "a: has=10.0.0.2", MAIN, "10.0.0.2/main"),
        ("deleted", "marked held has=10.0.0.2 going", "", MAIN, "nothing"),
        ("deleted without its mark", "held has=10.0.0.2 going", "", MAIN, "nothing"),
        ("deleted, of somebody else", "held has=10.0.0.2 going", "", "", "foreign"),
        ("another type", "cluster marked held has=10.0.0.2", "", MAIN, "nothing"),
        ("another type, after the last pool", "cluster marked held", "", "", "nothing"),
    ] {
        assert_eq!(outcome(words, others, pools), expect, "{name}");
    }
}

/// Turns of all Services until nothing is written. Shows what each has, and how it is held.
fn settled(services: &[Service], pools: &[Arc<AddressPool>]) -> String {
    let (mut cluster, mut offers) = (Cluster::default(), Offers::default());
    services.iter().for_each(|service| cluster.add(service));
    let rested = cluster.settle(12, |cluster| {
        let all: Vec<Arc<Service>> = cluster.list();
        let mut actions = Vec::new();
        for service in &all {
            let outcome = decided(service, &all, pools, &offers);
            let news = offers.keep(&NamespacedName::of(&service.metadata), service, &outcome);
            actions.extend(plan(&View { service: service.clone(), outcome, news }).actions);
        }
        actions
    });
    assert!(rested, "{}", cluster.trace());
    let line = |service: &Arc<Service>| {
        let ips: Vec<String> = shown(service).iter().map(ToString::to_string).collect();
        let held = if finalizers(service).contains(&FINALIZER) { "*" } else { "" };
        let pool = annotation(&service.metadata, POOL).map(|pool| format!("@{pool}")).unwrap_or_default();
        format!("{}{held}{pool} {}", name(&service.metadata), ips.join(","))
    };
    cluster.list::<Service>().iter().map(line).map(|line| line.trim().to_owned()).collect::<Vec<_>>().join(" | ")
}

#[test]
fn own_actions_lead_to_rest() {
    let main = [pool("main 10.0.0.0/30 fd00::5")];
    for (name, services, pools, expect) in [
        (
            "three that come at once",
            vec![("a", ""), ("b", ""), ("c", "")],
            &main[..],
            "a*@main 10.0.0.0 | b*@main 10.0.0.2 | c*@main 10.0.0.3",
        ),
        (
            "more than there are",
            vec![("a", ""), ("b", ""), ("c", ""), ("d", "")],
            &main[..],
            "a*@main 10.0.0.0 | b*@main 10.0.0.2 | c*@main 10.0.0.3 | d",
        ),
        ("both families", vec![("a", "dual")], &main[..], "a*@main 10.0.0.0,fd00::5"),
        ("one that goes", vec![("a", "marked held has=10.0.0.0 going")], &main[..], "a"),
        ("another type", vec![("a", "marked held has=10.0.0.0 cluster")], &main[..], "a"),
        ("the last pool went", vec![("a", "marked held has=10.0.0.0")], &[][..], "a*@main"),
        (
            "a twin",
            vec![("a", "marked held has=10.0.0.2"), ("b", "marked held has=10.0.0.2 old")],
            &main[..],
            "a*@main 10.0.0.0 | b*@main 10.0.0.2",
        ),
        ("another's", vec![("a", "class=x/y has=10.0.0.0")], &main[..], "a 10.0.0.0"),
    ] {
        let services: Vec<Service> = services.iter().map(|(name, words)| service(name, words)).collect();
        assert_eq!(settled(&services, pools), expect, "{name}");
    }
}

#[test]
fn one_write_at_a_time_and_one_event() {
    let (main, mut offers) = ([pool("main 10.0.0.0/30")], Offers::default());
    let mut turn = |words: &str, pools: &[Arc<AddressPool>]| {
        let service = Arc::new(service("web", words));
        let outcome = decided(&service, std::slice::from_ref(&service), pools, &offers);
        let news = offers.keep(&NamespacedName::of(&service.metadata), &service, &outcome);
        let plan = plan(&View { service, outcome, news });
        (show_actions(&plan.actions), plan.why)
    };
    for (name, words, pools, expect) in [
        ("no pool", "", &[][..], ("!NoAddress", "there is no address for it")),
        ("told already", "", &[][..], ("", "there is no address for it")),
        ("held first", "", &main[..], ("patch web", "it is not marked yet")),
        ("then shown", "marked held", &main[..], ("status web", "it gets its addresses")),
        ("then nothing", "marked held has=10.0.0.0", &main[..], ("", "it has its addresses")),
        (
            "outside",
            "marked held has=10.0.0.0 want=9.9.9.9",
            &main[..],
            ("status web !NoAddress", "there is no address for it"),
        ),
        ("outside, told already", "marked held want=9.9.9.9", &main[..], ("", "there is no address for it")),
        ("another reason", "marked held want=9.9.9.8", &main[..], ("!NoAddress", "there is no address for it")),
        ("goes", "marked held has=10.0.0.0 going", &main[..], ("status web", "it gives its addresses back")),
        ("went", "marked held going", &main[..], ("patch web", "nothing is left of its addresses")),
        ("is gone but for others", "going", &main[..], ("", "it is not ours")),
    ] {
        let (actions, why) = turn(words, pools);
        assert_eq!((actions.as_str(), why), expect, "{name}");
    }
}

#[test]
fn what_is_offered_is_kept_until_it_is_shown() {
    let (main, mut offers) = ([pool("main 10.0.0.2-10.0.0.3")], Offers::default());
    let key = |name: &str| NamespacedName::new("ns", name);
    let mut ask = |name: &str, words: &str, gone: bool| {
        let service = service(name, words);
        if gone {
            offers.forget(&key(name));
            return String::new();
        }
        let outcome = decided(&service, &[], &main, &offers);
        offers.keep(&key(name), &service, &outcome);
        match outcome {
            Outcome::Addresses(all) => all[0].0.to_string(),
            Outcome::None(_) => "none".to_owned(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(ask("a", "", false), "10.0.0.2");
    assert_eq!(ask("b", "", false), "10.0.0.3", "the other's is not shown yet");
    assert_eq!(ask("a", "", false), "10.0.0.2", "the same again");
    assert_eq!(ask("c", "", false), "none");
    ask("a", "", true);
    assert_eq!(ask("c", "", false), "10.0.0.2", "who is gone keeps nothing");
    assert_eq!(ask("b", "class=x/y", false), "Foreign");
    assert_eq!(ask("a", "", false), "10.0.0.3");
}
