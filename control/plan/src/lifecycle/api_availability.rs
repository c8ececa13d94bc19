//! Whether the servers behind APIServices can be used: the condition `Available`, in upstream's words
//! (`kube-aggregator/pkg/controllers/status/remote`).
//!
//! Invariant: a server that goes on failing for one reason is written about once, however the texts differ.

use jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition};

use crate::action::{Plan, patch_to};
use crate::object::time;

/// The condition's type.
const AVAILABLE: &str = "Available";

/// What came of asking a server: `Err` has the reason, a word, and a text.
pub type Outcome = Result<(), (&'static str, String)>;

/// Writes down what came of asking the server of `service`.
#[must_use]
pub fn plan(service: &APIService, outcome: &Outcome, now: Timestamp) -> Plan {
    if service.spec.as_ref().is_none_or(|spec| spec.service.is_none()) {
        return Plan::rest("it is served here");
    }
    let (status, reason, message) = match outcome {
        Ok(()) => ("True", "Passed", "all checks passed"),
        Err((reason, text)) => ("False", *reason, text.as_str()),
    };
    let mut new = service.clone();
    let conditions = new.status.get_or_insert_default().conditions.get_or_insert_default();
    let known = conditions.iter_mut().find(|condition| condition.type_ == AVAILABLE);
    let same = |old: &APIServiceCondition| old.status == status && old.reason.as_deref() == Some(reason);
    if known.as_deref().is_some_and(same) {
        return Plan::rest("its condition says so");
    }
    let turned = known.as_deref().is_none_or(|old| old.status != status);
    let since = known.as_deref().and_then(|old| old.last_transition_time.clone()).filter(|_| !turned);
    let condition = APIServiceCondition {
        type_: AVAILABLE.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or_else(|| time(now))),
    };
    match known {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
    Plan::new("its condition changes", patch_to(service, &new, Some("status")).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::{APIServiceSpec, ServiceReference};

    use super::*;
    use crate::testing::{Cluster, meta};

    fn service(remote: bool) -> APIService {
        let reference = ServiceReference { name: Some("s".into()), ..ServiceReference::default() };
        let spec = APIServiceSpec { service: remote.then_some(reference), ..APIServiceSpec::default() };
        APIService { metadata: meta("v1.a.io"), spec: Some(spec), ..APIService::default() }
    }

    fn shown(service: &APIService) -> String {
        let conditions = service.status.as_ref().and_then(|status| status.conditions.as_ref());
        let show = |c: &APIServiceCondition| {
            let since = c.last_transition_time.as_ref().map_or(0, |time| time.0.as_second());
            format!("{}={} {} {since}", c.type_, c.status, c.reason.as_deref().unwrap_or_default())
        };
        conditions.into_iter().flatten().map(show).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_condition_follows_what_comes_of_asking_and_rests() {
        let failed = |reason, text: &str| Err((reason, text.to_owned()));
        let mut cluster = Cluster::default();
        cluster.add(&service(true));
        for (at, outcome, expect, writes) in [
            (1, failed("MissingEndpoints", "none"), "Available=False MissingEndpoints 1", true),
            (2, failed("MissingEndpoints", "none, really"), "Available=False MissingEndpoints 1", false),
            (3, failed("FailedDiscoveryCheck", "no"), "Available=False FailedDiscoveryCheck 1", true),
            (4, Ok(()), "Available=True Passed 4", true),
            (5, Ok(()), "Available=True Passed 4", false),
        ] {
            let now = Timestamp::from_second(at).expect("a time");
            let decide = |cluster: &Cluster| plan(&cluster.only::<APIService>(), &outcome, now).actions;
            assert_eq!(!decide(&cluster).is_empty(), writes, "{outcome:?}");
            assert!(cluster.settle(2, decide), "{}", cluster.trace());
            assert_eq!(shown(&cluster.only::<APIService>()), expect);
        }
        assert!(plan(&service(false), &Ok(()), Timestamp::UNIX_EPOCH).actions.is_empty(), "served here");
    }
}
