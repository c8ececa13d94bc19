//! CronJob: makes a Job each time its schedule comes.
//!
//! Invariants
//! - A time has one Job: its name is made of the time, and the Job says the time too. So a Job that was made, and not
//!   yet written down when its maker died, is not made again.
//! - What was missed is not made up for: of all times that have passed the last one counts.
//!
//! Source: `pkg/controller/cronjob` of upstream's.

mod due;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::Resource as _;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kontiki_model::cron::{Schedule, load_zone};

use self::due::Due;
use super::job::{is_finished, is_true};
use crate::action::{
    Action, Announce, DeleteHow, EventRecord, Plan, Propagation, Verb, create, delete, patch_to, reference,
};
use crate::key::NamespacedName;
use crate::object::{self, annotation, controller, controller_reference, deleting, name, namespace, time, uid};
use crate::planted::{self, Bug};

/// Who speaks in its events.
const COMPONENT: &str = "cronjob-controller";
/// Annotation of a Job with the time that it was made for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What a plan is made from.
pub struct View {
    /// The CronJob.
    pub cron: Arc<CronJob>,
    /// The Jobs that it manages.
    pub jobs: Vec<Arc<Job>>,
    /// Whether its namespace is on its way out: nothing can be created there.
    pub namespace_terminating: bool,
}

/// The CronJobs that a change of a Job concerns: those that manage or managed it.
pub fn concerned(old: Option<&Job>, new: Option<&Job>) -> BTreeSet<NamespacedName> {
    let manager = |job: &Job| {
        let owner = controller(&job.metadata).filter(|owner| owner.kind == CronJob::KIND)?;
        Some(NamespacedName::new(namespace(&job.metadata), &owner.name))
    };
    old.into_iter().chain(new).filter_map(manager).collect()
}

/// Decides the next writes for one CronJob.
#[must_use]
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let spec = &view.cron.spec;
    let cron = Cron { view, spec, status: view.cron.status.clone().unwrap_or_default() };
    let (status, events) = cron.status();
    let known = Cron { view, spec, status: status.clone() };
    let next = known.next(now);
    let mut plan = Plan::rest(next.why);
    let mut status = known.without_replaced(status, &next);
    if planted::is(Bug::EagerSchedule) && next.actions.iter().any(|action| action.verb() == Verb::Create) {
        status.last_schedule_time = Some(time(now));
    }
    // A CronJob without a status has nothing to say.
    let status = Some(status).filter(|status| view.cron.status.is_some() || *status != CronJobStatus::default());
    let changed = CronJob { status, ..view.cron.as_ref().clone() };
    let written: Vec<Action> = patch_to(view.cron.as_ref(), &changed, Some("status")).into_iter().collect();
    if !written.is_empty() {
        plan.extend(Plan::new("its status changed", written.into_iter().chain(events).collect()));
    }
    plan.extend(Plan::new("its history is too long", known.history()));
    plan.extend(next);
    plan
}

struct Cron<'a> {
    view: &'a View,
    spec: &'a CronJobSpec,
    status: CronJobStatus,
}

