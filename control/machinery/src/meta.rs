//! Metadata rules shared by all kinds (`apimachinery/pkg/api/validation`), and the system fields.
//!
//! Names, labels and annotations are checked here and nowhere else; wording is upstream's.

use kontiki_model::GroupVersionKind;
use serde_json::{Map, Value};

use crate::{FieldError, Path};

/// A rule for names. The flag says that it is a `generateName` prefix. Empty answer: legal.
pub type NameRule<'a> = &'a dyn Fn(&str, bool) -> Vec<String>;

/// All annotations of an object, keys and values, in bytes.
pub const MAX_ANNOTATIONS: usize = 256 * 1024;

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_FMT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const KEY_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const VALUE_FMT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_RULE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const KEY_RULE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const VALUE_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// `rule (e.g. 'a',  or 'b', regex used for validation is '…')`, the form of all rules about characters.
#[must_use]
pub fn regex_rule(rule: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{rule} (regex used for validation is '{format}')");
    }
    let shown: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{rule} (e.g. {}regex used for validation is '{format}')", shown.join(" or "))
}

/// `must be no more than N characters`.
#[must_use]
pub fn max_length_rule(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn edges_alphanumeric(text: &str, inner: fn(u8) -> bool, edge: fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        bytes => edge(bytes[0]) && edge(bytes[bytes.len() - 1]) && bytes.iter().all(|b| inner(*b)),
    }
}

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn matches_label(text: &str) -> bool {
    edges_alphanumeric(text, |b| lower_or_digit(b) || b == b'-', lower_or_digit)
}

fn matches_subdomain(text: &str) -> bool {
    text.split('.').all(matches_label)
}

fn matches_key(text: &str) -> bool {
    edges_alphanumeric(text, |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b), |b| b.is_ascii_alphanumeric())
}

/// Why a text is no DNS label (RFC 1123).
#[must_use]
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push(max_length_rule(63));
    }
    if !matches_label(text) {
        out.push(if matches_subdomain(text) {
            "must not contain dots".into()
        } else {
            regex_rule(LABEL_RULE, LABEL_FMT, &["my-name", "123-abc"])
        });
    }
    out
}

/// Why a text is no DNS subdomain (RFC 1123).
#[must_use]
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 253 {
        out.push(max_length_rule(253));
    }
    if !matches_subdomain(text) {
        out.push(regex_rule(SUBDOMAIN_RULE, SUBDOMAIN_FMT, &["example.com"]));
    }
    out
}

/// Why a text is no DNS label in the older sense (RFC 1035): it must start with a letter.
#[must_use]
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push(max_length_rule(63));
    }
    if !matches_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        out.push(regex_rule(DNS1035_RULE, DNS1035_FMT, &["my-name", "abc-123"]));
    }
    out
}

/// Why a text is no label key (upstream's "qualified name").
#[must_use]
pub fn qualified_name(text: &str) -> Vec<String> {
    let rule = |start: &str| format!("{start} {}", regex_rule(KEY_RULE, KEY_FMT, &["MyName", "my.name", "123-abc"]));
    let mut out = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".into());
            } else {
                out.extend(dns1123_subdomain(prefix).into_iter().map(|why| format!("prefix part {why}")));
            }
            *name
        }
        _ => {
            return vec![format!(
                "{} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                rule("a valid label key")
            )];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        out.push("name part must be no more than 63 bytes".into());
    }
    if !matches_key(name) {
        out.push(rule("name part"));
    }
    out
}

/// Why a text is no label value.
#[must_use]
pub fn label_value(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push("must be no more than 63 bytes".into());
    }
    if !text.is_empty() && !matches_key(text) {
        out.push(regex_rule(VALUE_RULE, VALUE_FMT, &["MyValue", "my_value", "12345"]));
    }
    out
}

/// A prefix may end in a dash, because something follows it.
fn mask_dash(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(rest) if prefix && !rest.is_empty() => {
            let mut kept = rest.to_owned();
            kept.pop();
            kept.push('a');
            kept
        }
        _ => name.to_owned(),
    }
}

/// `NameIsDNSSubdomain`: the rule of most kinds.
#[must_use]
pub fn name_is_dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    dns1123_subdomain(&mask_dash(name, prefix))
}

