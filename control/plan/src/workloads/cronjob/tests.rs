//! Tables and properties of CronJobs.

use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus, JobTemplateSpec};
use proptest::prelude::*;

use super::*;
use crate::object::after_seconds;
use crate::testing::{Cluster, NOW, meta, show, template};

/// Half past nine: every hour at minute 0 there is a time.
fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(change: impl FnOnce(&mut CronJobSpec)) -> CronJob {
    let mut spec = CronJobSpec {
        schedule: "0 * * * *".into(),
        concurrency_policy: Some("Allow".into()),
        suspend: Some(false),
        successful_jobs_history_limit: Some(3),
        failed_jobs_history_limit: Some(1),
        job_template: JobTemplateSpec {
            metadata: None,
            spec: Some(JobSpec { template: template("x"), ..JobSpec::default() }),
        },
        ..CronJobSpec::default()
    };
    change(&mut spec);
    let mut metadata = meta("cron");
    metadata.creation_timestamp = Some(time(at("2026-03-01T08:30:00Z")));
    CronJob { metadata, spec, status: None }
}

/// A Job of the hour: `9` runs, `9+` is complete, `9!` has failed, `9~` is on its way out.
fn job(word: &str) -> Arc<Job> {
    let hour: i64 = word.trim_end_matches(['+', '!', '~']).parse().unwrap();
    let due = after_seconds(at("2026-03-01T00:00:00Z"), hour * 3600);
    let cron = Arc::new(cron(|_| {}));
    let view = View { cron, jobs: Vec::new(), namespace_terminating: false };
    let cron = Cron { view: &view, spec: &view.cron.spec, status: CronJobStatus::default() };
    let mut job = cron.job(due, &TimeZone::UTC);
    let name = job.metadata.name.clone().unwrap();
    job.metadata.uid = Some(format!("uid-{name}"));
    for mark in word.chars().filter(|c| !c.is_ascii_digit()) {
        let kind = match mark {
            '+' => "Complete",
            '!' => "Failed",
            _ => {
                job.metadata.deletion_timestamp = Some(time(NOW));
                continue;
            }
        };
        let done = JobCondition { type_: kind.into(), status: "True".into(), ..JobCondition::default() };
        job.status = Some(JobStatus {
            conditions: Some(vec![done]),
            start_time: Some(time(due)),
            completion_time: Some(time(after_seconds(due, 60))),
            ..JobStatus::default()
        });
    }
    Arc::new(job)
}

fn view(cron: CronJob, jobs: &str) -> View {
    View { cron: Arc::new(cron), jobs: jobs.split_whitespace().map(job).collect(), namespace_terminating: false }
}

/// With names of Jobs as their hours.
fn shown(plan: &Plan) -> String {
    let mut text = show(&plan.actions);
    for hour in (0..48).rev() {
        let due = after_seconds(at("2026-03-01T00:00:00Z"), hour * 3600);
        text = text.replace(&job_name("cron", due), &hour.to_string());
    }
    text
}

#[test]
fn a_job_is_made_when_its_time_has_come() {
    let allow: fn(&mut CronJobSpec) = |_| {};
    let forbid: fn(&mut CronJobSpec) = |spec| spec.concurrency_policy = Some("Forbid".into());
    let replace: fn(&mut CronJobSpec) = |spec| spec.concurrency_policy = Some("Replace".into());
    let suspended: fn(&mut CronJobSpec) = |spec| spec.suspend = Some(true);
    let strict: fn(&mut CronJobSpec) = |spec| spec.starting_deadline_seconds = Some(60);
    let lax: fn(&mut CronJobSpec) = |spec| spec.starting_deadline_seconds = Some(1900);
    let never: fn(&mut CronJobSpec) = |spec| spec.schedule = "59 23 31 2 *".into();
    let broken: fn(&mut CronJobSpec) = |spec| spec.schedule = "x".into();
    let nowhere: fn(&mut CronJobSpec) = |spec| spec.time_zone = Some("Mars/Olympus".into());
    for (name, change, jobs, now, expect, why) in [
        ("too early", allow, "", "08:59:59", "", "its time has not come"),
        ("in time", allow, "", "09:00:00", "+9", "its time has come"),
        ("late", allow, "", "09:59:59", "+9", "its time has come"),
        ("once", allow, "9", "09:30:00", "status cron", "its status changed"),
        ("many were missed, the last one counts", allow, "", "12:30:00", "+12", "its time has come"),
        ("beside another", allow, "9", "10:00:00", "status cron +10", "its status changed"),
        ("not beside another", forbid, "9", "10:00:00", "status cron !JobAlreadyActive", "its status changed"),
        ("after another", forbid, "9+", "10:00:00", "status cron +10", "its status changed"),
        ("in place of another", replace, "9", "10:00:00", "status cron -9 +10", "its status changed"),
        ("suspended", suspended, "", "10:00:00", "", "it is suspended"),
        ("too late", strict, "", "09:30:00", "", "its time has not come"),
        ("not too late", lax, "", "09:30:00", "+9", "its time has come"),
        ("never", never, "", "10:00:00", "!InvalidSchedule", "its schedule never comes"),
        ("unreadable", broken, "", "10:00:00", "!UnparseableSchedule", "its schedule cannot be read"),
        ("nowhere", nowhere, "", "10:00:00", "!UnknownTimeZone", "its schedule cannot be read"),
    ] {
        let plan = plan(&view(cron(change), jobs), at(&format!("2026-03-01T{now}Z")));
        assert_eq!((shown(&plan).as_str(), plan.why), (expect, why), "{name}");
    }
    let gone = View { namespace_terminating: true, ..view(cron(|_| {}), "") };
    assert_eq!(shown(&plan(&gone, at("2026-03-01T09:30:00Z"))), "");
}