impl<'a> Cron<'a> {
    fn cron(&self) -> &'a CronJob {
        self.view.cron.as_ref()
    }

    fn event(&self, warning: bool, reason: &str, message: String) -> Action {
        let record = EventRecord::normal(reference(self.cron()), COMPONENT, reason, message);
        Action::Event(EventRecord { warning, ..record })
    }

    /// The Jobs that were made by the schedule, with their times.
    fn scheduled(&self) -> impl Iterator<Item = (&'a Job, Timestamp)> {
        let jobs = self.view.jobs.iter().map(Arc::as_ref);
        let cron = name(&self.cron().metadata);
        jobs.filter_map(move |job| {
            let at: Timestamp = annotation(&job.metadata, SCHEDULED)?.parse().ok()?;
            (job_name(cron, at) == name(&job.metadata)).then_some((job, at))
        })
    }

    fn lists(&self, job: &Job) -> bool {
        let own = uid(&job.metadata);
        self.status.active.iter().flatten().any(|known| known.uid.as_deref() == Some(own))
    }

    /// Jobs of the schedule that have not ended.
    fn running(&self) -> Vec<&'a Job> {
        let jobs = self.view.jobs.iter().map(Arc::as_ref).filter(|job| !is_finished(job));
        let ours: BTreeSet<&str> = self.scheduled().map(|(job, _)| uid(&job.metadata)).collect();
        jobs.filter(|job| ours.contains(uid(&job.metadata)) || self.lists(job)).collect()
    }

    /// The status as its Jobs have it, and what to tell people about that.
    fn status(&self) -> (CronJobStatus, Vec<Action>) {
        let (mut new, mut events) = (self.status.clone(), Vec::new());
        let mut active = Vec::new();
        for known in self.status.active.iter().flatten() {
            let shown = known.name.clone().unwrap_or_default();
            match self.view.jobs.iter().find(|job| known.uid.as_deref() == Some(uid(&job.metadata))) {
                None => events.push(self.event(false, "MissingJob", format!("Active job went missing: {shown}"))),
                Some(job) if is_finished(job) => {
                    let how = if is_true(job, "Complete") { "Complete" } else { "Failed" };
                    let message = format!("Saw completed job: {shown}, condition: {how}");
                    events.push(self.event(false, "SawCompletedJob", message));
                }
                Some(_) => active.push(known.clone()),
            }
        }
        let mut found: Vec<(&Job, Timestamp)> = self.scheduled().collect();
        found.sort_by_key(|(job, at)| (*at, name(&job.metadata).to_owned()));
        for (job, at) in found {
            if !is_finished(job) && !deleting(&job.metadata) && !self.lists(job) {
                active.push(entry(job));
            }
            let last = new.last_schedule_time.as_ref().map(|time| time.0);
            if last.is_none_or(|last| last < at) {
                new.last_schedule_time = Some(time(at));
            }
        }
        for job in self.view.jobs.iter().filter(|job| is_true(job, "Complete")) {
            let ended = job.status.as_ref().and_then(|status| status.completion_time.clone());
            if ended.as_ref().map(|time| time.0) > new.last_successful_time.as_ref().map(|time| time.0) {
                new.last_successful_time = ended;
            }
        }
        new.active = (!active.is_empty()).then_some(active);
        (new, events)
    }

    /// The same without the Jobs that are about to be replaced.
    fn without_replaced(&self, mut status: CronJobStatus, next: &Plan) -> CronJobStatus {
        let going: BTreeSet<&str> = next
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Delete { uid, .. } => Some(uid.as_str()),
                _ => None,
            })
            .collect();
        if let Some(active) = &mut status.active {
            active.retain(|known| known.uid.as_deref().is_none_or(|uid| !going.contains(uid)));
        }
        status.active = status.active.filter(|active| !active.is_empty());
        status
    }

    /// Ended Jobs beyond those that are to be kept, the oldest first.
    fn history(&self) -> Vec<Action> {
        let mut out = Vec::new();
        for (kind, limit) in
            [("Complete", self.spec.successful_jobs_history_limit), ("Failed", self.spec.failed_jobs_history_limit)]
        {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
            let mut ended: Vec<&Job> =
                self.view.jobs.iter().map(Arc::as_ref).filter(|job| is_true(job, kind)).collect();
            ended.sort_by_key(|job| {
                let start = job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
                (start.is_none(), start, name(&job.metadata).to_owned())
            });
            let surplus = ended.len().saturating_sub(limit);
            let old = ended.into_iter().take(surplus).filter(|job| !deleting(&job.metadata));
            out.extend(old.map(|job| self.delete(job)));
        }
        out
    }

    fn delete(&self, job: &Job) -> Action {
        delete(job, DeleteHow::with(Propagation::Background), Some(self.announce("SuccessfulDelete", "Deleted job: ")))
    }

    fn announce(&self, reason: &'static str, before: &'static str) -> Announce {
        let failed = if reason == "SuccessfulDelete" {
            ("FailedDelete", "Deleted job: ")
        } else {
            ("FailedCreate", "Error creating job: ")
        };
        Announce { regarding: reference(self.cron()), component: COMPONENT, done: (reason, before), failed }
    }

    /// The zone and the schedule, or what is wrong with them.
    fn schedule(&self) -> Result<(TimeZone, Schedule), Action> {
        let name = self.spec.time_zone.as_deref().unwrap_or_default();
        let zone = load_zone(name)
            .map_err(|error| self.event(true, "UnknownTimeZone", format!("invalid timeZone: {name:?}: {error}")))?;
        let text = &self.spec.schedule;
        let schedule = Schedule::parse(text).map_err(|error| {
            self.event(true, "UnparseableSchedule", format!("unparseable schedule: {text:?} : {error}"))
        })?;
        Ok((zone, schedule))
    }

    /// The next Job, now or later.
    fn next(&self, now: Timestamp) -> Plan {
        if deleting(&self.cron().metadata) {
            return Plan::rest("it is being deleted");
        }
        if self.spec.suspend == Some(true) {
            return Plan::rest("it is suspended");
        }
        let (zone, schedule) = match self.schedule() {
            Ok(read) => read,
            Err(event) => return Plan::new("its schedule cannot be read", vec![event]),
        };
        let created = object::created(&self.cron().metadata);
        let last = self.status.last_schedule_time.as_ref().map_or(created, |time| time.0);
        let deadline = self.spec.starting_deadline_seconds;
        let due = due::most_recent(&schedule, &zone, last, deadline, now);
        let mut plan = match due {
            Err(due::NoSchedule) => {
                let text = "time difference between two schedules is less than 1 second";
                let message = format!("invalid schedule: {} : {text}", self.spec.schedule);
                Plan::new("its schedule never comes", vec![self.event(true, "InvalidSchedule", message)])
            }
            Ok(None) => Plan::rest("its time has not come"),
            Ok(Some(due)) => self.start(&due, &zone, now),
        };
        if let Some(at) = due::wake(&schedule, &zone, last, now) {
            plan.wake_at(at);
        }
        plan
    }

    /// Makes the Job of a time that has come, if nothing is in its way.
    fn start(&self, due: &Due, zone: &TimeZone, now: Timestamp) -> Plan {
        let too_late =
            self.spec.starting_deadline_seconds.is_some_and(|seconds| object::after_seconds(due.at, seconds) < now);
        if too_late {
            let shown = due.at.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z");
            let message = format!("Missed scheduled time to start a job: {shown}");
            return Plan::new("it is too late", vec![self.event(true, "MissSchedule", message)]);
        }
        if self.status.last_schedule_time.as_ref().is_some_and(|time| time.0 >= due.at) {
            return Plan::rest("its time has not come");
        }
        let wanted = job_name(name(&self.cron().metadata), due.at);
        if self.view.jobs.iter().any(|job| name(&job.metadata) == wanted) {
            return Plan::rest("its time has a Job");
        }
        let running = self.running();
        let mut actions = Vec::new();
        match self.spec.concurrency_policy.as_deref() {
            Some("Forbid") if !running.is_empty() => {
                let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
                actions.push(self.event(false, "JobAlreadyActive", text.to_owned()));
                return Plan::new("another Job of it runs", actions);
            }
            Some("Replace") => {
                let old = running.iter().filter(|job| !deleting(&job.metadata));
                actions.extend(old.map(|job| self.delete(job)));
            }
            _ => {}
        }
        if self.view.namespace_terminating {
            return Plan::rest("its namespace is terminating");
        }
        let announce = self.announce("SuccessfulCreate", "Created job ");
        actions.push(create(&self.job(due.at, zone), Some(announce)));
        if due.many {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            actions.push(self.event(true, "TooManyMissedTimes", text.to_owned()));
        }
        Plan::new("its time has come", actions)
    }

    fn job(&self, at: Timestamp, zone: &TimeZone) -> Job {
        let template = self.spec.job_template.clone();
        let wanted = template.metadata.unwrap_or_default();
        let mut annotations = wanted.annotations.unwrap_or_default();
        let shown = at.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        annotations.insert(SCHEDULED.to_owned(), shown.replace("+00:00", "Z"));
        let meta = &self.cron().metadata;
        Job {
            metadata: ObjectMeta {
                name: Some(job_name(name(meta), at)),
                namespace: meta.namespace.clone(),
                labels: wanted.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_reference(self.cron())]),
                ..ObjectMeta::default()
            },
            spec: template.spec,
            status: None,
        }
    }
}

/// The name of the Job of a time: minutes since 1970.
fn job_name(cron: &str, at: Timestamp) -> String {
    format!("{cron}-{}", at.as_second().div_euclid(60))
}

/// How the status lists a Job.
fn entry(job: &Job) -> ObjectReference {
    reference(job)
}