/// The same rule where a type declares it (`k8s-long-name`): what is too long is told in bytes.
#[must_use]
pub fn long_name_errors(name: &str, prefix: bool) -> Vec<String> {
    let told =
        |error: String| if error == max_length_rule(253) { "must be no more than 253 bytes".into() } else { error };
    name_is_dns_subdomain(name, prefix).into_iter().map(told).collect()
}

/// `NameIsDNSLabel`: namespaces, services and others.
#[must_use]
pub fn name_is_dns_label(name: &str, prefix: bool) -> Vec<String> {
    dns1123_label(&mask_dash(name, prefix))
}

/// `NameIsDNS1035Label`.
#[must_use]
pub fn name_is_dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    dns1035_label(&mask_dash(name, prefix))
}

/// What every name must obey because it stands in paths (`ValidatePathSegmentName`).
#[must_use]
pub fn name_is_path_segment(name: &str, prefix: bool) -> Vec<String> {
    let mut out = Vec::new();
    if !prefix {
        out.extend([".", ".."].iter().filter(|banned| name == **banned).map(|banned| format!("may not be '{banned}'")));
    }
    out.extend(
        ["/", "%"].iter().filter(|banned| name.contains(**banned)).map(|banned| format!("may not contain '{banned}'")),
    );
    out
}

fn text<'a>(meta: &'a Value, field: &str) -> &'a str {
    meta[field].as_str().unwrap_or_default()
}

fn map<'a>(meta: &'a Value, field: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
    meta[field].as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

/// Checks labels.
#[must_use]
pub fn validate_labels(labels: &Value, path: &Path) -> Vec<FieldError> {
    let mut out = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        out.extend(qualified_name(key).into_iter().map(|why| FieldError::invalid(path, key.as_str(), why)));
        let value = value.as_str().unwrap_or_default();
        out.extend(label_value(value).into_iter().map(|why| FieldError::invalid(path, value, why)));
    }
    out
}

/// Checks annotations.
#[must_use]
pub fn validate_annotations(annotations: &Value, path: &Path) -> Vec<FieldError> {
    let mut out = Vec::new();
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        out.extend(
            qualified_name(&key.to_lowercase()).into_iter().map(|why| FieldError::invalid(path, key.as_str(), why)),
        );
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        out.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
    out
}

