//! Where the data of a PersistentVolume lies. What pods can name as well is checked as there.

use serde_json::Value;

use super::super::template::{mounts, volumes};
use super::super::value::{get, has, some, text};
use super::super::vocab::Errors;
use super::check_driver;
use crate::{FieldError, Path};

/// The sources, in the order in which upstream looks at them.
pub const ALL: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// Checks that a spec has one source, and that one. `bound`: it says which nodes can reach it.
pub fn check(errs: &mut Errors, path: &Path, spec: &Value, bound: bool) {
    let mut found = false;
    for field in ALL {
        let Some(source) = some(spec, field) else { continue };
        if found {
            let second = if *field == "cephfs" { "cephFS" } else { field };
            errs.push(FieldError::forbidden(path.child(second), "may not specify more than 1 volume type"));
            continue;
        }
        found = true;
        match *field {
            "csi" => check_csi(errs, &path.child(field), source),
            "local" => {
                check_local(errs, &path.child(field), source);
                if !bound {
                    let message = "Local volume requires node affinity";
                    errs.push(FieldError::required(path.child("nodeAffinity"), message));
                }
            }
            field => volumes::check_named(errs, path, field, source),
        }
    }
    if !found {
        errs.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn check_local(errs: &mut Errors, path: &Path, source: &Value) {
    let target = text(source, "path");
    if target.is_empty() {
        errs.push(FieldError::required(path.child("path"), ""));
    } else {
        mounts::no_backsteps(errs, &path.child("path"), target);
    }
}

fn check_csi(errs: &mut Errors, path: &Path, source: &Value) {
    check_driver(errs, &path.child("driver"), text(source, "driver"));
    if text(source, "volumeHandle").is_empty() {
        errs.push(FieldError::required(path.child("volumeHandle"), ""));
    }
    const SECRETS: &[&str] =
        &["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"];
    for field in SECRETS.iter().filter(|field| has(source, field)) {
        for part in ["name", "namespace"] {
            if text(get(source, field), part).is_empty() {
                errs.push(FieldError::required(path.child(field).child(part), ""));
            }
        }
    }
}
