//! The spec in the form that upstream judges.

use serde_json::{Value, json};

use super::{Tolerated, check_names, schema};
use crate::{
    FieldError, Path, meta,
    rows::{
        clients,
        value::{get, has, list, on, some, text, texts},
        vocab::{self, Errors},
    },
};

/// Versions of reviews that a conversion webhook may speak.
pub(super) const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MAX_SELECTABLE: usize = 8;

/// The spec, with what its versions share.
pub(super) struct Spec<'a> {
    spec: &'a Value,
    versions: &'a [Value],
    /// Which fields of the versions are the same in all of them, and therefore stand at the top.
    shared: [bool; 4],
}

const FIELDS: [&str; 4] = ["schema", "subresources", "additionalPrinterColumns", "selectableFields"];

/// The schema of a version.
pub(super) fn schema_of(version: &Value) -> Option<&Value> {
    some(get(version, "schema"), "openAPIV3Schema")
}

impl<'a> Spec<'a> {
    pub fn of(spec: &'a Value) -> Self {
        let versions = list(spec, "versions");
        let shared = FIELDS.map(|field| {
            versions
                .first()
                .is_some_and(|first| versions.iter().all(|version| get(version, field) == get(first, field)))
        });
        Self { spec, versions, shared }
    }

    /// All schemas.
    pub fn schemas(&self) -> Vec<&'a Value> {
        self.versions.iter().filter_map(schema_of).collect()
    }

    /// A version, with no fields that all share; of the top, exactly those.
    fn parts(&self, version: &'a Value, top: bool) -> [Option<&'a Value>; 4] {
        let mut parts = FIELDS.map(|field| some(version, field));
        for (part, shared) in parts.iter_mut().zip(self.shared) {
            if shared != top {
                *part = None;
            }
        }
        parts
    }

    pub fn check(&self, errs: &mut Errors, tolerated: &Tolerated) {
        let path = Path::new("spec");
        check_group(errs, &path.child("group"), text(self.spec, "group"));
        vocab::one_of(errs, &path.child("scope"), text(self.spec, "scope"), &["Cluster", "Namespaced"]);
        self.check_presence(errs, &path, tolerated);
        let structural = !on(self.spec, "preserveUnknownFields") || !tolerated.loose;
        let has_status = |version: &Value| has(get(version, "subresources"), "status");
        for (i, version) in self.versions.iter().enumerate() {
            let path = path.child("versions").index(i);
            let problems = meta::dns1035_label(text(version, "name"));
            if !problems.is_empty() {
                errs.push(FieldError::invalid(path.child("name"), text(version, "name"), problems.join(",")));
            }
            check_deprecation(errs, &path.child("deprecationWarning"), version);
            let options = schema::Options { status: has_status(version), structural, tolerated };
            check_parts(errs, &path, ["schema", "selectableFields"], self.parts(version, false), &options);
        }
        self.check_versions(errs, &path);
        let names = get(self.spec, "names");
        for field in ["plural", "singular", "kind", "listKind"] {
            if text(names, field).is_empty() {
                errs.push(FieldError::required(path.child("names").child(field), ""));
            }
        }
        check_names(errs, &path.child("names"), names);
        if let Some(first) = self.versions.first() {
            let status = self.versions.iter().any(has_status);
            let options = schema::Options { status, structural, tolerated };
            check_parts(errs, &path, ["validation", "selectableFields"], self.parts(first, true), &options);
        }
        check_conversion(errs, &path.child("conversion"), self.spec, tolerated);
    }

    fn check_presence(&self, errs: &mut Errors, path: &Path, tolerated: &Tolerated) {
        for (i, version) in self.versions.iter().enumerate().filter(|(_, version)| schema_of(version).is_none()) {
            let path = path.child("versions").index(i).child("schema").child("openAPIV3Schema");
            if !tolerated.no_schema {
                errs.push(FieldError::required(path, ""));
            } else if on(version, "served") && !on(self.spec, "preserveUnknownFields") {
                errs.push(FieldError::required(path, "because otherwise all fields are pruned"));
            }
        }
        if on(self.spec, "preserveUnknownFields") && schema::any(&self.schemas(), |schema| has(schema, "default")) {
            let message = "must be false in order to use defaults in the schema";
            errs.push(FieldError::invalid(path.child("preserveUnknownFields"), true, message));
        }
    }

    fn check_versions(&self, errs: &mut Errors, path: &Path) {
        let names: Vec<&str> = self.versions.iter().map(|version| text(version, "name")).collect();
        let mut wrong = |why: &str| errs.push(FieldError::invalid(path.child("versions"), self.shown(), why));
        if names.iter().enumerate().any(|(i, name)| names[..i].contains(name)) {
            wrong("must contain unique version names");
        }
        if self.versions.iter().filter(|version| on(version, "storage")).count() != 1 {
            wrong("must have exactly one version marked as storage version");
        }
        if let Some(first) = names.first().filter(|first| !first.is_empty()) {
            let problems = meta::dns1035_label(first);
            if !problems.is_empty() {
                errs.push(FieldError::invalid(path.child("version"), *first, problems.join(",")));
            }
        }
    }

    /// The versions as upstream's internal type prints them.
    fn shown(&self) -> crate::Bad {
        let show = |version: &Value| {
            let [schema, subresources, columns, selectable] =
                self.parts(version, false).map(|part| part.unwrap_or(&Value::Null));
            format!(
                "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{schema},\"Subresources\":{subresources},\"AdditionalPrinterColumns\":{columns},\"SelectableFields\":{selectable}}}",
                json!(text(version, "name")),
                on(version, "served"),
                on(version, "storage"),
                on(version, "deprecated"),
                get(version, "deprecationWarning"),
            )
        };
        crate::Bad::Raw(format!("[{}]", self.versions.iter().map(show).collect::<Vec<_>>().join(",")))
    }
}

