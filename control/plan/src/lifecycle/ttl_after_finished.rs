//! Jobs that have ended go when their time is over (`spec.ttlSecondsAfterFinished`).
//!
//! Source: `pkg/controller/ttlafterfinished` of upstream's.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;

use crate::action::{DeleteHow, Plan, Propagation, delete};
use crate::object::{after_seconds, deleting};

/// Deletes the Job, its pods first, if its time is over.
#[must_use]
pub fn plan(job: &Job, now: Timestamp) -> Plan {
    let Some(seconds) = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished) else {
        return Plan::rest("it may stay");
    };
    if deleting(&job.metadata) {
        return Plan::rest("it is being deleted");
    }
    let Some(ended) = ended(job) else { return Plan::rest("it has not ended") };
    let at = after_seconds(ended, i64::from(seconds));
    if at > now {
        return Plan { wake: Some(at), ..Plan::rest("its time is not over yet") };
    }
    // Somebody may give it more time until then: only this version goes.
    let revision = job.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
    let how = DeleteHow { revision, ..DeleteHow::with(Propagation::Foreground) };
    Plan::new("its time is over", vec![delete(job, how, None)])
}

/// When it ended.
fn ended(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let last = conditions.iter().find(|c| ["Complete", "Failed"].contains(&c.type_.as_str()) && c.status == "True")?;
    last.last_transition_time.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus};
    use proptest::prelude::*;

    use super::*;
    use crate::object::time;
    use crate::testing::{Cluster, NOW, meta, show};

    fn job(ttl: Option<i32>, ended: Option<(&str, i64)>) -> Job {
        let condition = |(kind, ago): (&str, i64)| JobCondition {
            type_: kind.into(),
            status: "True".into(),
            last_transition_time: Some(time(after_seconds(NOW, -ago))),
            ..JobCondition::default()
        };
        let status = JobStatus { conditions: ended.map(|end| vec![condition(end)]), ..JobStatus::default() };
        let spec = JobSpec { ttl_seconds_after_finished: ttl, ..JobSpec::default() };
        Job { metadata: meta("job"), spec: Some(spec), status: Some(status) }
    }

    #[test]
    fn goes_when_its_time_is_over() {
        for (ttl, ended, expect, why) in [
            (None, Some(("Complete", 100)), "", "it may stay"),
            (Some(10), None, "", "it has not ended"),
            (Some(10), Some(("SuccessCriteriaMet", 100)), "", "it has not ended"),
            (Some(10), Some(("Complete", 9)), "", "its time is not over yet"),
            (Some(10), Some(("Failed", 10)), "-job", "its time is over"),
            (Some(0), Some(("Complete", 0)), "-job", "its time is over"),
        ] {
            let plan = plan(&job(ttl, ended), NOW);
            assert_eq!((show(&plan.actions).as_str(), plan.why), (expect, why), "{ttl:?} {ended:?}");
            assert_eq!(plan.wake.is_some(), why == "its time is not over yet");
        }
    }

    proptest! {
        #[test]
        fn none_goes_early_and_none_stays(ttl in 0i32..100, ago in 0i64..100) {
            let mut cluster = Cluster::default();
            cluster.add(&job(Some(ttl), Some(("Complete", ago))));
            let turn = |cluster: &Cluster| cluster.list::<Job>().iter().flat_map(|job| plan(job, NOW).actions).collect();
            prop_assert!(cluster.settle(2, turn), "{}", cluster.trace());
            prop_assert_eq!(cluster.list::<Job>().is_empty(), i64::from(ttl) <= ago);
        }
    }
}
