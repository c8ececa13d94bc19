//! How a Deployment is rolled out in steps, as its annotations say (`docs/rollouts.md`): what people set, and the names of
//! what the controller keeps.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cron::duration;

macro_rules! named {
    ($name:literal) => {
        concat!("rollout.kontiki.dev/", $name)
    };
}

/// What all annotations about rollouts begin with.
pub const PREFIX: &str = named!("");

/// On a Deployment, for people: how its rollout stands.
pub const STATE: &str = named!("state");
/// On the ReplicaSet that is rolled out: the number of its step; the first is 1.
pub const STEP: &str = named!("step");
/// Since when it is at its step.
pub const SINCE: &str = named!("since");
/// Since when it has had all pods of its step.
pub const REACHED: &str = named!("reached");
/// Of when the last sample is that counted.
pub const JUDGED: &str = named!("judged");
/// How many samples in a row were bad.
pub const BAD: &str = named!("bad");
/// How its rollout ended: [`PASSED`] or [`REFUSED`].
pub const VERDICT: &str = named!("verdict");
/// Why it was refused.
pub const REASON: &str = named!("reason");
/// What Services send to its pods; without it, as to any others: [`HELD`] or [`ALONE`].
pub const TRAFFIC: &str = named!("traffic");

/// It may have all pods, also when it comes again.
pub const PASSED: &str = "passed";
/// It gets none.
pub const REFUSED: &str = "refused";
/// Nothing.
pub const HELD: &str = "held";
/// Everything that goes to pods of its Deployment.
pub const ALONE: &str = "alone";

const KEPT: [&str; 9] = [STATE, STEP, SINCE, REACHED, JUDGED, BAD, VERDICT, REASON, TRAFFIC];
const SETTINGS: [&str; 8] = ["steps", "pause", "prometheus", "query", "below", "above", "every", "fail-after"];

const MOST_STEPS: usize = 20;
const LONGEST_QUERY: usize = 8000;
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
const PAUSE: Duration = Duration::from_secs(60);
const EVERY: Duration = Duration::from_secs(15);
const FAIL_AFTER: u32 = 3;

/// Whether an annotation is the controller's own: nobody else sets it, and it means something on its object alone.
#[must_use]
pub fn is_kept(key: &str) -> bool {
    KEPT.contains(&key)
}

/// How a Deployment is rolled out.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where it stops.
    pub steps: Steps,
    /// How long it stays there at least, with all pods ready.
    pub pause: Duration,
    /// What decides besides readiness.
    pub metric: Option<Metric>,
}

/// Where a rollout stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steps {
    /// At shares of the pods, each larger than the one before.
    Canary(Vec<Share>),
    /// When all new pods are there beside the old ones, and when they have taken the traffic over.
    BlueGreen,
}

/// A part of a Deployment's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// In percent.
    Percent(u8),
    /// So many.
    Pods(i32),
}

impl Share {
    /// How many of `all` pods it is: one at least, if there are any.
    #[must_use]
    pub fn of(self, all: i32) -> i32 {
        let part = match self {
            Self::Percent(percent) => (i64::from(percent) * i64::from(all) + 99) / 100,
            Self::Pods(pods) => i64::from(pods),
        };
        i32::try_from(part).unwrap_or(i32::MAX).min(all)
    }
}

/// A query whose answer decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Who is asked.
    pub server: Server,
    /// In Prometheus' language.
    pub query: String,
    /// What is good.
    pub bound: Bound,
    /// How often it is asked.
    pub every: Duration,
    /// So many bad answers in a row, and the rollout is refused.
    pub fail_after: u32,
}

/// A Service of the cluster that speaks Prometheus' HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Whether over TLS.
    pub tls: bool,
    /// Its namespace, unless it is the Deployment's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
    /// What its paths begin with; no slash at the end.
    pub prefix: String,
}

/// Which values are good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Those that are less.
    Below(f64),
    /// Those that are more.
    Above(f64),
}

impl Bound {
    /// Whether a value is good.
    #[must_use]
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::Below(limit) => value < limit,
            Self::Above(limit) => value > limit,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Below(limit) => write!(f, "below {limit}"),
            Self::Above(limit) => write!(f, "above {limit}"),
        }
    }
}

impl Settings {
    /// What annotations say of a rollout; `None` if they say nothing.
    ///
    /// # Errors
    /// A sentence about the first that cannot be meant.
    pub fn read<'a>(annotations: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Option<Self>, String> {
        let ours = annotations.into_iter().filter(|(key, _)| !is_kept(key));
        let said: BTreeMap<&str, &str> =
            ours.filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value.trim()))).collect();
        if said.is_empty() {
            return Ok(None);
        }
        if let Some(odd) = said.keys().find(|key| !SETTINGS.contains(key)) {
            return Err(format!("{PREFIX}{odd} is no setting of a rollout; there are {}", SETTINGS.join(", ")));
        }
        let Some(steps) = said.get("steps") else {
            return Err(format!("{PREFIX}steps is missing, without which the other settings say nothing"));
        };
        let steps = read_steps(steps).map_err(|why| format!("{PREFIX}steps: {why}"))?;
        let pause = length(&said, "pause", PAUSE, Duration::ZERO)?;
        Ok(Some(Self { steps, pause, metric: Metric::read(&said)? }))
    }
}