fn validate_owner(owner: &Value, path: &Path) -> Vec<FieldError> {
    let mut out = Vec::new();
    let version = text(owner, "apiVersion");
    let malformed = version.matches('/').count() > 1;
    let gvk = GroupVersionKind::new(if malformed { "" } else { version }, text(owner, "kind"));
    if gvk.version.is_empty() {
        out.push(FieldError::invalid(path.child("apiVersion"), version, "version must not be empty"));
    }
    for field in ["kind", "name", "uid"] {
        if text(owner, field).is_empty() {
            out.push(FieldError::invalid(path.child(field), "", "must not be empty"));
        }
    }
    if gvk.group.is_empty() && gvk.version == "v1" && gvk.kind == "Event" {
        out.push(FieldError::invalid(path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner"));
    }
    out
}

fn validate_owners(owners: &Value, path: &Path) -> Vec<FieldError> {
    let mut out = Vec::new();
    let mut controller: Option<String> = None;
    for owner in owners.as_array().into_iter().flatten() {
        out.extend(validate_owner(owner, path));
        if owner["controller"] != true {
            continue;
        }
        let name = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
        match &controller {
            Some(first) => {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                out.push(FieldError::invalid(path, owners.clone(), detail));
            }
            None => controller = Some(name),
        }
    }
    out
}

fn validate_finalizers(finalizers: &Value, path: &Path) -> Vec<FieldError> {
    let names = || finalizers.as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut out = Vec::new();
    for name in names() {
        out.extend(qualified_name(name).into_iter().map(|why| FieldError::invalid(path, name, why)));
    }
    if names().any(|n| n == "orphan") && names().any(|n| n == "foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        out.push(FieldError::invalid(path, finalizers.clone(), detail));
    }
    out
}

/// A finalizer without a domain must be one of upstream's own.
fn validate_finalizer_domains(finalizers: &Value, path: &Path) -> Vec<FieldError> {
    let names = finalizers.as_array().into_iter().flatten().filter_map(Value::as_str).enumerate();
    names
        .filter(|(_, name)| !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(name))
        .map(|(index, name)| {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            FieldError::invalid(path.index(index), name, detail)
        })
        .collect()
}

fn validate_namespace(meta: &Value, namespaced: bool, path: &Path) -> Vec<FieldError> {
    let namespace = text(meta, "namespace");
    let path = path.child("namespace");
    match (namespaced, namespace) {
        (true, "") => vec![FieldError::required(path, "")],
        (true, namespace) => {
            dns1123_label(namespace).into_iter().map(|why| FieldError::invalid(&path, namespace, why)).collect()
        }
        (false, "") => Vec::new(),
        (false, _) => vec![FieldError::forbidden(path, "not allowed on this type")],
    }
}

/// Checks the metadata of a new object whose name has been generated already.
#[must_use]
pub fn validate_object_meta(obj: &Value, namespaced: bool, rule: NameRule<'_>) -> Vec<FieldError> {
    let mut out = validate_generic_meta(obj, namespaced, rule);
    out.extend(validate_finalizer_domains(&obj["metadata"]["finalizers"], &Path::new("metadata").child("finalizers")));
    out
}

/// The same where finalizers need no domain: custom kinds, and the kinds that say which kinds there are.
#[must_use]
pub fn validate_generic_meta(obj: &Value, namespaced: bool, rule: NameRule<'_>) -> Vec<FieldError> {
    validate_meta_at(&obj["metadata"], namespaced, rule, &Path::new("metadata"))
}

/// The same for metadata that stands elsewhere.
#[must_use]
pub fn validate_meta_at(meta: &Value, namespaced: bool, rule: NameRule<'_>, path: &Path) -> Vec<FieldError> {
    let mut out = Vec::new();
    let (prefix, name) = (text(meta, "generateName"), text(meta, "name"));
    if !prefix.is_empty() {
        out.extend(
            rule(prefix, true).into_iter().map(|why| FieldError::invalid(path.child("generateName"), prefix, why)),
        );
    }
    if name.is_empty() {
        out.push(FieldError::required(path.child("name"), "name or generateName is required"));
    } else {
        let why = rule(name, false);
        let why = if why.is_empty() { name_is_path_segment(name, false) } else { why };
        out.extend(why.into_iter().map(|why| FieldError::invalid(path.child("name"), name, why)));
    }
    out.extend(validate_namespace(meta, namespaced, path));
    out.extend(validate_generation(meta, path));
    out.extend(validate_labels(&meta["labels"], &path.child("labels")));
    out.extend(validate_annotations(&meta["annotations"], &path.child("annotations")));
    out.extend(validate_owners(&meta["ownerReferences"], &path.child("ownerReferences")));
    out.extend(validate_finalizers(&meta["finalizers"], &path.child("finalizers")));
    out
}

fn generation(meta: &Value) -> i64 {
    meta["generation"].as_i64().unwrap_or(0)
}

fn validate_generation(meta: &Value, path: &Path) -> Option<FieldError> {
    let value = generation(meta);
    (value < 0).then(|| FieldError::invalid(path.child("generation"), value, "must be greater than or equal to 0"))
}

/// Checks the metadata of an update, as the generic code of upstream's does.
#[must_use]
pub fn validate_object_meta_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old, path) = (&new["metadata"], &old["metadata"], Path::new("metadata"));
    let mut out = Vec::new();
    if !old["deletionTimestamp"].is_null() {
        out.extend(validate_no_new_finalizers(new, old, &path.child("finalizers")));
    }
    out.extend(validate_generation(new, &path));
    if generation(new) < generation(old) {
        out.push(FieldError::invalid(path.child("generation"), generation(new), "must not be decremented"));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new[field] != old[field] {
            out.push(FieldError::invalid(path.child(field), new[field].clone(), "field is immutable"));
        }
    }
    out.extend(validate_labels(&new["labels"], &path.child("labels")));
    out.extend(validate_annotations(&new["annotations"], &path.child("annotations")));
    out.extend(validate_owners(&new["ownerReferences"], &path.child("ownerReferences")));
    out
}

