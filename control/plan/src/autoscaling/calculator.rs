//! From numbers to replicas. Upstream: `replica_calculator.go`, `metrics/utilization.go`.
//!
//! Invariants
//! - A change within the tolerance is none.
//! - Pods whose numbers are missing, and pods that are not ready yet, can make a change smaller but never turn it round.
//! - Numbers saturate: no metric is too large.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kontiki_model::amount::Amount;

use super::facts::{Sample, Samples};
use crate::object::{deleting, name};
use crate::pod::{condition, phase, ready};

/// How long after its start the CPU use of a pod may be that of its beginning.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// How long after its start a pod that was never ready may become unready.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// How far from its target a ratio may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerances {
    pub down: f64,
    pub up: f64,
}

impl Tolerances {
    fn allow(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What one metric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub replicas: i32,
    /// In percent of what is requested, where the target is one.
    pub utilization: Option<i32>,
    /// In thousandths: the average of pods, or the value.
    pub usage: i64,
}

/// How many pods there are, and which.
pub(super) struct Pods<'a> {
    /// How many the target wants.
    pub current: i32,
    /// Those that it selects.
    pub all: &'a [Arc<Pod>],
}

/// What the use of a pod is compared with.
pub(super) enum Per<'a> {
    /// A share, in percent, of what pods request.
    Request { percent: i32, resource: &'a str, container: Option<&'a str> },
    /// An amount, in thousandths.
    Amount(i64),
}

/// The numbers of pods, in thousandths.
type Values<'a> = BTreeMap<&'a str, i64>;

/// The use of pods, with what it is compared with.
enum Scale<'a> {
    Requests { percent: i32, of: Values<'a> },
    Amount(i64),
}

struct Ratio {
    ratio: f64,
    utilization: Option<i32>,
    average: i64,
}

impl Scale<'_> {
    fn ratio(&self, values: &Values<'_>) -> Result<Ratio, String> {
        match self {
            Self::Requests { percent, of } => {
                let known: Vec<(i64, i64)> =
                    values.iter().filter_map(|(pod, value)| Some((*value, *of.get(*pod)?))).collect();
                let used = total(known.iter().map(|(used, _)| *used));
                let requested = total(known.iter().map(|(_, requested)| *requested));
                if requested == 0 {
                    return Err("no metrics returned matched known pods".to_owned());
                }
                let utilization = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
                let ratio = f64::from(utilization) / f64::from(*percent);
                Ok(Ratio { ratio, utilization: Some(utilization), average: mean(used, known.len()) })
            }
            Self::Amount(amount) => {
                let average = mean(total(values.values().copied()), values.len());
                Ok(Ratio { ratio: share(average, *amount), utilization: None, average })
            }
        }
    }

    /// What a pod of which nothing is known counts for when there may be too many.
    fn assumed(&self, pod: &str) -> i64 {
        match self {
            Self::Requests { percent, of } => {
                let request = of.get(pod).copied().unwrap_or_default();
                saturated(i128::from(request) * i128::from((*percent).max(100)) / 100)
            }
            Self::Amount(amount) => *amount,
        }
    }
}

fn total(values: impl Iterator<Item = i64>) -> i128 {
    values.map(i128::from).sum()
}

fn saturated(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

fn mean(total: i128, count: usize) -> i64 {
    saturated(total / i128::try_from(count.max(1)).unwrap_or(i128::MAX))
}

fn share(value: i64, of: i64) -> f64 {
    value as f64 / of as f64
}

/// Rounded up; a float that fits no `i32` becomes the nearest that does.
fn up(replicas: f64) -> i32 {
    replicas.ceil() as i32
}

/// By numbers of pods. `cpu`: they are of CPU, which pods need more of as they start.
///
/// # Errors
/// It cannot be said.
pub(super) fn by_pods(
    pods: &Pods<'_>,
    samples: &Samples,
    per: &Per<'_>,
    cpu: bool,
    tolerances: Tolerances,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.all.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = Groups::of(pods.all, samples, cpu, now);
    let left_out = |pod: &str| groups.ignored.contains(pod) || groups.unready.contains(pod);
    let known = samples.iter().filter(|(pod, _)| !left_out(pod));
    let mut values: Values<'_> = known.map(|(pod, sample)| (pod.as_str(), sample.value)).collect();
    if values.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let scale = match per {
        Per::Amount(amount) => Scale::Amount(*amount),
        Per::Request { percent, resource, container } => {
            Scale::Requests { percent: *percent, of: requests(pods.all, resource, *container)? }
        }
    };
    let first = scale.ratio(&values)?;
    let proposal = |replicas| Proposal { replicas, utilization: first.utilization, usage: first.average };
    let with_unready = !groups.unready.is_empty() && first.ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        let keep = tolerances.allow(first.ratio);
        return Ok(proposal(if keep { pods.current } else { up(first.ratio * groups.ready as f64) }));
    }
    for pod in &groups.missing {
        if first.ratio < 1.0 {
            values.insert(*pod, scale.assumed(pod));
        } else if first.ratio > 1.0 {
            values.insert(*pod, 0);
        }
    }
    if with_unready {
        values.extend(groups.unready.iter().map(|pod| (*pod, 0)));
    }
    let again = scale.ratio(&values)?.ratio;
    let turned = (first.ratio < 1.0 && again > 1.0) || (first.ratio > 1.0 && again < 1.0);
    if tolerances.allow(again) || turned {
        return Ok(proposal(pods.current));
    }
    let replicas = up(again * values.len() as f64);
    let wrong_way = (again < 1.0 && replicas > pods.current) || (again > 1.0 && replicas < pods.current);
    Ok(proposal(if wrong_way { pods.current } else { replicas }))
}

