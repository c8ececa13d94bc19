//! PodCertificateRequests go soon after they were made, whatever became of them: a node that waits longer asks anew.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;

use crate::action::{DeleteHow, Plan, delete};
use crate::object::deleting;

/// How long a request is kept. All that nodes and signers do about one takes less.
const KEPT: SignedDuration = SignedDuration::from_mins(15);

/// Decides about one request.
#[must_use]
pub fn plan(request: &PodCertificateRequest, now: Timestamp) -> Plan {
    if deleting(&request.metadata) {
        return Plan::rest("it is being deleted");
    }
    let made = request.metadata.creation_timestamp.as_ref();
    match made.and_then(|made| made.0.checked_add(KEPT).ok()) {
        Some(end) if end <= now => Plan::new("its time is over", vec![delete(request, DeleteHow::default(), None)]),
        end => Plan { wake: end, ..Plan::rest("it is kept") },
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::object::after_seconds;
    use crate::testing::{NOW, show};

    #[test]
    fn goes_after_a_quarter_of_an_hour() {
        let mut request = PodCertificateRequest::default();
        request.metadata.name = Some("r".to_owned());
        request.metadata.namespace = Some("a".to_owned());
        request.metadata.uid = Some("u".to_owned());
        request.metadata.creation_timestamp = Some(Time(NOW));
        for (age, goes) in [(0, false), (899, false), (900, true), (5000, true)] {
            let plan = plan(&request, after_seconds(NOW, age));
            assert_eq!(
                (!plan.actions.is_empty(), plan.wake.is_some()),
                (goes, !goes),
                "{age}: {}",
                show(&plan.actions)
            );
        }
        request.metadata.deletion_timestamp = Some(Time(NOW));
        assert!(plan(&request, after_seconds(NOW, 5000)).actions.is_empty(), "it goes already");
    }
}
