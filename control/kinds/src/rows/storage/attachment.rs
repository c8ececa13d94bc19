//! VolumeAttachments: which volume is to be at which node.

use serde_json::{Value, json};

use super::super::cells::{self, Cell};
use super::super::value::{at, copy, get, has, keep_meta, num, on, set, some, text, text_entries};
use super::super::vocab::{self, Errors};
use super::{check_driver, source, volume};
use crate::apply::Counted;
use crate::resource::status_alone;
use crate::{Bad, FieldError, Path, ResourceDef, Scope, Strategy, Verbs, meta};

/// Most bytes of what an attacher tells, and of an error.
const METADATA: usize = 256 << 10;
const MESSAGE: usize = 1024;

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        delete_returns_object: true,
        ..ResourceDef::new(
            super::GROUP,
            ("volumeattachments", "volumeattachment", "VolumeAttachment"),
            "io.k8s.api.storage.v1.VolumeAttachment",
            Attachments,
        )
    }
    .with_part("status", Verbs::PART)
}

struct Attachments;

impl Attachments {
    fn check(errs: &mut Errors, obj: &Value) {
        let (path, spec) = (Path::new("spec"), get(obj, "spec"));
        check_source(errs, &path.child("source"), get(spec, "source"));
        vocab::subdomain(errs, &path.child("nodeName"), text(spec, "nodeName"));
        check_status(errs, get(obj, "status"));
    }
}

impl Strategy for Attachments {
    fn counted(&self, sub: Option<&str>) -> Option<Counted> {
        status_alone(sub)
    }

    fn default(&self, obj: &mut Value) {
        if let Some(inline) = obj.pointer_mut("/spec/source/inlineVolumeSpec").filter(|inline| inline.is_object()) {
            volume::default_spec(inline);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({"attached": false}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            copy(new, old, "spec");
            keep_meta(new, old);
        } else {
            copy(new, old, "status");
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        check_driver(&mut errs, &Path::new("spec").child("attacher"), text(get(obj, "spec"), "attacher"));
        Self::check(&mut errs, obj);
        if let Some(name) = some(at(obj, &["spec", "source"]), "persistentVolumeName").and_then(Value::as_str) {
            vocab::subdomain(&mut errs, &Path::new("spec.source.persistentVolumeName"), name);
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = meta::validate_object_meta(new, false, &|name, prefix| self.name_errors(name, prefix));
        if text(get(new, "spec"), "attacher").is_empty() {
            errs.push(FieldError::required("spec.attacher", ""));
        }
        Self::check(&mut errs, new);
        if get(new, "spec") != get(old, "spec") {
            errs.push(FieldError::invalid("spec", shown(get(new, "spec")), vocab::IMMUTABLE));
        }
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        let spec = get(obj, "spec");
        vec![
            cells::name(obj),
            cells::of(text(spec, "attacher")),
            cells::of(text(get(spec, "source"), "persistentVolumeName")),
            cells::of(text(spec, "nodeName")),
            cells::of(on(get(obj, "status"), "attached")),
            cells::age(obj),
        ]
    }
}

/// A spec as upstream's internal type prints it.
fn shown(spec: &Value) -> Bad {
    let source = get(spec, "source");
    Bad::Raw(format!(
        "{{\"Attacher\":{},\"Source\":{{\"PersistentVolumeName\":{},\"InlineVolumeSpec\":{}}},\"NodeName\":{}}}",
        json!(text(spec, "attacher")),
        get(source, "persistentVolumeName"),
        get(source, "inlineVolumeSpec"),
        json!(text(spec, "nodeName")),
    ))
}

fn check_source(errs: &mut Errors, path: &Path, source: &Value) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (some(source, "inlineVolumeSpec"), some(source, "persistentVolumeName")) {
        (None, None) => errs.push(FieldError::required(path, ONE)),
        (Some(_), Some(_)) => errs.push(FieldError::forbidden(path, ONE)),
        (None, Some(name)) => {
            if name == "" {
                let message = "must specify non empty persistentVolumeName";
                errs.push(FieldError::required(path.child("persistentVolumeName"), message));
            }
        }
        (Some(spec), None) => check_inline(errs, &path.child("inlineVolumeSpec"), spec),
    }
}

/// A volume that has no object of its own: only what a driver needs.
fn check_inline(errs: &mut Errors, path: &Path, spec: &Value) {
    const INLINE: &str = "in the context of inline volumes";
    let mut not =
        |field: &str| errs.push(FieldError::forbidden(path.child(field), format!("may not be specified {INLINE}")));
    ["claimRef", "capacity"].iter().filter(|field| has(spec, field)).for_each(|field| not(field));
    if !has(spec, "csi") {
        errs.push(FieldError::required(path.child("csi"), format!("has to be specified {INLINE}")));
    }
    volume::check_access_modes_of(errs, path, spec);
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    if !["", "Retain"].contains(&policy) {
        let message = format!("may only be Retain {INLINE}");
        errs.push(FieldError::forbidden(path.child("persistentVolumeReclaimPolicy"), message));
    }
    if has(spec, "nodeAffinity") {
        errs.push(FieldError::forbidden(path.child("nodeAffinity"), format!("may not be specified {INLINE}")));
    }
    source::check(errs, path, spec, false);
    if !text(spec, "storageClassName").is_empty() {
        errs.push(FieldError::forbidden(path.child("storageClassName"), format!("may not be specified {INLINE}")));
    }
    if !["", "Filesystem"].contains(&text(spec, "volumeMode")) {
        let message = format!("may not specify volumeMode other than Filesystem {INLINE}");
        errs.push(FieldError::forbidden(path.child("volumeMode"), message));
    }
}

fn check_status(errs: &mut Errors, status: &Value) {
    let path = Path::new("status");
    if text_entries(status, "attachmentMetadata").map(|(key, value)| key.len() + value.len()).sum::<usize>() > METADATA
    {
        errs.push(FieldError::too_long(path.child("attachmentMetadata"), METADATA));
    }
    for field in ["attachError", "detachError"] {
        let (path, error) = (path.child(field), get(status, field));
        if text(error, "message").len() > MESSAGE {
            errs.push(FieldError::too_long(path.child("message"), METADATA));
        }
        let code = num(error, "errorCode");
        if code < 0 {
            errs.push(FieldError::invalid(path.child("errorCode"), code, vocab::between(0, i64::from(i32::MAX))));
        }
    }
}
