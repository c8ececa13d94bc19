//! Which route a request takes: by its host, then by its path. Pure.
//!
//! Invariants
//! - A host that is named comes before a wildcard, a wildcard before rules for any host. Where the paths of one have nothing,
//!   the next is asked; default backends come after all rules, in the same order.
//! - Of the paths of one host an exact one comes before all prefixes, of those the longest. What two Ingresses have in common
//!   belongs to the one that was added first.
//! - Looking up costs no more than the longest known prefix, however long the path is that is asked for.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use kontiki_model::ingress::Options;

/// Where a route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A port of a Service.
    Service(Service),
    /// Something else than a Service.
    Unsupported,
}

/// A port of a Service, as one who sends to its endpoints knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its endpoints.
    pub targets: Vec<SocketAddr>,
    /// A client comes to the same endpoint as long as it is there.
    pub sticky: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it is sent to.
    pub backend: Arc<Backend>,
    /// What its Ingress asks for.
    pub options: Options,
}

/// How the path of a rule is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The same path.
    Exact,
    /// The same elements at the beginning.
    Prefix,
}

/// What a rule's host says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// One name.
    Name(String),
    /// Names with one more label in front of this one.
    Below(String),
    /// Every name, and none.
    Any,
}

impl Host {
    /// Reads what a rule says.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        match text.strip_prefix("*.") {
            Some(rest) => Self::Below(rest.to_owned()),
            None if text.is_empty() => Self::Any,
            None => Self::Name(text),
        }
    }
}

/// Something for each of some hosts.
#[derive(Debug)]
pub struct Hosts<T> {
    names: HashMap<String, T>,
    below: HashMap<String, T>,
    any: Option<T>,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { names: HashMap::new(), below: HashMap::new(), any: None }
    }
}

impl<T> Hosts<T> {
    /// What is there for a host, made if there is nothing.
    pub fn entry(&mut self, host: Host) -> &mut T
    where
        T: Default,
    {
        match host {
            Host::Name(name) => self.names.entry(name).or_default(),
            Host::Below(name) => self.below.entry(name).or_default(),
            Host::Any => self.any.get_or_insert_default(),
        }
    }

    /// Keeps it for a host that has nothing yet.
    pub fn offer(&mut self, host: Host, it: T) {
        match host {
            Host::Name(name) => self.names.entry(name).or_insert(it),
            Host::Below(name) => self.below.entry(name).or_insert(it),
            Host::Any => self.any.get_or_insert(it),
        };
    }

    /// What there is for a name in lower case, the most particular first.
    pub fn of<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a T> + Clone + use<'a, T> {
        let below =
            name.split_once('.').filter(|(first, _)| !first.is_empty()).and_then(|(_, rest)| self.below.get(rest));
        [self.names.get(name), below, self.any.as_ref()].into_iter().flatten()
    }

    /// Whether there is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.below.is_empty() && self.any.is_none()
    }
}

/// All routes.
#[derive(Debug, Default)]
pub struct Table {
    hosts: Hosts<Paths>,
}

#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Arc<Route>>,
    /// By path without slashes at the end.
    prefixes: HashMap<String, Arc<Route>>,
    /// The length of the longest prefix.
    longest: usize,
    default: Option<Arc<Route>>,
}

impl Table {
    /// Adds a rule, unless there is one for the same.
    pub fn add(&mut self, host: Host, how: Match, path: &str, route: Arc<Route>) {
        let paths = self.hosts.entry(host);
        match how {
            Match::Exact => paths.exact.entry(path.to_owned()).or_insert(route),
            Match::Prefix => {
                let path = path.trim_end_matches('/');
                paths.longest = paths.longest.max(path.len());
                paths.prefixes.entry(path.to_owned()).or_insert(route)
            }
        };
    }

    /// Adds what is for requests to a host that no rule is for.
    pub fn add_default(&mut self, host: Host, route: Arc<Route>) {
        self.hosts.entry(host).default.get_or_insert(route);
    }