fn read_steps(text: &str) -> Result<Steps, String> {
    if text == "blue-green" {
        return Ok(Steps::BlueGreen);
    }
    let shares = text.split(',').map(|word| share(word.trim())).collect::<Result<Vec<Share>, String>>()?;
    if shares.len() > MOST_STEPS {
        return Err(format!("{} are more than the {MOST_STEPS} steps that there may be", shares.len()));
    }
    let grows = |pair: &[Share]| match (pair[0], pair[1]) {
        (Share::Percent(one), Share::Percent(next)) => one < next,
        (Share::Pods(one), Share::Pods(next)) => one < next,
        _ => false,
    };
    if !shares.windows(2).all(grows) {
        return Err(format!(
            "in {text:?} each step has to be larger than the one before, all in percent or all in pods"
        ));
    }
    Ok(Steps::Canary(shares))
}

fn share(word: &str) -> Result<Share, String> {
    let odd = || format!("{word:?} is neither a share of the pods (10%), nor a number of them (2), nor blue-green");
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match word.strip_suffix('%') {
        Some(percent) if digits(percent) => match percent.parse() {
            Ok(percent @ 1..=100) => Ok(Share::Percent(percent)),
            _ => Err(format!("{word:?} is not within 1% and 100%")),
        },
        None if digits(word) => match word.parse() {
            Ok(pods @ 1..) => Ok(Share::Pods(pods)),
            _ => Err(odd()),
        },
        _ => Err(odd()),
    }
}

fn length(said: &BTreeMap<&str, &str>, key: &str, otherwise: Duration, least: Duration) -> Result<Duration, String> {
    let Some(text) = said.get(key) else { return Ok(otherwise) };
    let nanos = duration::parse(text).ok().and_then(|nanos| u64::try_from(nanos).ok());
    let length = nanos.map(Duration::from_nanos).filter(|length| (least..=LONGEST).contains(length));
    // Whole seconds: times in objects have no more.
    length.map(|length| Duration::from_secs(length.as_secs() + u64::from(length.subsec_nanos() > 0))).ok_or_else(|| {
        format!("{PREFIX}{key}: {text:?} is no length of time from {} s to 720 h (30s, 5m)", least.as_secs())
    })
}

impl Metric {
    fn read(said: &BTreeMap<&str, &str>) -> Result<Option<Self>, String> {
        let Some(query) = said.get("query").filter(|query| !query.is_empty()) else {
            let left =
                ["prometheus", "below", "above", "every", "fail-after"].into_iter().find(|key| said.contains_key(key));
            return match left {
                Some(key) => Err(format!("{PREFIX}{key} says nothing without {PREFIX}query")),
                None => Ok(None),
            };
        };
        if query.len() > LONGEST_QUERY {
            return Err(format!("{PREFIX}query is longer than {LONGEST_QUERY} bytes"));
        }
        let server = said.get("prometheus").ok_or_else(|| format!("{PREFIX}query needs {PREFIX}prometheus"))?;
        let server = Server::read(server).ok_or_else(|| {
            format!("{PREFIX}prometheus: {server:?} is not of the form http://SERVICE.NAMESPACE:PORT/PATH")
        })?;
        let bound = match (said.get("below"), said.get("above")) {
            (Some(below), None) => Bound::Below(number("below", below)?),
            (None, Some(above)) => Bound::Above(number("above", above)?),
            _ => return Err(format!("{PREFIX}query needs one of {PREFIX}below and {PREFIX}above")),
        };
        let every = length(said, "every", EVERY, Duration::from_secs(1))?;
        let fail_after = match said.get("fail-after") {
            None => FAIL_AFTER,
            Some(text) => text
                .parse()
                .ok()
                .filter(|count| (1..=1000).contains(count))
                .ok_or_else(|| format!("{PREFIX}fail-after: {text:?} is no number from 1 to 1000"))?,
        };
        Ok(Some(Self { server, query: (*query).to_owned(), bound, every, fail_after }))
    }
}

fn number(key: &str, text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("{PREFIX}{key}: {text:?} is no number"))
}

