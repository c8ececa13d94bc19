//! Probes and lifecycle hooks.

use serde_json::Value;

use super::super::value::{get, has, int, list, num, some, text};
use super::super::vocab::{self, Errors};
use crate::{FieldError, Path};

const PROBE_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];

/// Checks the three probes of a container.
pub fn check_all(errs: &mut Errors, path: &Path, container: &Value, grace: Option<i64>) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = some(container, name) else { continue };
        let path = path.child(name);
        check(errs, &path, probe, grace);
        if name == "readinessProbe" {
            if let Some(seconds) = int(probe, "terminationGracePeriodSeconds") {
                let path = path.child("terminationGracePeriodSeconds");
                errs.push(FieldError::invalid(path, seconds, "must not be set for readinessProbes"));
            }
        } else if num(probe, "successThreshold") != 1 {
            let threshold = num(probe, "successThreshold");
            errs.push(FieldError::invalid(path.child("successThreshold"), threshold, "must be 1"));
        }
    }
}

fn check(errs: &mut Errors, path: &Path, probe: &Value, grace: Option<i64>) {
    check_handler(errs, path, probe, PROBE_HANDLERS, grace);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        vocab::not_negative(errs, &path.child(name), num(probe, name));
    }
    if let Some(seconds) = int(probe, "terminationGracePeriodSeconds").filter(|seconds| *seconds <= 0) {
        errs.push(FieldError::invalid(path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0"));
    }
}

/// Checks the hooks of a container.
pub fn check_lifecycle(errs: &mut Errors, path: &Path, lifecycle: &Value, grace: Option<i64>) {
    for name in ["postStart", "preStop"] {
        if let Some(hook) = some(lifecycle, name) {
            check_handler(errs, &path.child(name), hook, HOOK_HANDLERS, grace);
        }
    }
}

fn check_handler(errs: &mut Errors, path: &Path, handler: &Value, kinds: &[&str], grace: Option<i64>) {
    let mut found = false;
    for kind in kinds {
        let Some(action) = some(handler, kind) else { continue };
        let path = path.child(kind);
        if found {
            errs.push(FieldError::forbidden(path, "may not specify more than 1 handler type"));
            continue;
        }
        found = true;
        match *kind {
            "exec" if list(action, "command").is_empty() => errs.push(FieldError::required(path.child("command"), "")),
            "exec" => {}
            "httpGet" => check_http(errs, &path, action),
            "sleep" => check_sleep(errs, &path, num(action, "seconds"), grace),
            _ => vocab::port_or_name(errs, &path.child("port"), get(action, "port")),
        }
    }
    if !found {
        errs.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn check_http(errs: &mut Errors, path: &Path, action: &Value) {
    if !has(action, "path") {
        errs.push(FieldError::required(path.child("path"), ""));
    }
    vocab::port_or_name(errs, &path.child("port"), get(action, "port"));
    vocab::known_value(errs, &path.child("scheme"), text(action, "scheme"), &["HTTP", "HTTPS"]);
    for header in list(action, "httpHeaders") {
        let name = text(header, "name");
        vocab::invalid(errs, &path.child("httpHeaders"), name, vocab::header_errors(name));
    }
}

fn check_sleep(errs: &mut Errors, path: &Path, seconds: i64, grace: Option<i64>) {
    if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
        let message = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errs.push(FieldError::invalid(path, seconds, message));
    }
}