#[test]
fn it_looks_again_at_the_next_time() {
    for (change, jobs, now, expect) in [
        ("0 * * * *", "", "08:31:00", "09:00:00"),
        ("0 * * * *", "", "09:00:00", "10:00:00"),
        ("@every 20m", "", "08:31:00", "08:50:00"),
        ("0 * * * *", "9", "09:30:00", "10:00:00"),
    ] {
        let plan = plan(&view(cron(|spec| spec.schedule = change.into()), jobs), at(&format!("2026-03-01T{now}Z")));
        assert_eq!(plan.wake, Some(at(&format!("2026-03-01T{expect}Z"))), "{change} at {now}");
    }
}

#[test]
fn the_time_is_the_zones() {
    let berlin = cron(|spec| {
        spec.schedule = "30 10 * * *".into();
        spec.time_zone = Some("Europe/Berlin".into());
    });
    let plan = plan(&view(berlin, ""), at("2026-03-01T09:30:00Z"));
    let Some(Action::Create { object, .. }) = plan.actions.first() else { panic!("{plan:?}") };
    assert_eq!(object["metadata"]["annotations"][SCHEDULED], "2026-03-01T10:30:00+01:00");
    assert_eq!(object["metadata"]["name"], format!("cron-{}", at("2026-03-01T09:30:00Z").as_second() / 60));
    assert_eq!(object["metadata"]["ownerReferences"][0]["kind"], "CronJob");
}

#[test]
fn the_status_follows_the_jobs() {
    let listed = |jobs: &str| {
        let mut cron = cron(|_| {});
        let active = jobs.split_whitespace().map(|word| entry(&job(word))).collect();
        cron.status = Some(CronJobStatus { active: Some(active), ..CronJobStatus::default() });
        cron
    };
    for (name, known, jobs, active, events) in [
        ("a new one", "", "9", 1, ""),
        ("one that runs", "9", "9", 1, ""),
        ("one that has ended", "9", "9+", 0, "!SawCompletedJob"),
        ("one that is gone", "9", "", 0, "!MissingJob"),
        ("an old one that ended unseen", "", "9!", 0, ""),
    ] {
        let view = view(listed(known), jobs);
        let cron = Cron { view: &view, spec: &view.cron.spec, status: view.cron.status.clone().unwrap() };
        let (status, told) = cron.status();
        assert_eq!((status.active.map_or(0, |active| active.len()), show(&told).as_str()), (active, events), "{name}");
        let last = status.last_schedule_time.map(|time| time.0);
        assert_eq!(last, (!jobs.is_empty()).then(|| at("2026-03-01T09:00:00Z")), "{name}");
    }
}

#[test]
fn history_is_bounded() {
    for (jobs, expect) in
        [("1+ 2+ 3+", ""), ("1+ 2+ 3+ 4+ 5+", "-1 -2"), ("1! 2! 3+", "-1"), ("1+~ 2+ 3+ 4+", ""), ("1 2 3 4 5", "")]
    {
        let plan = plan(&view(cron(|spec| spec.suspend = Some(true)), jobs), at("2026-03-01T06:30:00Z"));
        let deletions: Vec<Action> =
            plan.actions.iter().filter(|action| matches!(action, Action::Delete { .. })).cloned().collect();
        assert_eq!(shown(&Plan::new("", deletions)), expect, "{jobs}");
    }
}

proptest! {
    /// However late and however often it dies between its actions, a time has one Job, and then it rests.
    #[test]
    fn no_time_has_two_jobs(minutes in 0i64..6000, policy in 0usize..3, cut in 1usize..3, step in 1u8..60) {
        let mut cluster = Cluster::default();
        let policy = ["Allow", "Forbid", "Replace"][policy];
        cluster.add(&cron(|spec| {
            spec.concurrency_policy = Some(policy.into());
            spec.schedule = format!("*/{step} * * * *");
        }));
        let now = after_seconds(at("2026-03-01T08:30:00Z"), minutes * 60);
        let mut made = BTreeSet::new();
        for _ in 0..12 {
            let cron = cluster.list::<CronJob>()[0].clone();
            let view = View { cron, jobs: cluster.list::<Job>(), namespace_terminating: false };
            let plan = plan(&view, now);
            for action in plan.actions.into_iter().take(cut) {
                if let Action::Create { object, .. } = &action {
                    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                    prop_assert!(made.insert(name), "made twice");
                }
                cluster.apply(action);
            }
        }
        prop_assert!(made.len() <= 1, "{made:?}");
        let view = View { cron: cluster.list::<CronJob>()[0].clone(), jobs: cluster.list(), namespace_terminating: false };
        let rest = plan(&view, now);
        prop_assert!(rest.actions.is_empty(), "{:?}", rest);
        prop_assert!(rest.wake.is_some_and(|wake| wake > now));
    }
}