fn check_group(errs: &mut Errors, path: &Path, group: &str) {
    let problems = vocab::subdomain_errors(group);
    if group.is_empty() {
        errs.push(FieldError::required(path, ""));
    } else if !problems.is_empty() {
        errs.push(FieldError::invalid(path, group, problems.join(",")));
    } else if !group.contains('.') {
        errs.push(FieldError::invalid(path, group, "should be a domain with at least one dot"));
    }
}

fn check_deprecation(errs: &mut Errors, path: &Path, version: &Value) {
    let Some(warning) = some(version, "deprecationWarning").and_then(Value::as_str) else { return };
    let mut wrong = |why: String| errs.push(FieldError::invalid(path, warning, why));
    if !on(version, "deprecated") {
        return wrong("can only be set for deprecated versions".to_owned());
    }
    if warning.len() > 256 {
        wrong("must be <= 256 characters long".to_owned());
    }
    if warning.is_empty() {
        wrong("must not be an empty string".to_owned());
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        wrong(format!("must only contain printable UTF-8 characters; non-printable character found at index {at}"));
    }
}

/// What a version has of its own, or all share: schema, subresources, columns, selectable fields.
fn check_parts(
    errs: &mut Errors,
    path: &Path,
    [schema_at, selectable_at]: [&str; 2],
    [schema, subresources, columns, selectable]: [Option<&Value>; 4],
    options: &schema::Options<'_>,
) {
    let root = schema.and_then(|schema| some(schema, "openAPIV3Schema"));
    if let Some(root) = root {
        schema::check(errs, &path.child(schema_at).child("openAPIV3Schema"), root, options);
    }
    if let Some(scale) = subresources.and_then(|subresources| some(subresources, "scale")) {
        check_scale(errs, &path.child("subresources"), scale);
    }
    for (i, column) in columns.and_then(Value::as_array).into_iter().flatten().enumerate() {
        check_column(errs, &path.child("additionalPrinterColumns").index(i), column);
    }
    let Some(selectable) = selectable.and_then(Value::as_array).filter(|fields| !fields.is_empty()) else { return };
    // Where the schema is not of the same place, its twin has been refused already.
    let Some(root) = root else { return };
    check_selectable(errs, &path.child(selectable_at), selectable, root);
}

/// Whether a path is a plain one: `.a.b`.
fn is_simple(errs: &mut Errors, path: &Path, text: &str) -> bool {
    if text.starts_with('.') {
        return true;
    }
    errs.push(FieldError::invalid(path, text, "must be a simple json path starting with ."));
    false
}

