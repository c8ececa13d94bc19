//! CronJobs.

use kontiki_model::cron::{Schedule, load_zone};
use serde_json::{Map, Value};

use super::cells::{self, Cell};
use super::template::{self, defaults};
use super::value::{child, default_text, default_to, get, has, int, list, on, set, set_generation, some, text};
use super::vocab::{self, Errors};
use super::{job, replicas, selector};
use crate::{Bad, FieldError, Path, ResourceDef, Strategy, Verbs, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        short: names(&["cj"]),
        categories: names(&["all"]),
        ..ResourceDef::new(("batch", "v1"), ("cronjobs", "cronjob", "CronJob"), "io.k8s.api.batch.v1.CronJob", CronJobs)
    }
    .with_part("status", Verbs::PART)
}

/// Its Jobs are called by its name, a dash and ten digits.
const MAX_NAME: usize = 52;
/// Longest part of a zone's name.
const MAX_ZONE_PART: usize = 14;

struct CronJobs;

impl Strategy for CronJobs {
    fn default(&self, obj: &mut Value) {
        let spec = child(obj, "spec");
        default_text(spec, "concurrencyPolicy", "Allow");
        default_to(spec, "suspend", false);
        default_to(spec, "successfulJobsHistoryLimit", 3);
        default_to(spec, "failedJobsHistoryLimit", 1);
        let job = child(child(spec, "jobTemplate"), "spec");
        job::pod_conditions(job);
        defaults::template(child(job, "template"));
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", Map::new());
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        replicas::prepare_update(new, old, sub);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check(&mut errs, get(obj, "spec"), None);
        let name = text(get(obj, "metadata"), "name");
        if name.len() > MAX_NAME {
            errs.push(FieldError::invalid("metadata.name", name, "must be no more than 52 characters"));
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub.is_none() {
            check(&mut errs, get(new, "spec"), Some(get(old, "spec")));
        }
        errs
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let spec = get(obj, "spec");
        let path = Path::new("spec").child("jobTemplate").child("spec");
        let mut out = job::warn(obj, old, &path, get(get(spec, "jobTemplate"), "spec"));
        if old.is_some() && text(spec, "schedule").contains("TZ") {
            out.push(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                    .into(),
            );
        }
        out
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let (spec, status) = (get(obj, "spec"), get(obj, "status"));
        let job = get(get(spec, "jobTemplate"), "spec");
        let (names, images) = template::show_containers(get(job, "template"));
        let last = some(status, "lastScheduleTime").and_then(Value::as_str);
        vec![
            cells::name(obj),
            cells::of(text(spec, "schedule")),
            cells::or_none(text(spec, "timeZone")),
            cells::of(if on(spec, "suspend") { "True" } else { "False" }),
            cells::of(list(status, "active").len()),
            last.map_or_else(|| cells::of(cells::NONE), Cell::since),
            cells::age(obj),
            cells::of(names),
            cells::of(images),
            cells::of(if has(job, "selector") { selector::show(get(job, "selector")) } else { cells::NONE.into() }),
        ]
    }
}

fn check(errs: &mut Errors, spec: &Value, before: Option<&Value>) {
    let path = Path::new("spec");
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        errs.push(FieldError::required(path.child("schedule"), ""));
    } else {
        let zones_allowed = before.is_some_and(|before| text(before, "schedule").contains("TZ"));
        check_schedule(errs, &path.child("schedule"), schedule, zones_allowed, has(spec, "timeZone"));
    }
    replicas::check_optional(errs, &path, spec, "startingDeadlineSeconds");
    if before.is_none_or(|before| get(before, "timeZone") != get(spec, "timeZone"))
        && let Some(zone) = some(spec, "timeZone").and_then(Value::as_str)
    {
        check_zone(errs, &path.child("timeZone"), zone);
    }
    let policy = text(spec, "concurrencyPolicy");
    vocab::one_of(errs, &path.child("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]);
    check_template(errs, &path.child("jobTemplate").child("spec"), get(get(spec, "jobTemplate"), "spec"));
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        if let Some(limit) = int(spec, field) {
            vocab::not_negative(errs, &path.child(field), limit);
        }
    }
}

fn check_schedule(errs: &mut Errors, path: &Path, schedule: &str, zones_allowed: bool, has_zone: bool) {
    if let Err(error) = Schedule::parse(schedule) {
        errs.push(FieldError::invalid(path, schedule, error));
    }
    if !schedule.contains("TZ") {
        return;
    }
    if zones_allowed && has_zone {
        let message = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
        errs.push(FieldError::invalid(path, schedule, message));
    } else if !zones_allowed {
        let message = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errs.push(FieldError::invalid(path, schedule, message));
    }
}

fn check_zone(errs: &mut Errors, path: &Path, zone: &str) {
    if zone.is_empty() {
        errs.push(FieldError::invalid(path, zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let good = |c: u8| c.is_ascii_alphanumeric() || b".-_+".contains(&c);
    let shaped = |part: &str| {
        (1..=MAX_ZONE_PART).contains(&part.len())
            && ![".", ".."].contains(&part)
            && !part.starts_with('-')
            && part.bytes().all(good)
    };
    if !zone.split('/').all(shaped) {
        errs.push(FieldError::invalid(path, zone, format!("unknown time zone {zone}")));
        return;
    }
    if zone.eq_ignore_ascii_case("local") {
        let message = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errs.push(FieldError::invalid(path, zone, message));
    }
    // That one is the machine's own, which there is.
    if zone != "Local"
        && let Err(error) = load_zone(zone)
    {
        errs.push(FieldError::invalid(path, zone, error));
    }
}

fn check_template(errs: &mut Errors, path: &Path, job: &Value) {
    job::spec::check(errs, path, job);
    if let Some(wanted) = some(job, "selector") {
        let message = "`selector` will be auto-generated";
        errs.push(FieldError::invalid(path.child("selector"), selector::bad(wanted), message));
    }
    if on(job, "manualSelector") {
        let shown = Bad::Raw("true".into());
        errs.push(FieldError::not_supported(path.child("manualSelector"), shown, &["nil", "false"]));
    }
}