/// What the kinds' own validation of metadata adds on update.
#[must_use]
pub fn validate_kind_meta_update(new: &Value) -> Vec<FieldError> {
    validate_finalizer_domains(&new["metadata"]["finalizers"], &Path::new("metadata").child("finalizers"))
}

fn validate_no_new_finalizers(new: &Value, old: &Value, path: &Path) -> Option<FieldError> {
    let list = |meta: &Value| -> Vec<String> {
        meta["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let before = list(old);
    let mut extra: Vec<String> = list(new).into_iter().filter(|name| !before.contains(name)).collect();
    extra.sort();
    extra.dedup();
    if extra.is_empty() {
        return None;
    }
    let shown: Vec<String> = extra.iter().map(|name| crate::field_error::quote(name)).collect();
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        shown.join(", ")
    );
    Some(FieldError::forbidden(path, detail))
}

/// Letters of generated names: no vowels, so that no words appear.
const GENERATED: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name from a `generateName`: the prefix, cut to 58 bytes, and five letters drawn with `random`.
#[must_use]
pub fn generate_name(prefix: &str, random: [u8; 5]) -> String {
    let mut end = prefix.len().min(58);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    name.extend(random.iter().map(|byte| char::from(GENERATED[usize::from(*byte) % GENERATED.len()])));
    name
}

fn meta_mut(obj: &mut Value) -> Option<&mut Map<String, Value>> {
    obj.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

/// Sets the metadata that the server owns on a new object. `now` is an RFC 3339 time in whole seconds.
pub fn fill_system_fields(obj: &mut Value, uid: &str, now: &str) {
    let Some(meta) = meta_mut(obj) else { return };
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        meta.remove(field);
    }
    meta.insert("creationTimestamp".into(), now.into());
    meta.insert("uid".into(), uid.into());
}

/// Carries over to an update the metadata that the server owns: what a client leaves out it does
/// not mean to change, and generation and creation time it cannot change at all.
pub fn keep_system_fields(new: &mut Value, old: &Value) {
    let Some(meta) = meta_mut(new) else { return };
    let old = &old["metadata"];
    meta.remove("selfLink");
    for field in ["creationTimestamp", "generation"] {
        match &old[field] {
            Value::Null => meta.remove(field),
            value => meta.insert(field.into(), value.clone()),
        };
    }
    let being_deleted = !old["deletionTimestamp"].is_null();
    for field in ["uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        // Nobody takes back a deletion or changes its grace period by an update.
        let fixed = being_deleted && field != "uid";
        if !old[field].is_null() && (fixed || !meta.contains_key(field)) {
            meta.insert(field.into(), old[field].clone());
        }
    }
}

/// Drops owner references that repeat an earlier one. The answer is upstream's warning, if any went.
pub fn dedup_owners(obj: &mut Value) -> Option<String> {
    let owners = obj.get_mut("metadata")?.get_mut("ownerReferences")?.as_array_mut()?;
    let (mut kept, mut repeated): (Vec<Value>, Vec<String>) = (Vec::new(), Vec::new());
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            let uid = text(&owner, "uid").to_owned();
            if !repeated.contains(&uid) {
                repeated.push(uid);
            }
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    repeated.sort();
    (!repeated.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject \
             such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        )
    })
}

