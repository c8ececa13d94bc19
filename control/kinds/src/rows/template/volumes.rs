//! Volumes and their sources.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::storage;
use super::super::value::{has, int, list, num, on, some, text};
use super::super::vocab::{self, Errors};
use super::mounts::{self, Volumes};
use super::{Context, credentials, env};
use crate::schema::quantity::Amount;
use crate::{FieldError, Path};

type Check = fn(&mut Errors, &Path, &Value);

/// Every source, in upstream's order: its field, the name in the path of a second source, and of
/// findings inside it (upstream spells some of them in its own way), and its check.
const SOURCES: &[(&str, &str, &str, Check)] = &[
    ("emptyDir", "emptyDir", "emptyDir", empty_dir),
    ("hostPath", "hostPath", "hostPath", host_path),
    ("gitRepo", "gitRepo", "gitRepo", git_repo),
    ("gcePersistentDisk", "gcePersistentDisk", "persistentDisk", |e, p, v| disk(e, p, v, "pdName")),
    ("awsElasticBlockStore", "awsElasticBlockStore", "awsElasticBlockStore", |e, p, v| disk(e, p, v, "volumeID")),
    ("secret", "secret", "secret", |e, p, v| keys(e, p, v, "secretName")),
    ("nfs", "nfs", "nfs", nfs),
    ("iscsi", "iscsi", "iscsi", iscsi),
    ("glusterfs", "glusterfs", "glusterfs", |e, p, v| required(e, p, v, &["endpoints", "path"])),
    ("flocker", "flocker", "flocker", flocker),
    ("persistentVolumeClaim", "persistentVolumeClaim", "persistentVolumeClaim", |e, p, v| {
        required(e, p, v, &["claimName"])
    }),
    ("rbd", "rbd", "rbd", |e, p, v| required(e, p, v, &["monitors", "image"])),
    ("cinder", "cinder", "cinder", |e, p, v| required(e, p, v, &["volumeID"])),
    ("cephfs", "cephFS", "cephfs", |e, p, v| required(e, p, v, &["monitors"])),
    ("quobyte", "quobyte", "quobyte", |e, p, v| required(e, p, v, &["registry", "volume"])),
    ("downwardAPI", "downwarAPI", "downwardAPI", downward),
    ("fc", "fc", "fc", fibre_channel),
    ("flexVolume", "flexVolume", "flexVolume", |e, p, v| required(e, p, v, &["driver"])),
    ("configMap", "configMap", "configMap", |e, p, v| keys(e, p, v, "name")),
    ("azureFile", "azureFile", "azureFile", |e, p, v| required(e, p, v, &["secretName", "shareName"])),
    ("vsphereVolume", "vsphereVolume", "vsphereVolume", |e, p, v| required(e, p, v, &["volumePath"])),
    ("photonPersistentDisk", "photonPersistentDisk", "photonPersistentDisk", |e, p, v| required(e, p, v, &["pdID"])),
    ("portworxVolume", "portworxVolume", "portworxVolume", |e, p, v| required(e, p, v, &["volumeID"])),
    ("azureDisk", "azureDisk", "azureDisk", |e, p, v| required(e, p, v, &["diskName", "diskURI"])),
    ("storageos", "storageos", "storageos", |e, p, v| required(e, p, v, &["volumeName"])),
    ("projected", "projected", "projected", projected),
    ("scaleIO", "scaleIO", "scaleIO", |e, p, v| required(e, p, v, &["gateway", "system", "volumeName"])),
    ("csi", "csi", "csi", csi),
    ("ephemeral", "ephemeral", "ephemeral", ephemeral),
    ("image", "image", "image", image),
];

/// Checks the volumes of a spec. Answers the sound ones: only those can be mounted.
pub fn check<'a>(errs: &mut Errors, path: &Path, volumes: &'a [Value], context: Context<'_>) -> Volumes<'a> {
    let mut sound = Volumes::new();
    let claims: BTreeSet<String> = volumes
        .iter()
        .filter(|volume| !context.pod_name.is_empty() && has(volume, "ephemeral"))
        .map(|volume| format!("{}-{}", context.pod_name, text(volume, "name")))
        .collect();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let before = errs.len();
        let name = text(volume, "name");
        check_source(errs, &path, volume, context);
        match name {
            "" => errs.push(FieldError::required(path.child("name"), "")),
            name => vocab::label(errs, &path.child("name"), name),
        }
        if sound.contains_key(name) {
            errs.push(FieldError::duplicate(path.child("name"), name));
        }
        if errs.len() == before {
            sound.insert(name, volume);
        }
        if let Some(claim) = some(volume, "persistentVolumeClaim").map(|claim| text(claim, "claimName"))
            && claims.contains(claim)
        {
            let path = path.child("persistentVolumeClaim").child("claimName");
            let message = "must not reference a PVC that gets created for an ephemeral volume";
            errs.push(FieldError::invalid(path, claim, message));
        }
    }
    sound
}