    /// Whether there is no route at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// The route of a request to a host (in lower case, without a port) and a path.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<&Arc<Route>> {
        let mut hosts = self.hosts.of(host);
        let mut defaults = hosts.clone();
        hosts.find_map(|paths| paths.find(path)).or_else(|| defaults.find_map(|paths| paths.default.as_ref()))
    }

    /// Every address that some route leads to.
    pub fn targets(&self) -> impl Iterator<Item = SocketAddr> {
        let hosts = self.hosts.names.values().chain(self.hosts.below.values()).chain(&self.hosts.any);
        let routes = hosts.flat_map(|paths| paths.exact.values().chain(paths.prefixes.values()).chain(&paths.default));
        routes
            .flat_map(|route| match &*route.backend {
                Backend::Service(service) => service.targets.as_slice(),
                Backend::Unsupported => &[],
            })
            .copied()
    }
}

impl Paths {
    fn find(&self, path: &str) -> Option<&Arc<Route>> {
        self.exact.get(path).or_else(|| self.longest_prefix(path))
    }

    fn longest_prefix(&self, path: &str) -> Option<&Arc<Route>> {
        let known = path.len().min(self.longest);
        let ends = (0..=known).rev().filter(|end| *end == path.len() || path.as_bytes()[*end] == b'/');
        // A slash is never a part of another character.
        ends.filter_map(|end| path.get(..end)).find_map(|start| self.prefixes.get(start))
    }
}

/// The order in which the endpoints of a Service are tried for a client; `chance` is for this request alone.
#[must_use]
pub fn order(service: &Service, client: u64, chance: usize) -> Vec<SocketAddr> {
    let mut targets = service.targets.clone();
    if service.sticky {
        // Rendezvous: with an endpoint only those clients move that it had.
        targets.sort_by_cached_key(|target| std::cmp::Reverse((weight(client, *target), *target)));
    } else if !targets.is_empty() {
        let first = chance % targets.len();
        targets.rotate_left(first);
    }
    targets
}

fn weight(client: u64, target: SocketAddr) -> u64 {
    let address = match target.ip() {
        std::net::IpAddr::V4(four) => u128::from(four.to_bits()),
        std::net::IpAddr::V6(six) => six.to_bits(),
    };
    let words = [client, address as u64, (address >> 64) as u64, u64::from(target.port())];
    words.into_iter().fold(0x9e37_79b9_7f4a_7c15, |sum, word| {
        let mixed = (sum ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 32)
    })
}

/// The name in an authority (`name:port`, `[::1]:80`), in lower case and without the dot of a whole name.
#[must_use]
pub fn name_of(authority: &http::uri::Authority) -> String {
    authority.host().trim_end_matches('.').to_ascii_lowercase()
}