fn check_scale(errs: &mut Errors, path: &Path, scale: &Value) {
    for (field, root) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let (at, value) = (path.child(&format!("scale.{field}")), text(scale, field));
        if value.is_empty() {
            errs.push(FieldError::required(at, ""));
        } else if is_simple(errs, &at, value) && !value.starts_with(&format!("{root}.")) {
            errs.push(FieldError::invalid(at, value, format!("should be a json path under {root}")));
        }
    }
    let (at, value) = (path.child("scale.labelSelectorPath"), text(scale, "labelSelectorPath"));
    let below = |root: &str| value.starts_with(root);
    if !value.is_empty() && is_simple(errs, &at, value) && !below(".spec.") && !below(".status.") {
        errs.push(FieldError::invalid(at, value, "should be a json path under either .spec or .status"));
    }
}

fn check_column(errs: &mut Errors, path: &Path, column: &Value) {
    if text(column, "name").is_empty() {
        errs.push(FieldError::required(path.child("name"), ""));
    }
    let known = format!("must be one of {}", COLUMN_TYPES.join(","));
    match text(column, "type") {
        "" => errs.push(FieldError::required(path.child("type"), known)),
        kind if !COLUMN_TYPES.contains(&kind) => errs.push(FieldError::invalid(path.child("type"), kind, known)),
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let message = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errs.push(FieldError::invalid(path.child("format"), format, message));
    }
    let (path, at) = (path.child("JSONPath"), text(column, "jsonPath"));
    if at.is_empty() {
        errs.push(FieldError::required(path, ""));
    } else {
        is_simple(errs, &path, at);
    }
}

fn check_selectable(errs: &mut Errors, path: &Path, fields: &[Value], root: &Value) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let (at, field) = (path.index(i).child("jsonPath"), text(field, "jsonPath"));
        if field.is_empty() {
            errs.push(FieldError::required(at, ""));
            continue;
        }
        let found = match schema::follow(root, field) {
            Ok(found) => found,
            Err(why) => {
                errs.push(FieldError::invalid(at, field, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if field.split('.').nth(1) == Some("metadata") {
            errs.push(FieldError::invalid(&at, field, "must not point to fields in metadata"));
        }
        if !["string", "boolean", "integer"].contains(&text(found, "type")) {
            let message = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errs.push(FieldError::invalid(&at, field, message));
        }
        if seen.contains(&field) {
            errs.push(FieldError::duplicate(at, field));
        } else {
            seen.push(field);
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errs.push(FieldError::too_many(path, seen.len(), MAX_SELECTABLE));
    }
}

fn check_conversion(errs: &mut Errors, path: &Path, spec: &Value, tolerated: &Tolerated) {
    let Some(conversion) = some(spec, "conversion") else { return };
    let (strategy, webhook) = (text(conversion, "strategy"), get(conversion, "webhook"));
    if strategy != "None" && on(spec, "preserveUnknownFields") {
        let message = "must be None if spec.preserveUnknownFields is true";
        errs.push(FieldError::invalid(path.child("strategy"), strategy, message));
    }
    vocab::one_of(errs, &path.child("strategy"), strategy, &["None", "Webhook"]);
    let (client, versions) = (some(webhook, "clientConfig"), texts(webhook, "conversionReviewVersions"));
    let (client_at, versions_at) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    if strategy != "Webhook" {
        let message = "should not be set when strategy is not set to Webhook";
        if client.is_some() {
            errs.push(FieldError::forbidden(client_at, message));
        }
        if !versions.is_empty() {
            errs.push(FieldError::forbidden(versions_at, message));
        }
        return;
    }
    match client {
        None => errs.push(FieldError::required(client_at, "required when strategy is set to Webhook")),
        Some(client) => clients::check(errs, &client_at, client, "exactly one of url or service is required"),
    }
    if versions.is_empty() {
        errs.push(FieldError::required(versions_at, ""));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errs.push(FieldError::invalid(versions_at.index(i), *version, "duplicate version"));
        } else {
            vocab::invalid(errs, &versions_at.index(i), *version, meta::dns1035_label(version));
        }
    }
    if !tolerated.reviews && !REVIEWS.iter().any(|known| versions.contains(known)) {
        let message = format!("must include at least one of {}", REVIEWS.join(", "));
        errs.push(FieldError::invalid(versions_at, json!(versions), message));
    }
}