fn check_source(errs: &mut Errors, path: &Path, volume: &Value, context: Context<'_>) {
    let mut found = false;
    for (field, second, inner, check) in SOURCES {
        let Some(source) = some(volume, field) else { continue };
        if found {
            errs.push(FieldError::forbidden(path.child(second), "may not specify more than 1 volume type"));
            continue;
        }
        found = true;
        if *field == "image" && context.is_pod && text(source, "reference").is_empty() {
            errs.push(FieldError::required(path.child("image").child("reference"), ""));
        }
        check(errs, &path.child(inner), source);
    }
    if !found {
        errs.push(FieldError::required(path, "must specify a volume type"));
    }
    if has(volume, "ephemeral") && !context.pod_name.is_empty() {
        let name = text(volume, "name");
        let claim = format!("{}-{name}", context.pod_name);
        let messages = if name.is_empty() { Vec::new() } else { vocab::subdomain_errors(&claim) };
        for message in messages {
            errs.push(FieldError::invalid(path.child("name"), name, format!("PVC name \"{claim}\": {message}")));
        }
    }
}

/// Checks one source, `field` of the object at `path`.
pub fn check_named(errs: &mut Errors, path: &Path, field: &str, source: &Value) {
    if let Some((_, _, inner, check)) = SOURCES.iter().find(|(name, ..)| *name == field) {
        check(errs, &path.child(inner), source);
    }
}

fn required(errs: &mut Errors, path: &Path, source: &Value, fields: &[&str]) {
    for field in fields {
        if text(source, field).is_empty() && list(source, field).is_empty() {
            errs.push(FieldError::required(path.child(field), ""));
        }
    }
}