/// By a value that all pods together are to bring to `target`, both in thousandths.
///
/// # Errors
/// It cannot be said.
pub(super) fn by_value(pods: &Pods<'_>, value: i64, target: i64, tolerances: Tolerances) -> Result<Proposal, String> {
    let ratio = share(value, target);
    let proposal = |replicas| Ok(Proposal { replicas, utilization: None, usage: value });
    if pods.current == 0 {
        // Nobody is there to be counted.
        return proposal(up(ratio));
    }
    if tolerances.allow(ratio) {
        return proposal(pods.current);
    }
    if pods.all.is_empty() {
        let why = "no pods returned by selector while calculating replica count";
        return Err(format!("unable to calculate ready pods: {why}"));
    }
    let serving = pods.all.iter().filter(|pod| phase(pod) == "Running" && ready(pod)).count();
    proposal(up(ratio * serving as f64))
}

/// By a value of which each of the pods that are there, `present`, is to have `target`, both in thousandths.
pub(super) fn by_average(present: i32, value: i64, target: i64, tolerances: Tolerances) -> Proposal {
    let ratio = share(value, target) / f64::from(present);
    let replicas = if tolerances.allow(ratio) { present } else { up(share(value, target)) };
    // Of no pods there is no average: it is the whole then.
    let usage = if present == 0 { value } else { (value as f64 / f64::from(present)).ceil() as i64 };
    Proposal { replicas, utilization: None, usage }
}

/// Pods by what is known of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups<'a> {
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
}

impl<'a> Groups<'a> {
    fn of(pods: &'a [Arc<Pod>], samples: &Samples, cpu: bool, now: Timestamp) -> Self {
        let mut groups = Self::default();
        for pod in pods {
            let name = name(&pod.metadata);
            let group = if deleting(&pod.metadata) || phase(pod) == "Failed" {
                &mut groups.ignored
            } else if phase(pod) == "Pending" {
                &mut groups.unready
            } else {
                match samples.get(name) {
                    None => &mut groups.missing,
                    Some(sample) if cpu && warms_up(pod, sample, now) => &mut groups.unready,
                    Some(_) => {
                        groups.ready += 1;
                        continue;
                    }
                }
            };
            group.insert(name);
        }
        groups
    }
}

/// Whether the CPU use of a pod says nothing about what it will be.
fn warms_up(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    let (Some(started), Some(ready)) = (started, condition(pod, "Ready")) else { return true };
    let unready = ready.status == "False";
    let turned = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let after = |from: Timestamp, time: SignedDuration| from.checked_add(time).unwrap_or(Timestamp::MAX);
    if after(started, CPU_INITIALIZATION) > now {
        let window = SignedDuration::try_from(sample.window).unwrap_or(SignedDuration::MAX);
        return unready || sample.at < after(turned, window);
    }
    unready && after(started, INITIAL_READINESS) > turned
}

/// What each pod requests of a resource, or one container of each, in thousandths.
fn requests<'a>(pods: &'a [Arc<Pod>], resource: &str, container: Option<&str>) -> Result<Values<'a>, String> {
    pods.iter().map(|pod| Ok((name(&pod.metadata), request(pod, resource, container)?))).collect()
}

/// Resources for which pods can ask as a whole (KEP-2837).
fn is_for_pods(resource: &str) -> bool {
    matches!(resource, "cpu" | "memory") || resource.starts_with("hugepages-")
}

fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Result<i64, String> {
    let Some(spec) = pod.spec.as_ref() else { return Ok(0) };
    let own = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let own = own.filter(|requests| container.is_none() && requests.keys().any(|name| is_for_pods(name)));
    let name = name(&pod.metadata);
    let sidecars = spec.init_containers.iter().flatten().filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let mut asking = spec.containers.iter().chain(sidecars).filter(|one| container.is_none_or(|name| one.name == name));
    let of = |one: &Container| {
        let requests = one.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        requests.and_then(|requests| requests.get(resource)).map(milli)
    };
    if let Some(own) = own {
        // What the pod does not ask for as a whole, its containers may.
        let whole = own.get(resource).filter(|_| is_for_pods(resource)).map(milli);
        let found = whole.or_else(|| asking.filter_map(of).reduce(i64::saturating_add));
        let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(resource)).map_or(0, milli);
        let missing = || format!("missing pod-level request for {resource} in Pod {name}");
        return Ok(found.ok_or_else(missing)?.saturating_add(overhead));
    }
    let missing = |one: &Container| format!("missing request for {resource} in container {} of Pod {name}", one.name);
    if let Some(container) = container {
        let found = asking.next().ok_or_else(|| format!("container {container} not found in Pod {name}"))?;
        return of(found).ok_or_else(|| missing(found));
    }
    asking.try_fold(0, |sum: i64, one| Ok(sum.saturating_add(of(one).ok_or_else(|| missing(one))?)))
}

fn milli(quantity: &Quantity) -> i64 {
    Amount::parse(&quantity.0).map_or(0, Amount::milli)
}
