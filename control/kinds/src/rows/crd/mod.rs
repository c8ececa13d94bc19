//! CustomResourceDefinitions.
//!
//! Upstream judges a form in which what all versions share (schema, subresources, columns, selectable fields) stands once,
//! at the top: its findings carry paths of that form, and so do ours ([`Spec`]).
//!
//! The kinds that they define are served by [`crate::custom`].

mod rules;
mod schema;
mod spec;
mod structural;
mod warnings;

use serde_json::{Value, json};

use super::fit;
use super::value::{
    carry_generation, child, copy, default_text, default_to, get, has, list, on, set, set_generation, some_mut, text,
    texts,
};
use super::vocab::{self, Errors};
use crate::{FieldError, Path, ResourceDef, Scope, Strategy, Verbs, meta, resource::names};
use spec::Spec;

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        scope: Scope::Cluster,
        short: names(&["crd", "crds"]),
        categories: names(&["api-extensions"]),
        ..ResourceDef::new(
            ("apiextensions.k8s.io", "v1"),
            ("customresourcedefinitions", "customresourcedefinition", "CustomResourceDefinition"),
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
            Crds,
        )
    }
    .with_part("status", Verbs::PART)
}

/// Holds a definition until the objects of its kind are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const STATUS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus";

struct Crds;

