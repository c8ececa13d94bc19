//! Mounts and devices of containers, and rules for paths.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::value::{get, has, list, on, some, text};
use super::super::vocab::{self, Errors};
use crate::{FieldError, Path};

/// The sound volumes of a spec, by name.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// A path must not climb up.
pub fn no_backsteps(errs: &mut Errors, path: &Path, target: &str) {
    if target.split('/').any(|part| part == "..") {
        errs.push(FieldError::invalid(path, target, "must not contain '..'"));
    }
}

/// A path must be relative and not climb up.
pub fn descending_path(errs: &mut Errors, path: &Path, target: &str) {
    if target.starts_with('/') {
        errs.push(FieldError::invalid(path, target, "must be a relative path"));
    }
    no_backsteps(errs, path, target);
}

/// A path in a volume that we fill: relative, not climbing up, and not among our own files.
pub fn non_reserved_path(errs: &mut Errors, path: &Path, target: &str) {
    descending_path(errs, path, target);
    let caught = target == ".." || target.starts_with("../");
    if target.starts_with("..") && !caught {
        errs.push(FieldError::invalid(path, target, "must not start with '..'"));
    }
}

/// Checks the mounts of a container.
pub fn check(errs: &mut Errors, path: &Path, container: &Value, volumes: &Volumes<'_>) {
    let devices = list(container, "volumeDevices");
    let mut seen = BTreeSet::new();
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        let item = path.index(i);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errs.push(FieldError::required(item.child("name"), ""));
        }
        if !volumes.contains_key(name) {
            errs.push(FieldError::not_found(item.child("name"), name));
        }
        if target.is_empty() {
            errs.push(FieldError::required(item.child("mountPath"), ""));
        }
        if !seen.insert(target) {
            errs.push(FieldError::invalid(item.child("mountPath"), target, "must be unique"));
        }
        if devices.iter().any(|device| text(device, "name") == name) {
            errs.push(FieldError::invalid(item.child("name"), name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| text(device, "devicePath") == target) {
            let message = "must not already exist as a path in volumeDevices";
            errs.push(FieldError::invalid(item.child("mountPath"), target, message));
        }
        check_sub_paths(errs, path, &item, mount, volumes.get(name).is_some_and(|volume| has(volume, "image")));
        check_propagation(errs, path, mount, container);
    }
}

/// `list` is the path of all mounts: upstream reports some findings there.
fn check_sub_paths(errs: &mut Errors, list: &Path, item: &Path, mount: &Value, image: bool) {
    let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    if !sub.is_empty() {
        descending_path(errs, &list.child("subPath"), sub);
    }
    if !expression.is_empty() {
        if !sub.is_empty() {
            let message = "subPathExpr and subPath are mutually exclusive";
            errs.push(FieldError::invalid(item.child("subPathExpr"), expression, message));
        }
        descending_path(errs, &list.child("subPathExpr"), expression);
    }
    if image && !expression.is_empty() {
        errs.push(FieldError::invalid(item.child("subPathExpr"), expression, "not allowed in image volume sources"));
    }
}

fn check_propagation(errs: &mut Errors, list: &Path, mount: &Value, container: &Value) {
    let propagation = text(mount, "mountPropagation");
    if has(mount, "mountPropagation") {
        let path = list.child("mountPropagation");
        vocab::known_value(errs, &path, propagation, &["Bidirectional", "HostToContainer", "None"]);
        let privileged = on(get(container, "securityContext"), "privileged");
        if propagation == "Bidirectional" && !privileged {
            let message = "Bidirectional mount propagation is available only to privileged containers";
            errs.push(FieldError::forbidden(path, message));
        }
    }
    let Some(recursive) = some(mount, "recursiveReadOnly").and_then(Value::as_str) else { return };
    let path = list.child("recursiveReadOnly");
    vocab::known_value(errs, &path, recursive, &["Disabled", "Enabled", "IfPossible"]);
    if recursive == "Enabled" || recursive == "IfPossible" {
        if !on(mount, "readOnly") {
            errs.push(FieldError::forbidden(&path, "may only be specified when readOnly is true"));
        }
        if has(mount, "mountPropagation") && propagation != "None" {
            let message = "may only be specified when mountPropagation is None or not specified";
            errs.push(FieldError::forbidden(&path, message));
        }
    }
}

/// Checks the block devices of a container.
pub fn check_devices(errs: &mut Errors, path: &Path, container: &Value, volumes: &Volumes<'_>) {
    let mounts = list(container, "volumeMounts");
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in list(container, "volumeDevices").iter().enumerate() {
        let item = path.index(i);
        let (name_path, device_path) = (item.child("name"), item.child("devicePath"));
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        if name.is_empty() {
            errs.push(FieldError::required(&name_path, ""));
        }
        if !name.is_empty() && !names.insert(name) {
            errs.push(FieldError::invalid(&name_path, name, "must be unique"));
        }
        match volumes.get(name) {
            None => errs.push(FieldError::not_found(&name_path, name)),
            Some(volume) if !has(volume, "persistentVolumeClaim") && !has(volume, "ephemeral") => {
                let message = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errs.push(FieldError::invalid(&name_path, name, message));
            }
            Some(_) => {}
        }
        if target.is_empty() {
            errs.push(FieldError::required(&device_path, ""));
        }
        if paths.contains(target) {
            errs.push(FieldError::invalid(&device_path, target, "must be unique"));
        }
        if target.split('/').any(|part| part == "..") {
            errs.push(FieldError::invalid(&device_path, target, "can not contain backsteps ('..')"));
        } else {
            paths.insert(target);
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            errs.push(FieldError::invalid(&name_path, name, "must not already exist in volumeMounts"));
        }
        if mounts.iter().any(|mount| text(mount, "mountPath") == target) {
            errs.push(FieldError::invalid(&device_path, target, "must not already exist as a path in volumeMounts"));
        }
    }
}