/// Whether a path has an element that means another one, plain or encoded.
#[must_use]
pub fn has_dots(path: &str) -> bool {
    path.split('/').any(|element| {
        let plain = element.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route that is told by its number.
    fn route(number: u64) -> Arc<Route> {
        let options = Options { most_bytes: Some(number), ..Options::default() };
        Arc::new(Route { backend: Arc::new(Backend::Unsupported), options })
    }

    /// `host=/path` exact, `host/path` prefix, `host` default: routes 1, 2, 3 in this order.
    fn table(text: &str) -> Table {
        let mut table = Table::default();
        for (rule, number) in text.split_whitespace().zip(1..) {
            let at = rule.find(['=', '/']).unwrap_or(rule.len());
            let (host, path) = rule.split_at(at);
            let host = Host::read(if host == "any" { "" } else { host });
            match (path.strip_prefix('='), path) {
                (Some(exact), _) => table.add(host, Match::Exact, exact, route(number)),
                (None, "") => table.add_default(host, route(number)),
                (None, prefix) => table.add(host, Match::Prefix, prefix, route(number)),
            }
        }
        table
    }

    #[test]
    fn hosts_and_paths_choose_the_route() {
        for (title, rules, host, path, expect) in [
            ("nothing", "", "a.b", "/", 0),
            ("everything", "any/", "a.b", "/x/y", 1),
            ("everything, by no name", "any/", "", "/", 1),
            ("a named host", "a.b/", "a.b", "/x", 1),
            ("another host", "a.b/", "c.b", "/x", 0),
            ("a host below is another", "a.b/", "x.a.b", "/", 0),
            ("a host in capitals", "A.B/", "a.b", "/", 1),
            ("a wildcard", "*.a.b/", "x.a.b", "/", 1),
            ("a wildcard is one label", "*.a.b/", "x.y.a.b", "/", 0),
            ("a wildcard is a label", "*.a.b/", "a.b", "/", 0),
            ("a wildcard is not nothing", "*.a.b/", ".a.b", "/", 0),
            ("named before wildcard", "*.a.b/ x.a.b/", "x.a.b", "/", 2),
            ("wildcard before any", "any/ *.a.b/", "x.a.b", "/", 2),
            ("the next if no path fits", "any/ x.a.b/p", "x.a.b", "/q", 1),
            ("exact", "a=/p", "a", "/p", 1),
            ("exact and no slash more", "a=/p", "a", "/p/", 0),
            ("exact with a slash", "a=/p/", "a", "/p", 0),
            ("exact is not a prefix", "a=/p", "a", "/p/q", 0),
            ("exact before prefix", "a/p a=/p", "a", "/p", 2),
            ("elements", "a/p", "a", "/pq", 0),
            ("elements below", "a/p", "a", "/p/q", 1),
            ("a slash at the end of the path", "a/p", "a", "/p/", 1),
            ("a slash at the end of the rule", "a/p/", "a", "/p", 1),
            ("a slash at both", "a/p/", "a", "/p/", 1),
            ("the longest", "a/ a/p a/p/q a/p/q/r", "a", "/p/q/x", 3),
            ("the longest, though added first", "a/p/q a/p a/", "a", "/p/q", 1),
            ("cases differ", "a/p", "a", "/P", 0),
            ("other letters", "a/p", "a", "/\u{e4}\u{e4}\u{e4}", 0),
            ("who came first", "a/p a/p/", "a", "/p", 1),
            ("default", "a a/p", "a", "/q", 1),
            ("rules before defaults", "a any/", "a", "/q", 2),
            ("the host's default first", "any a", "a", "/", 2),
            ("the default of all", "any a/p", "a", "/", 1),
            ("who came first, default", "any any", "a", "/", 1),
        ] {
            let found = table(rules).find(host, path).map_or(0, |route| route.options.most_bytes.unwrap_or_default());
            assert_eq!(found, expect, "{title}");
        }
    }

    #[test]
    fn a_long_path_is_not_looked_up_at_each_slash() {
        let table = table("a/p/q any/x");
        let path = "/".repeat(1 << 20);
        let began = std::time::Instant::now();
        for _ in 0..1000 {
            assert!(table.find("a", &path).is_none());
        }
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }

    #[test]
    fn names_are_read_from_authorities() {
        for (text, expect) in
            [("a.B:80", "a.b"), ("a.b.", "a.b"), ("[::1]:8080", "[::1]"), ("10.0.0.1", "10.0.0.1"), ("u@a:1", "a")]
        {
            assert_eq!(name_of(&text.parse().expect("an authority")), expect, "{text}");
        }
    }

    #[test]
    fn dots_are_seen_however_they_are_written() {
        for (path, expect) in [
            ("/", false),
            ("/a/b.c/..d/...", false),
            ("/a/../b", true),
            ("/a/.", true),
            ("/a/%2e%2E/b", true),
            ("/.%2e", true),
            ("/a/%2e%2e%2e", false),
        ] {
            assert_eq!(has_dots(path), expect, "{path}");
        }
    }

    #[test]
    fn requests_spread_and_those_that_stick_stay() {
        let targets: Vec<SocketAddr> = (1..=4).map(|n| SocketAddr::from(([10, 0, 0, n], 80))).collect();
        let spread = Service { targets: targets.clone(), sticky: false };
        let firsts: std::collections::BTreeSet<SocketAddr> =
            (0..8).map(|chance| order(&spread, 1, chance)[0]).collect();
        assert_eq!(firsts.len(), 4);
        assert_eq!(order(&Service::default(), 1, 7), []);
        let sticky = Service { targets: targets.clone(), sticky: true };
        let fewer = Service { targets: targets[..3].to_vec(), sticky: true };
        let mut had = [0; 4];
        for client in 0..400 {
            let (all, left) = (order(&sticky, client, 1), order(&fewer, client, 2));
            assert_eq!(all, order(&sticky, client, 3), "chance does not matter");
            assert_eq!(all.into_iter().filter(|target| *target != targets[3]).collect::<Vec<_>>(), left);
            let first = order(&sticky, client, 0)[0];
            had[targets.iter().position(|target| *target == first).expect("one of them")] += 1;
        }
        assert!(had.iter().all(|count| (50..150).contains(count)), "{had:?}");
    }
}
