//! Requests go some time after they were decided, or were not, and when the certificate has expired.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{condition, conditions, issued};
use crate::action::{DeleteHow, Plan, delete};
use crate::object::deleting;

/// How long the outcome is kept: of what was issued, denied or failed.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// How long others are waited for: those who approve, and those who sign.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Decides about one request. `expires`: when its certificate does, if it has one.
#[must_use]
pub fn plan(csr: &CertificateSigningRequest, expires: Option<Timestamp>, now: Timestamp) -> Plan {
    if deleting(&csr.metadata) {
        return Plan::rest("it is being deleted");
    }
    match end(csr, expires) {
        Some(at) if at < now => Plan::new("its time is over", vec![delete(csr, DeleteHow::default(), None)]),
        // One second on: it goes when the moment has passed.
        Some(at) => Plan { wake: at.checked_add(SignedDuration::from_secs(1)).ok(), ..Plan::rest("it is kept") },
        None => Plan::rest("it is kept"),
    }
}

/// When a request goes.
fn end(csr: &CertificateSigningRequest, expires: Option<Timestamp>) -> Option<Timestamp> {
    let after = |time: Option<&Time>, pause| time.and_then(|time| time.0.checked_add(pause).ok());
    let since = |kind| condition(csr, kind).and_then(|condition| condition.last_update_time.as_ref());
    let approved = since("Approved");
    let pending = conditions(csr).is_empty().then_some(csr.metadata.creation_timestamp.as_ref()).flatten();
    [
        after(since("Denied"), DECIDED),
        after(since("Failed"), DECIDED),
        after(approved, if issued(csr) { DECIDED } else { PENDING }),
        after(pending, PENDING),
        expires.filter(|_| condition(csr, "Approved").is_some()),
    ]
    .into_iter()
    .flatten()
    .min()
}

#[cfg(test)]
mod tests {
    use super::super::samples::csr;
    use super::*;
    use crate::object::after_seconds;
    use crate::testing::{NOW, show};

    #[test]
    fn goes_when_nobody_needs_it() {
        const HOUR: i64 = 3600;
        for (state, expires, age, goes) in [
            ("", None, 24 * HOUR, false),
            ("", None, 24 * HOUR + 1, true),
            ("Denied", None, HOUR, false),
            ("Denied", None, HOUR + 1, true),
            ("Failed", None, HOUR + 1, true),
            ("Approved", None, HOUR + 1, false),
            ("Approved", None, 24 * HOUR + 1, true),
            ("Approved issued", None, HOUR + 1, true),
            ("Approved issued", Some(60), 61, true),
            ("Approved issued", Some(60), 60, false),
        ] {
            let expires = expires.map(|seconds| after_seconds(NOW, seconds));
            let plan = plan(&csr("s", &[], state), expires, after_seconds(NOW, age));
            assert_eq!(show(&plan.actions), if goes { "-c" } else { "" }, "{state} {expires:?} {age}");
            assert_eq!(plan.wake.is_some(), !goes, "{state} {age}");
        }
    }
}
