//! Secrets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::cells::{self, Cell};
use super::configmap::{MAX_SIZE, check_sealed, decoded};
use super::value::{annotation, child, count, default_text, fields, get, has, text, text_entries, unset};
use super::vocab::{self, Errors};
use crate::{FieldError, Path, ResourceDef, Strategy, key_pair, meta, resource::names};

/// The row.
#[must_use]
pub fn def() -> ResourceDef {
    ResourceDef {
        fields: names(&["type"]),
        ..ResourceDef::new(("", "v1"), ("secrets", "secret", "Secret"), SCHEMA, Secrets)
    }
}

const SCHEMA: &str = "io.k8s.api.core.v1.Secret";
const ACCOUNT: &str = "kubernetes.io/service-account.name";

struct Secrets;

impl Strategy for Secrets {
    fn default(&self, obj: &mut Value) {
        default_text(obj, "type", "Opaque");
        let plain: Vec<(String, String)> =
            text_entries(obj, "stringData").map(|(key, value)| (key.to_owned(), STANDARD.encode(value))).collect();
        unset(obj, "stringData");
        if !plain.is_empty() {
            fields(child(obj, "data")).extend(plain.into_iter().map(|(key, value)| (key, Value::String(value))));
        }
    }

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errs = Errors::new();
        let mut size = 0;
        let path = Path::new("data");
        for (key, value) in text_entries(obj, "data") {
            vocab::invalid(&mut errs, &path.key(key), key, vocab::config_key_errors(key));
            size += decoded(value).len();
        }
        if size > MAX_SIZE {
            errs.push(FieldError::too_long(&path, MAX_SIZE));
        }
        check_type(&mut errs, obj);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        vocab::immutable(&mut errs, "type", get(new, "type"), get(old, "type"));
        check_sealed(&mut errs, new, old, &["data"]);
        errs.extend(meta::validate_object_meta(new, true, &|name, prefix| self.name_errors(name, prefix)));
        errs.extend(self.validate(new));
        errs
    }

    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        if text(obj, "type") != "kubernetes.io/tls" {
            return Vec::new();
        }
        let [certificates, key] = ["tls.crt", "tls.key"].map(|name| decoded(text(get(obj, "data"), name)));
        key_pair::check(&certificates, &key).err().into_iter().collect()
    }

    fn row(&self, obj: &Value) -> Vec<Cell> {
        vec![cells::name(obj), cells::of(text(obj, "type")), cells::of(count(obj, "data")), cells::age(obj)]
    }
}

/// What each of the known types must hold.
fn check_type(errs: &mut Errors, obj: &Value) {
    let path = Path::new("data");
    let data = get(obj, "data");
    let mut missing = |key: &str| errs.push(FieldError::required(path.key(key), ""));
    match text(obj, "type") {
        "kubernetes.io/service-account-token" if annotation(obj, ACCOUNT).unwrap_or("").is_empty() => {
            errs.push(FieldError::required(Path::new("metadata").child("annotations").key(ACCOUNT), ""));
        }
        "kubernetes.io/dockercfg" => check_json(errs, &path.key(".dockercfg"), data.get(".dockercfg")),
        "kubernetes.io/dockerconfigjson" => {
            check_json(errs, &path.key(".dockerconfigjson"), data.get(".dockerconfigjson"))
        }
        "kubernetes.io/basic-auth" if !has(data, "username") && !has(data, "password") => {
            missing("username");
            missing("password");
        }
        "kubernetes.io/ssh-auth" if text(data, "ssh-privatekey").is_empty() => {
            missing("ssh-privatekey");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(data, key) {
                    missing(key);
                }
            }
        }
        _ => {}
    }
}

fn check_json(errs: &mut Errors, path: &Path, value: Option<&Value>) {
    let Some(value) = value.and_then(Value::as_str) else {
        errs.push(FieldError::required(path, ""));
        return;
    };
    if let Err(error) = serde_json::from_slice::<Map<String, Value>>(&decoded(value)) {
        errs.push(FieldError::invalid(path, "<secret contents redacted>", error.to_string()));
    }
}
