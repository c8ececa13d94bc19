//! Patch: the three patch languages over the same loop as update. What is applied is not here, but in `apply`.

use bytes::Bytes;
use kontiki_machinery::decode::{Decoded, Findings, decode_json};
use kontiki_machinery::patch::{
    PatchError, go_print, json_patch, json_patch_findings, kind_changed, merge_patch, strategic_merge, unfit,
};
use kontiki_model::GroupVersionKind;
use serde_json::Value;

use crate::call::{Answer, Call};
use crate::codec::{self, Wanted};
use crate::params::FieldValidation;
use crate::verbs::change::{Decide, Decision, Round};
use crate::{PatchKind, Status};

const OPTIONS: &str = "PatchOptions";
/// Patches of objects whose type came at run time.
const UNTYPED: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

/// A patch, read.
struct Patch {
    kind: PatchKind,
    body: Value,
    /// What strict validation finds in the patch itself.
    findings: Findings,
    validation: FieldValidation,
}

/// A patch of what a call names.
struct Patching {
    patch: Patch,
    wanted: Wanted,
}

impl Decide for Patching {
    async fn decide(&self, call: &Call, round: Round<'_>) -> Result<Decision, Status> {
        let (patched, warnings) = call.patched(self, round.current)?;
        let decided = call.decide_replacement(round, patched).await;
        call.warned(warnings, decided)
    }
}

impl Call {
    /// Patches what this call names.
    pub async fn patch(&mut self, kind: PatchKind, data: Bytes) -> Result<Answer, Status> {
        if kind == PatchKind::Strategic && self.def.schema.structural().is_some() {
            // It goes by what only built-in types say.
            return Err(Status::unsupported_media_type(&UNTYPED));
        }
        let dry_run = self.params.dry_run(OPTIONS)?;
        let validation = self.params.field_validation(OPTIONS)?;
        self.params.check_patch(OPTIONS)?;
        let patch = read(kind, &data, validation)?;
        let wanted = codec::wanted(self);
        let changed = self.change(dry_run, &Patching { patch, wanted }).await?;
        self.answer_change(changed)
    }

    /// What the object, or its view, becomes by the patch, and what is to be warned about.
    fn patched(&self, Patching { patch, wanted }: &Patching, current: &Value) -> Result<(Value, Vec<String>), Status> {
        let base = match self.view() {
            Some(view) => view.of(current),
            None => current.clone(),
        };
        let mut patched = apply(patch, base, wanted)?;
        let warnings = self.check_patched(patch, wanted, &patched)?;
        codec::settle(&self.def, wanted, &mut patched);
        self.check_name(&patched)?;
        self.fit_namespace(&mut patched)?;
        Ok((patched, warnings))
    }

    /// Types and unknown fields of the result; gives what is to be warned about.
    fn check_patched(&self, patch: &Patch, wanted: &Wanted, patched: &Value) -> Result<Vec<String>, Status> {
        let shown = || match patch.kind {
            PatchKind::Strategic => go_print(&patch.body),
            PatchKind::Json | PatchKind::Merge => patched.to_string(),
        };
        let table = self.api.registry().table();
        let served = |gvk: &GroupVersionKind| table.find_kind(&gvk.group, &gvk.version, &gvk.kind).is_some();
        if let Some(detail) = kind_changed(served, patched, &wanted.gvk.api_version(), &wanted.gvk.kind) {
            return Err(unfit(&shown(), detail));
        }
        let problems = wanted.schema.check(patched);
        if let Some(error) = problems.error {
            let detail = if patch.kind == PatchKind::Strategic { error.converted() } else { error.to_string() };
            return Err(unfit(&shown(), detail));
        }
        let mut findings = patch.findings.clone();
        findings.extend(Findings::of_fields(wanted.schema.unknown_fields(patched)));
        match (patch.validation, findings.strict_error()) {
            (FieldValidation::Ignore, _) | (_, None) => Ok(Vec::new()),
            (FieldValidation::Strict, Some(text)) => Err(unfit(&shown(), text)),
            (FieldValidation::Warn, Some(_)) => Ok(findings.warnings()),
        }
    }
}

fn read(kind: PatchKind, data: &[u8], validation: FieldValidation) -> Result<Patch, Status> {
    let decoded: Decoded = decode_json(data).map_err(|error| match kind {
        PatchKind::Strategic => Status::bad_request(error.to_string()),
        PatchKind::Json | PatchKind::Merge => PatchError::Malformed(error.to_string()).status(),
    })?;
    if kind == PatchKind::Strategic && !decoded.value.is_object() {
        let found = if decoded.value.is_array() { "array" } else { "value" };
        return Err(Status::bad_request(format!(
            "json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
        )));
    }
    let findings = match kind {
        PatchKind::Json => json_patch_findings(&decoded),
        PatchKind::Merge | PatchKind::Strategic => decoded.duplicate_findings(),
    };
    Ok(Patch { kind, body: decoded.value, findings, validation })
}

fn apply(patch: &Patch, mut base: Value, wanted: &Wanted) -> Result<Value, Status> {
    let applied = match patch.kind {
        PatchKind::Json => json_patch(&mut base, &patch.body),
        PatchKind::Merge => merge_patch(&mut base, &patch.body),
        PatchKind::Strategic => strategic_merge(&base, &patch.body, &wanted.schema).map(|merged| base = merged),
    };
    applied.map(|()| base).map_err(|error| error.status())
}