impl Strategy for Crds {
    fn default(&self, obj: &mut Value) {
        let spec = child(obj, "spec");
        let names = child(spec, "names");
        let kind = text(names, "kind").to_owned();
        default_text(names, "singular", &kind.to_lowercase());
        if !kind.is_empty() {
            default_text(names, "listKind", &format!("{kind}List"));
        }
        default_to(spec, "conversion", json!({"strategy": "None"}));
        let service = some_mut(child(spec, "conversion"), "webhook")
            .and_then(|webhook| some_mut(webhook, "clientConfig"))
            .and_then(|client| some_mut(client, "service"));
        if let Some(service) = service {
            default_to(service, "port", 443);
        }
        if list(get(obj, "status"), "storedVersions").is_empty() {
            store_version(obj);
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        set(obj, "status", json!({}));
        store_version(obj);
        fit(STATUS, child(obj, "status"));
        set_generation(obj, 1);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        if sub == Some("status") {
            copy(new, old, "spec");
            carry_generation(new, old, false);
            return;
        }
        copy(new, old, "status");
        store_version(new);
        let changed = new.get("spec") != old.get("spec");
        carry_generation(new, old, changed);
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let (spec, name) = (get(obj, "spec"), text(get(obj, "metadata"), "name"));
        if name != format!("{}.{}", text(get(spec, "names"), "plural"), text(spec, "group")) && !name.is_empty() {
            let message = "must be spec.names.plural+\".\"+spec.group";
            errs.push(FieldError::invalid("metadata.name", name, message));
        }
        Spec::of(spec).check(&mut errs, &Tolerated::default());
        check_status(&mut errs, obj);
        check_approval(&mut errs, obj, None);
        if on(spec, "preserveUnknownFields") {
            errs.push(preserves());
        }
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if sub == Some("status") {
            check_names(
                &mut errs,
                &Path::new("status").child("acceptedNames"),
                get(get(new, "status"), "acceptedNames"),
            );
            return errs;
        }
        let (spec, before) = (get(new, "spec"), get(old, "spec"));
        Spec::of(spec).check(&mut errs, &Tolerated::of(before));
        let (names, then) = (get(spec, "names"), get(before, "names"));
        if established(old) {
            vocab::immutable(&mut errs, "spec.scope", get(spec, "scope"), get(before, "scope"));
            vocab::immutable(&mut errs, "spec.names.kind", get(names, "kind"), get(then, "kind"));
        }
        vocab::immutable(&mut errs, "spec.group", get(spec, "group"), get(before, "group"));
        vocab::immutable(&mut errs, "spec.names.plural", get(names, "plural"), get(then, "plural"));
        check_status(&mut errs, new);
        check_approval(&mut errs, new, Some(old));
        if on(spec, "preserveUnknownFields") && !on(before, "preserveUnknownFields") {
            errs.push(preserves());
        }
        errs
    }

    fn any_finalizers(&self) -> bool {
        true
    }

    fn managed_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    /// A definition stays, terminating, until the objects of its kind are gone.
    fn terminate(&self, obj: &mut Value, now: &str) -> Option<bool> {
        let metadata = child(obj, "metadata");
        if has(metadata, "deletionTimestamp") {
            return Some(list(metadata, "finalizers").is_empty());
        }
        set(metadata, "deletionTimestamp", now);
        default_to(metadata, "finalizers", json!([]));
        if let Some(finalizers) = metadata.get_mut("finalizers").and_then(Value::as_array_mut)
            && !finalizers.iter().any(|name| name == CLEANUP)
        {
            finalizers.push(CLEANUP.into());
        }
        let condition = json!({
            "type": "Terminating", "status": "True", "lastTransitionTime": now, "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        });
        let status = child(obj, "status");
        default_to(status, "conditions", json!([]));
        if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.retain(|condition| condition["type"] != "Terminating");
            conditions.push(condition);
        }
        Some(false)
    }

    fn ends_with_update(&self, _new: &Value, _old: &Value) -> bool {
        true
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::of(get(obj, "spec"), old.map(|old| get(old, "spec")))
    }
}

/// What is not held against an update, as it was so before.
#[derive(Default)]
pub(crate) struct Tolerated {
    /// Versions without a schema.
    no_schema: bool,
    /// Types that are none.
    types: bool,
    /// Schemas that are not structural.
    loose: bool,
    /// Sets of what is not compared as a whole.
    sets: bool,
    /// Keys of lists that may be absent.
    keys: bool,
    /// Conversion reviews of versions that nobody knows.
    reviews: bool,
    /// Schemas that are as they were.
    schemas: Vec<Value>,
    /// Expressions that were there.
    expressions: Vec<String>,
}

impl Tolerated {
    fn of(spec: &Value) -> Self {
        let schemas: Vec<&Value> = Spec::of(spec).schemas();
        let reviews = texts(get(get(spec, "conversion"), "webhook"), "conversionReviewVersions");
        Self {
            no_schema: list(spec, "versions").iter().any(|version| spec::schema_of(version).is_none()),
            types: schema::any(&schemas, schema::has_unknown_type),
            loose: schemas.iter().any(|schema| !structural::check(&Path::new(""), schema).is_empty()),
            sets: schema::any(&schemas, schema::is_loose_set),
            keys: schema::any(&schemas, schema::has_loose_keys),
            reviews: !reviews.is_empty() && !spec::REVIEWS.iter().any(|known| reviews.contains(known)),
            expressions: schemas.iter().flat_map(|schema| rules::expressions(schema)).collect(),
            schemas: schemas.into_iter().cloned().collect(),
        }
    }
}

fn established(obj: &Value) -> bool {
    let is = |c: &Value| text(c, "type") == "Established" && text(c, "status") == "True";
    list(get(obj, "status"), "conditions").iter().any(is)
}

/// Notes that objects may be stored in the storage version.
fn store_version(obj: &mut Value) {
    let versions = list(get(obj, "spec"), "versions");
    let Some(name) = versions.iter().find(|version| on(version, "storage")).map(|version| text(version, "name")) else {
        return;
    };
    let name = name.to_owned();
    let status = child(obj, "status");
    if !texts(status, "storedVersions").contains(&name.as_str()) {
        default_to(status, "storedVersions", json!([]));
        if let Some(stored) = status.get_mut("storedVersions").and_then(Value::as_array_mut) {
            stored.push(name.into());
        }
    }
}

fn preserves() -> FieldError {
    let message =
        "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
    FieldError::invalid("spec.preserveUnknownFields", true, message)
}

fn check_status(errs: &mut Errors, obj: &Value) {
    let (status, path) = (get(obj, "status"), Path::new("status"));
    check_names(errs, &path.child("acceptedNames"), get(status, "acceptedNames"));
    let (path, stored) = (path.child("storedVersions"), texts(status, "storedVersions"));
    if stored.is_empty() {
        errs.push(FieldError::invalid(path, Value::Null, "must have at least one stored version"));
        return;
    }
    let versions = list(get(obj, "spec"), "versions");
    for name in versions.iter().filter(|version| on(version, "storage")).map(|version| text(version, "name")) {
        if !stored.contains(&name) {
            errs.push(FieldError::invalid(&path, json!(stored), format!("must have the storage version {name}")));
        }
    }
    for (i, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| text(version, "name") == *name) {
            let message = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errs.push(FieldError::invalid(path.index(i), *name, message));
        }
    }
}

fn check_names(errs: &mut Errors, path: &Path, names: &Value) {
    let mut judge = |path: Path, value: &str, lower: bool| {
        let problems = meta::dns1035_label(&if lower { value.to_lowercase() } else { value.to_owned() }).join(",");
        if !value.is_empty() && !problems.is_empty() {
            let before = if lower { "may have mixed case, but should otherwise match: " } else { "" };
            errs.push(FieldError::invalid(path, value, format!("{before}{problems}")));
        }
    };
    for (field, lower) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        judge(path.child(field), text(names, field), lower);
    }
    let mut check_each = |field: &str| {
        for (i, name) in texts(names, field).iter().enumerate() {
            let problems = meta::dns1035_label(name);
            if !problems.is_empty() {
                errs.push(FieldError::invalid(path.child(field).index(i), *name, problems.join(",")));
            }
        }
    };
    check_each("shortNames");
    let (kind, list_kind) = (text(names, "kind"), text(names, "listKind"));
    check_each("categories");
    if !kind.is_empty() && kind == list_kind {
        let error = FieldError::invalid(path.child("listKind"), list_kind, "kind and listKind may not be the same");
        let at = errs.iter().position(|error| error.path.starts_with(path.child("categories").as_str()));
        errs.insert(at.unwrap_or(errs.len()), error);
    }
}