/// The labels of an object as pairs.
pub fn labels(obj: &Value) -> impl Iterator<Item = (&str, &str)> {
    map(&obj["metadata"], "labels")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn show(errors: &[FieldError]) -> Vec<String> {
        errors
            .iter()
            .map(|e| {
                let text = e.to_string();
                text.split(" (e.g.").next().unwrap_or_default().to_owned()
            })
            .collect()
    }

    #[test]
    fn new_metadata_is_judged_in_upstreams_words() {
        let long = "x".repeat(64);
        for (meta, expect) in [
            (json!({"name": "one", "namespace": "a"}), vec![]),
            (json!({"namespace": "a"}), vec!["metadata.name: Required value: name or generateName is required"]),
            (json!({"name": "one"}), vec!["metadata.namespace: Required value"]),
            (
                json!({"name": "a_b", "namespace": "a"}),
                vec![
                    "metadata.name: Invalid value: \"a_b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
                ],
            ),
            (json!({"name": "one", "generateName": "gen-", "namespace": "a"}), vec![]),
            (
                json!({"name": "one", "namespace": "a", "generation": -7}),
                vec!["metadata.generation: Invalid value: -7: must be greater than or equal to 0"],
            ),
            (
                json!({"name": "one", "namespace": "a", "labels": {"a": long}}),
                vec![
                    "metadata.labels: Invalid value: \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\": must be no more than 63 bytes",
                ],
            ),
            (
                json!({"name": "one", "namespace": "a", "labels": {"/a": ""}}),
                vec!["metadata.labels: Invalid value: \"/a\": prefix part must be non-empty"],
            ),
            (
                json!({"name": "one", "namespace": "a", "finalizers": ["plain"]}),
                vec![
                    "metadata.finalizers[0]: Invalid value: \"plain\": name is neither a standard finalizer name nor is it fully qualified",
                ],
            ),
            (
                json!({"name": "one", "namespace": "a", "ownerReferences": [{"apiVersion": "a/b/c", "kind": "X", "name": "o", "uid": "u"}]}),
                vec!["metadata.ownerReferences.apiVersion: Invalid value: \"a/b/c\": version must not be empty"],
            ),
            (
                json!({"name": "one", "namespace": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "o", "uid": "u"}]}),
                vec![
                    "metadata.ownerReferences: Invalid value: {\"apiVersion\":\"v1\",\"kind\":\"Event\",\"name\":\"o\",\"uid\":\"u\"}: /v1, Kind=Event is disallowed from being an owner",
                ],
            ),
            (
                json!({"name": "one", "namespace": "a", "annotations": {"a": "x".repeat(MAX_ANNOTATIONS)}}),
                vec!["metadata.annotations: Too long: may not be more than 262144 bytes"],
            ),
        ] {
            let errors = validate_object_meta(&json!({"metadata": meta}), true, &name_is_dns_subdomain);
            assert_eq!(show(&errors), expect, "{meta}");
        }
    }

    #[test]
    fn an_update_cannot_change_identity() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 2, "creationTimestamp": "2001-02-03T04:05:06Z"}});
        for (new, expect) in [
            (json!({"name": "a"}), vec![]),
            (json!({"name": "a", "uid": "2"}), vec!["metadata.uid: Invalid value: \"2\": field is immutable"]),
            (json!({"name": "a", "generation": 9, "creationTimestamp": "2002-02-03T04:05:06Z"}), vec![]),
            (
                json!({"name": "a", "deletionTimestamp": "2002-02-03T04:05:06Z"}),
                vec!["metadata.deletionTimestamp: Invalid value: \"2002-02-03T04:05:06Z\": field is immutable"],
            ),
        ] {
            let mut object = json!({"metadata": new});
            keep_system_fields(&mut object, &old);
            assert_eq!(show(&validate_object_meta_update(&object, &old)), expect, "{new}");
        }
        let dying =
            json!({"metadata": {"name": "a", "deletionTimestamp": "2001-02-03T04:05:06Z", "finalizers": ["x/a"]}});
        let mut object = json!({"metadata": {"name": "a", "finalizers": ["x/b", "x/a"]}});
        keep_system_fields(&mut object, &dying);
        assert_eq!(
            show(&validate_object_meta_update(&object, &dying)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/b\"}"
            ]
        );
    }

    #[test]
    fn repeated_owners_go() {
        let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "X", "name": "o", "uid": uid});
        let mut object = json!({"metadata": {"ownerReferences": [owner("1"), owner("2"), owner("1")]}});
        assert!(dedup_owners(&mut object).is_some_and(|text| text.ends_with("observed: 1")));
        assert_eq!(object["metadata"]["ownerReferences"], json!([owner("1"), owner("2")]));
        assert_eq!(dedup_owners(&mut object), None);
        assert_eq!(dedup_owners(&mut json!({})), None);
    }

    #[test]
    fn generated_names_fit() {
        assert_eq!(generate_name("web-", [0, 1, 26, 27, 255]), "web-bc9bq");
        assert_eq!(generate_name(&"g".repeat(100), [0; 5]).len(), 63);
        assert_eq!(generate_name(&"é".repeat(40), [0; 5]).chars().count(), 34);
    }
}