fn empty_dir(errs: &mut Errors, path: &Path, source: &Value) {
    if some(source, "sizeLimit").and_then(Amount::of).is_some_and(Amount::negative) {
        errs.push(FieldError::forbidden(path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity"));
    }
}

fn host_path(errs: &mut Errors, path: &Path, source: &Value) {
    let target = text(source, "path");
    if target.is_empty() {
        errs.push(FieldError::required(path.child("path"), ""));
        return;
    }
    mounts::no_backsteps(errs, &path.child("path"), target);
    const TYPES: &[&str] =
        &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    vocab::known_value(errs, &path.child("type"), text(source, "type"), TYPES);
}

fn git_repo(errs: &mut Errors, path: &Path, source: &Value) {
    required(errs, path, source, &["repository"]);
    mounts::descending_path(errs, &path.child("directory"), text(source, "directory"));
}

fn disk(errs: &mut Errors, path: &Path, source: &Value, name: &str) {
    required(errs, path, source, &[name]);
    let partition = num(source, "partition");
    if !(0..=255).contains(&partition) {
        errs.push(FieldError::invalid(path.child("partition"), partition, vocab::between(1, 255)));
    }
}

fn keys(errs: &mut Errors, path: &Path, source: &Value, name: &str) {
    required(errs, path, source, &[name]);
    vocab::file_mode(errs, &path.child("defaultMode"), int(source, "defaultMode"));
    for (i, item) in list(source, "items").iter().enumerate() {
        key_to_path(errs, &path.child("items").index(i), item);
    }
}

fn key_to_path(errs: &mut Errors, path: &Path, item: &Value) {
    required(errs, path, item, &["key", "path"]);
    mounts::non_reserved_path(errs, &path.child("path"), text(item, "path"));
    vocab::file_mode(errs, &path.child("mode"), int(item, "mode"));
}

fn nfs(errs: &mut Errors, path: &Path, source: &Value) {
    required(errs, path, source, &["server", "path"]);
    let target = text(source, "path");
    if !target.starts_with('/') {
        errs.push(FieldError::invalid(path.child("path"), target, "must be an absolute path"));
    }
}

fn iscsi(errs: &mut Errors, path: &Path, source: &Value) {
    required(errs, path, source, &["targetPortal", "iqn"]);
    let name = text(source, "iqn");
    if !name.is_empty() && !["iqn", "eui", "naa"].iter().any(|prefix| name.starts_with(prefix)) {
        errs.push(FieldError::invalid(path.child("iqn"), name, "must be valid format starting with iqn, eui, or naa"));
    }
    let lun = num(source, "lun");
    if !(0..=255).contains(&lun) {
        errs.push(FieldError::invalid(path.child("lun"), lun, vocab::between(0, 255)));
    }
    if (on(source, "chapAuthDiscovery") || on(source, "chapAuthSession")) && !has(source, "secretRef") {
        errs.push(FieldError::required(path.child("secretRef"), ""));
    }
}

fn flocker(errs: &mut Errors, path: &Path, source: &Value) {
    let (name, uuid) = (text(source, "datasetName"), text(source, "datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errs.push(FieldError::required(path, "one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        errs.push(FieldError::invalid(
            path,
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        ));
    }
    if name.contains('/') {
        errs.push(FieldError::invalid(path.child("datasetName"), name, "must not contain '/'"));
    }
}

fn fibre_channel(errs: &mut Errors, path: &Path, source: &Value) {
    let (targets, ids) = (list(source, "targetWWNs"), list(source, "wwids"));
    let at = path.child("targetWWNs");
    if targets.is_empty() && ids.is_empty() {
        errs.push(FieldError::required(&at, "must specify either targetWWNs or wwids, but not both"));
    }
    if !targets.is_empty() && !ids.is_empty() {
        let message = "targetWWNs and wwids can not be specified simultaneously";
        errs.push(FieldError::invalid(&at, Value::from(targets), message));
    }
    if !targets.is_empty() {
        match int(source, "lun") {
            None => errs.push(FieldError::required(path.child("lun"), "lun is required if targetWWNs is specified")),
            Some(lun) if !(0..=255).contains(&lun) => {
                errs.push(FieldError::invalid(path.child("lun"), lun, vocab::between(0, 255)));
            }
            Some(_) => {}
        }
    }
}

fn downward(errs: &mut Errors, path: &Path, source: &Value) {
    vocab::file_mode(errs, &path.child("defaultMode"), int(source, "defaultMode"));
    env::check_files(errs, path, source);
}

fn csi(errs: &mut Errors, path: &Path, source: &Value) {
    storage::check_driver(errs, &path.child("driver"), text(source, "driver"));
    if let Some(secret) = some(source, "nodePublishSecretRef") {
        required(errs, &path.child("nodePublishSecretRef"), secret, &["name"]);
    }
}

fn ephemeral(errs: &mut Errors, path: &Path, source: &Value) {
    let Some(template) = some(source, "volumeClaimTemplate") else {
        errs.push(FieldError::required(path.child("volumeClaimTemplate"), ""));
        return;
    };
    storage::claim::check_spec(errs, &path.child("volumeClaimTemplate").child("spec"), &template["spec"]);
}

fn image(errs: &mut Errors, path: &Path, source: &Value) {
    let policy = text(source, "pullPolicy");
    vocab::one_of(errs, &path.child("pullPolicy"), policy, &["Always", "IfNotPresent", "Never"]);
}

fn projected(errs: &mut Errors, path: &Path, source: &Value) {
    vocab::file_mode(errs, &path.child("defaultMode"), int(source, "defaultMode"));
    let mut taken = BTreeSet::new();
    for (i, projection) in list(source, "sources").iter().enumerate() {
        let item = path.child("sources").index(i);
        let mut kinds = 0;
        for kind in
            ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"]
        {
            let Some(inner) = some(projection, kind) else { continue };
            kinds += 1;
            let at = item.child(kind);
            match kind {
                "secret" | "configMap" => projected_keys(errs, path, &at, inner, &mut taken),
                "downwardAPI" => projected_files(errs, path, &at, inner, &mut taken),
                "serviceAccountToken" => token(errs, path, &at, inner),
                "clusterTrustBundle" => credentials::bundle(errs, path, &at, inner, &mut taken),
                _ => credentials::certificate(errs, path, &at, inner, &mut taken),
            }
        }
        if kinds > 1 {
            errs.push(FieldError::forbidden(item, "may not specify more than 1 volume type per source"));
        }
    }
}

fn projected_keys<'a>(errs: &mut Errors, volume: &Path, at: &Path, source: &'a Value, taken: &mut BTreeSet<&'a str>) {
    required(errs, at, source, &["name"]);
    for (i, item) in list(source, "items").iter().enumerate() {
        key_to_path(errs, &at.child("items").index(i), item);
        let path = text(item, "path");
        if !path.is_empty() && !taken.insert(path) {
            errs.push(FieldError::invalid(volume, text(source, "name"), "conflicting duplicate paths"));
        }
    }
}

fn projected_files<'a>(errs: &mut Errors, volume: &Path, at: &Path, source: &'a Value, taken: &mut BTreeSet<&'a str>) {
    for file in list(source, "items") {
        env::check_file(errs, at, file);
        let path = text(file, "path");
        if !path.is_empty() && !taken.insert(path) {
            errs.push(FieldError::invalid(volume, path, "conflicting duplicate paths"));
        }
    }
}

fn token(errs: &mut Errors, volume: &Path, at: &Path, source: &Value) {
    let seconds = num(source, "expirationSeconds");
    if seconds < 600 {
        let message = "may not specify a duration less than 10 minutes";
        errs.push(FieldError::invalid(at.child("expirationSeconds"), seconds, message));
    }
    if seconds > 1 << 32 {
        let message = "may not specify a duration larger than 2^32 seconds";
        errs.push(FieldError::invalid(at.child("expirationSeconds"), seconds, message));
    }
    match text(source, "path") {
        "" => errs.push(FieldError::required(volume.child("path"), "")),
        path => mounts::non_reserved_path(errs, &volume.child("path"), path),
    }
}