const APPROVED: &str = "api-approved.kubernetes.io";

/// Whether somebody approved of a kind in a group of Kubernetes: `None` if the annotation is missing.
fn approval(obj: &Value) -> Option<bool> {
    let said = text(get(get(obj, "metadata"), "annotations"), APPROVED);
    let is_url = said.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty()
            && scheme.bytes().all(|c| c.is_ascii_alphanumeric())
            && !rest.is_empty()
            && !rest.starts_with('/')
    });
    (!said.is_empty()).then(|| said.starts_with("unapproved") || is_url)
}

fn check_approval(errs: &mut Errors, obj: &Value, old: Option<&Value>) {
    let group = text(get(obj, "spec"), "group");
    let ours = ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}")));
    if !ours || old.is_some_and(|old| approval(old) == approval(obj)) {
        return;
    }
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let path = Path::new("metadata").child("annotations").key(APPROVED);
    let wanted = format!("protected groups must have approval annotation \"{APPROVED}\"");
    match approval(obj) {
        None => errs.push(FieldError::required(path, format!("{wanted}, {SEE}"))),
        Some(false) => {
            let said = text(get(get(obj, "metadata"), "annotations"), APPROVED);
            let message = format!("{wanted} with either a URL or a reason starting with \"unapproved\", {SEE}");
            errs.push(FieldError::invalid(path, said, message));
        }
        Some(true) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(schema: &Value) -> Value {
        json!({
            "metadata": {"name": "as.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "as", "kind": "A"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        })
    }

    fn found(mut obj: Value) -> Vec<String> {
        Crds.default(&mut obj);
        Crds.prepare_create(&mut obj);
        Crds.validate(&obj).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn schemas_are_structural() {
        let of = |field: Value| crd(&json!({"type": "object", "properties": {"a": field}}));
        for (what, obj, expect) in [
            ("good", of(json!({"type": "string"})), ""),
            ("any value", of(json!({"x-kubernetes-preserve-unknown-fields": true})), ""),
            (
                "int or string",
                of(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})),
                "",
            ),
            (
                "type within",
                of(json!({"type": "string", "allOf": [{"type": "string"}]})),
                "properties[a].allOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                "incomplete",
                crd(&json!({"type": "object", "anyOf": [{"properties": {"x": {"minimum": 1}}}]})),
                "openAPIV3Schema.properties[x]: Required value: because it is defined in spec.validation.openAPIV3Schema.anyOf[0].properties[x]",
            ),
            (
                "unique",
                of(json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true})),
                "uniqueItems cannot be set to true",
            ),
            (
                "map keys",
                of(json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}})),
                "must not be empty if x-kubernetes-list-type is map",
            ),
            ("nullable root", crd(&json!({"type": "object", "nullable": true})), "nullable cannot be true at the root"),
            ("array root", crd(&json!({"type": "array", "items": {"type": "string"}})), "must be object at the root"),
        ] {
            let found = found(obj);
            assert!(found.is_empty() == expect.is_empty() && found.join("; ").contains(expect), "{what}: {found:?}");
        }
    }

    #[test]
    fn rules_compile_and_cost_little() {
        let texts =
            |rules: Value| json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": rules}});
        let of = |field: Value| crd(&json!({"type": "object", "properties": {"a": field}}));
        let ruled = |rule: Value| of(json!({"type": "string", "maxLength": 9, "x-kubernetes-validations": [rule]}));
        let unbounded = json!({"type": "array", "items": {"type": "string"},
            "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]});
        for (what, obj, expect) in [
            ("good", ruled(json!({"rule": "self == 'x'"})), ""),
            (
                "no bool",
                ruled(json!({"rule": "self"})),
                "rule: Invalid value: {\"Rule\":\"self\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: cel expression must evaluate to a bool",
            ),
            (
                "message",
                ruled(json!({"rule": "true", "messageExpression": "1"})),
                "messageExpression must evaluate to a string",
            ),
            (
                "in items",
                of(texts(json!([{"rule": "self == oldSelf"}]))),
                "oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[a]",
            ),
            (
                "no old",
                ruled(json!({"rule": "true", "optionalOldSelf": true})),
                "may not be set if oldSelf is not used in rule",
            ),
            ("dear", of(unbounded), "estimated rule cost exceeds budget by factor of more than 100x"),
            (
                "dear in all",
                of(texts(json!(vec![json!({"rule": "self.matches('^[a-z]*$')"}); 60]))),
                "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema exceeds budget",
            ),
            (
                "broken type",
                of(json!({"type": "strin", "x-kubernetes-validations": [{"rule": "self +"}]})),
                "Unsupported value: \"strin\"",
            ),
        ] {
            let found = found(obj);
            assert!(found.is_empty() == expect.is_empty() && found.join("; ").contains(expect), "{what}: {found:?}");
        }
    }

    #[test]
    fn groups_of_kubernetes_need_approval() {
        for (annotation, expect) in [
            (None, "Required value: protected groups"),
            (Some("yes"), "with either a URL"),
            (Some("https://example.com/1"), ""),
            (Some("unapproved, experimental"), ""),
        ] {
            let mut obj = json!({"metadata": {}, "spec": {"group": "a.k8s.io"}});
            if let Some(annotation) = annotation {
                obj["metadata"]["annotations"] = json!({APPROVED: annotation});
            }
            let mut errs = Errors::new();
            check_approval(&mut errs, &obj, None);
            let found = errs.first().map(ToString::to_string).unwrap_or_default();
            assert!(found.contains(expect) && found.is_empty() == expect.is_empty(), "{annotation:?}: {found}");
        }
    }
}