impl Server {
    fn read(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
            None => (authority, if tls { 443 } else { 80 }),
        };
        let labels: Vec<&str> = host.split('.').collect();
        let (name, namespace) = match labels[..] {
            [name] => (name, None),
            [name, namespace] | [name, namespace, "svc", ..] => (name, Some(namespace)),
            _ => return None,
        };
        let is_label = |label: &&str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let prefix = path.trim_end_matches('/');
        let plain = |part: &str| {
            !["", ".", ".."].contains(&part) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
        };
        let is_path = prefix.is_empty() || prefix[1..].split('/').all(plain);
        let good = labels.iter().all(is_label) && is_path;
        let namespace = namespace.map(str::to_owned);
        good.then(|| Self { tls, namespace, name: name.to_owned(), port, prefix: prefix.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings in pairs: `steps=10% pause=5s`.
    fn read(text: &str) -> Result<Option<Settings>, String> {
        let pairs: Vec<(String, &str)> = text
            .split("; ")
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (format!("{PREFIX}{key}"), value))
            .collect();
        Settings::read(pairs.iter().map(|(key, value)| (key.as_str(), *value)).chain([("other", "x")]))
    }

    #[test]
    fn settings_are_read_whole() {
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("verdict=passed; step=2"), Ok(None), "the controller's own");
        let canary = |shares: &[Share], pause| {
            let pause = Duration::from_secs(pause);
            Ok(Some(Settings { steps: Steps::Canary(shares.to_vec()), pause, metric: None }))
        };
        assert_eq!(read("steps=10%, 50%"), canary(&[Share::Percent(10), Share::Percent(50)], 60));
        assert_eq!(read("steps=1,3; pause=0s; state=odd"), canary(&[Share::Pods(1), Share::Pods(3)], 0));
        assert_eq!(read("steps=1; pause=1.5m"), canary(&[Share::Pods(1)], 90));
        let whole =
            "steps=blue-green; query=rate(x[1m]); prometheus=http://p.mon:9090/; above=0.5; every=5s; fail-after=2";
        let metric = read(whole).expect("good").expect("some").metric.expect("a metric");
        assert_eq!((metric.bound, metric.every, metric.fail_after), (Bound::Above(0.5), Duration::from_secs(5), 2));
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        for (text, expect) in [
            ("stops=1", "stops is no setting"),
            ("pause=5s", "steps is missing"),
            ("steps=", "\"\" is neither"),
            ("steps=0", "\"0\" is neither"),
            ("steps=+5", "\"+5\" is neither"),
            ("steps=0%", "not within 1%"),
            ("steps=101%", "not within 1%"),
            ("steps=300%", "not within 1%"),
            ("steps=10%, x", "\"x\" is neither"),
            ("steps=50%, 50%", "larger than the one before"),
            ("steps=1, 50%", "larger than the one before"),
            ("steps=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21", "21 are more than"),
            ("steps=1; pause=5", "pause: \"5\" is no length of time from 0 s"),
            ("steps=1; pause=-5s", "pause: \"-5s\" is no length"),
            ("steps=1; pause=9999h", "pause: \"9999h\" is no length"),
            ("steps=1; below=1", "below says nothing without"),
            ("steps=1; query=x", "query needs rollout.kontiki.dev/prometheus"),
            ("steps=1; query=x; prometheus=http://p", "query needs one of"),
            ("steps=1; query=x; prometheus=http://p; below=1; above=2", "query needs one of"),
            ("steps=1; query=x; prometheus=http://p; below=NaN", "below: \"NaN\" is no number"),
            ("steps=1; query=x; prometheus=p:9090; below=1", "is not of the form"),
            ("steps=1; query=x; prometheus=http://p; below=1; every=0s", "every: \"0s\" is no length"),
            ("steps=1; query=x; prometheus=http://p; below=1; fail-after=0", "fail-after: \"0\" is no number"),
        ] {
            let told = read(text).expect_err(text);
            assert!(told.starts_with(PREFIX) && told.contains(expect), "{text}: {told}");
        }
    }

    #[test]
    fn servers_are_services() {
        let show = |text: &str| {
            Server::read(text).map(|server| {
                let Server { tls, namespace, name, port, prefix } = server;
                format!("{} {name}.{}:{port}{prefix}", if tls { "tls" } else { "plain" }, namespace.unwrap_or_default())
            })
        };
        for (text, expect) in [
            ("http://p:9090", Some("plain p.:9090")),
            ("http://p", Some("plain p.:80")),
            ("https://p.mon", Some("tls p.mon:443")),
            ("http://p.mon.svc.cluster.local:1/a/b/", Some("plain p.mon:1/a/b")),
            ("http://p.mon.com:1", None),
            ("ftp://p", None),
            ("http://", None),
            ("http://p:0", None),
            ("http://p:x", None),
            ("http://u@p:1", None),
            ("http://p/a?b", None),
            ("http://p/../a", None),
            ("http://p//a", None),
            ("http://p/%2e", None),
            ("http://10.0.0.1.5:1", None),
        ] {
            assert_eq!(show(text).as_deref(), expect, "{text}");
        }
    }

    #[test]
    fn shares_are_rounded_up() {
        for (share, all, expect) in [
            (Share::Percent(10), 10, 1),
            (Share::Percent(10), 3, 1),
            (Share::Percent(50), 3, 2),
            (Share::Percent(100), 3, 3),
            (Share::Percent(50), i32::MAX, 1_073_741_824),
            (Share::Pods(2), 5, 2),
            (Share::Pods(9), 5, 5),
            (Share::Percent(10), 0, 0),
        ] {
            assert_eq!(share.of(all), expect, "{share:?} of {all}");
        }
    }
}
