//! Rules of a Job's spec, which also stands in CronJobs.

use serde_json::Value;

use super::super::template;
use super::super::value::{at, get, has, int, num, some, text};
use super::super::vocab::{self, Errors};
use super::{policy, selector};
use crate::{Bad, FieldError, Path, meta};

/// Most pods at once of an Indexed Job; most indexes of one that may fail.
const MAX_INDEXES: i64 = 100_000;
/// With more completions than this, an Indexed Job with a limit per index has to be smaller.
const MANY_COMPLETIONS: i64 = 100_000;
const FEW: i64 = 10_000;
const MAX_MANAGED_BY: usize = 63;
const HTTP_PATH: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";

/// Checks the spec of a Job itself.
pub(super) fn check_with_selector(errs: &mut Errors, spec: &Value) {
    let path = Path::new("spec");
    check(errs, &path, spec);
    let (at_selector, wanted) = (path.child("selector"), get(spec, "selector"));
    if wanted.is_null() {
        errs.push(FieldError::required(&at_selector, ""));
    } else {
        selector::check(errs, &at_selector, wanted);
    }
    let labels = at(spec, &["template", "metadata", "labels"]);
    let fits = wanted.is_object() && selector::parse(wanted).is_none_or(|parsed| selector::matches(&parsed, labels));
    if !fits {
        let path = path.child("template").child("metadata").child("labels");
        errs.push(FieldError::invalid(path, Bad::Json(labels.clone()), "`selector` does not match template `labels`"));
    }
}

/// Checks a spec without its selector.
pub fn check(errs: &mut Errors, path: &Path, spec: &Value) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        if let Some(value) = int(spec, field) {
            vocab::not_negative(errs, &path.child(field), value);
        }
    }
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        errs.push(FieldError::required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if let Some(manager) = some(spec, "managedBy").and_then(Value::as_str) {
        check_manager(errs, &path.child("managedBy"), manager);
    }
    check_mode(errs, path, spec);
    if let Some(rules) = some(spec, "podFailurePolicy") {
        policy::check_failure(errs, &path.child("podFailurePolicy"), rules, spec);
    }
    if let Some(rules) = some(spec, "successPolicy") {
        policy::check_success(errs, &path.child("successPolicy"), rules, spec);
    }
    check_replacement(errs, &path.child("podReplacementPolicy"), spec);
    template::check(errs, &path.child("template"), get(spec, "template"));
    check_restart(errs, &path.child("template").child("spec").child("restartPolicy"), spec);
}

fn check_manager(errs: &mut Errors, path: &Path, manager: &str) {
    match manager.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty()) {
        _ if manager.is_empty() => errs.push(FieldError::required(path, "")),
        None => {
            let message = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errs.push(FieldError::invalid(path, manager, message));
        }
        Some((host, rest)) => {
            vocab::invalid(errs, path, host, vocab::subdomain_errors(host));
            let good = |c: u8| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c);
            if !rest.bytes().all(good) {
                errs.push(FieldError::invalid(path, rest, meta::regex_rule("Invalid path", HTTP_PATH, &[])));
            }
        }
    }
    if manager.len() > MAX_MANAGED_BY {
        errs.push(FieldError::too_long(path, MAX_MANAGED_BY));
    }
}

fn check_mode(errs: &mut Errors, path: &Path, spec: &Value) {
    let mode = text(spec, "completionMode");
    if has(spec, "completionMode") {
        vocab::known_value(errs, &path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == "Indexed" {
        check_indexed(errs, path, spec);
    }
    if mode == "NonIndexed" || !has(spec, "completionMode") {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = int(spec, field) {
                errs.push(FieldError::invalid(path.child(field), value, "requires indexed completion mode"));
            }
        }
    }
}

fn check_indexed(errs: &mut Errors, path: &Path, spec: &Value) {
    let at_most = |most: i64| format!("must be less than or equal to {most}");
    let (completions, parallelism) = (int(spec, "completions"), num(spec, "parallelism"));
    let (failed, at_failed) = (int(spec, "maxFailedIndexes"), path.child("maxFailedIndexes"));
    if completions.is_none() {
        errs.push(FieldError::required(path.child("completions"), "when completion mode is Indexed"));
    }
    if parallelism > MAX_INDEXES {
        let message = format!("{} when completion mode is Indexed", at_most(MAX_INDEXES));
        errs.push(FieldError::invalid(path.child("parallelism"), parallelism, message));
    }
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        errs.push(FieldError::invalid(&at_failed, failed, "must be less than or equal to completions"));
    }
    if let Some(failed) = failed.filter(|failed| *failed > MAX_INDEXES) {
        errs.push(FieldError::invalid(&at_failed, failed, at_most(MAX_INDEXES)));
    }
    if completions.is_none_or(|completions| completions <= MANY_COMPLETIONS) || !has(spec, "backoffLimitPerIndex") {
        return;
    }
    if failed.is_none() {
        let message = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errs.push(FieldError::required(&at_failed, message));
    }
    let message =
        format!("{} when completions are above {MANY_COMPLETIONS} and used with backoff limit per index", at_most(FEW));
    if parallelism > FEW {
        errs.push(FieldError::invalid(path.child("parallelism"), parallelism, message.as_str()));
    }
    if let Some(failed) = failed.filter(|failed| *failed > FEW) {
        errs.push(FieldError::invalid(&at_failed, failed, message));
    }
}

fn check_replacement(errs: &mut Errors, path: &Path, spec: &Value) {
    let Some(policy) = some(spec, "podReplacementPolicy").and_then(Value::as_str) else { return };
    let known: &[&str] = if has(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    vocab::known_value(errs, path, policy, known);
}

fn check_restart(errs: &mut Errors, path: &Path, spec: &Value) {
    match text(get(get(spec, "template"), "spec"), "restartPolicy") {
        "" | "Always" => errs.push(FieldError::required(path, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        "OnFailure" if !has(spec, "podFailurePolicy") => {}
        "OnFailure" => {
            let message = "only \"Never\" is supported when podFailurePolicy is specified";
            errs.push(FieldError::invalid(path, "OnFailure", message));
        }
        other => errs.push(FieldError::not_supported(path, other, &["OnFailure", "Never"])),
    }
}
