//! What masters and agents must agree on about Ingresses: whose they are, and what their annotations say.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::networking::v1::{Ingress, IngressBackend, IngressClass},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// The class that every cluster begins with.
pub const CLASS: &str = "kontiki";
/// The controller of classes that nodes serve.
pub const CONTROLLER: &str = "kontiki.dev/ingress";
/// The condition of a node that serves Ingresses, or should and cannot.
pub const CONDITION: &str = "IngressReady";
/// The type of Secrets with a certificate.
pub const CERTIFICATE: &str = "kubernetes.io/tls";
/// The annotation that named a class before there was a field for it.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// Annotation: plain requests are told to come again over TLS.
pub const REDIRECT: &str = "kontiki.dev/redirect-https";
/// Annotation: how long a request's body may be.
pub const MOST_BYTES: &str = "kontiki.dev/max-body-bytes";
/// Annotation: for how many seconds a backend may leave a request unanswered.
pub const PATIENCE: &str = "kontiki.dev/response-timeout-seconds";

/// The class that an Ingress names.
#[must_use]
pub fn class(ingress: &Ingress) -> Option<&str> {
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    named.or_else(|| annotation(&ingress.metadata, OLD_CLASS))
}

/// Whether nodes serve the Ingresses of a class.
#[must_use]
pub fn is_served(class: &IngressClass) -> bool {
    class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER)
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The Secrets that an Ingress takes certificates from, each once and in order.
#[must_use]
pub fn secrets(ingress: &Ingress) -> Vec<&str> {
    let tls = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
    let mut names: Vec<&str> = tls.filter_map(|tls| tls.secret_name.as_deref()).filter(|n| !n.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The backends of an Ingress.
pub fn backends(ingress: &Ingress) -> impl Iterator<Item = &IngressBackend> {
    let spec = ingress.spec.iter();
    spec.flat_map(|spec| {
        let http = spec.rules.iter().flatten().filter_map(|rule| rule.http.as_ref());
        http.flat_map(|http| http.paths.iter().map(|path| &path.backend)).chain(&spec.default_backend)
    })
}

/// What the annotations of an Ingress ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Plain requests are told to come again over TLS.
    pub redirect: bool,
    /// How long a request's body may be.
    pub most_bytes: Option<u64>,
    /// How long a backend may leave a request unanswered while nothing of it moves.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { redirect: false, most_bytes: None, patience: Duration::from_secs(60) }
    }
}

impl Options {
    /// What the annotations ask for. What is no value is as if it were not there, and is named.
    #[must_use]
    pub fn of(annotations: Option<&BTreeMap<String, String>>) -> (Self, Vec<String>) {
        let (mut options, mut wrong) = (Self::default(), Vec::new());
        let get = |name: &str| annotations.and_then(|all| all.get(name)).map(String::as_str);
        match get(REDIRECT) {
            None | Some("false") => {}
            Some("true") => options.redirect = true,
            Some(other) => wrong.push(format!("{REDIRECT}: {other:?} is neither \"true\" nor \"false\"")),
        }
        match get(MOST_BYTES).map(|text| (text, text.parse())) {
            None => {}
            Some((_, Ok(most))) => options.most_bytes = Some(most),
            Some((text, Err(_))) => wrong.push(format!("{MOST_BYTES}: {text:?} is not a number of bytes")),
        }
        match get(PATIENCE).map(|text| (text, text.parse())) {
            None => {}
            Some((_, Ok(seconds @ 1..=86_400))) => options.patience = Duration::from_secs(seconds),
            Some((text, _)) => wrong.push(format!("{PATIENCE}: {text:?} is not a number of seconds from 1 to 86400")),
        }
        (options, wrong)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_are_read_or_named() {
        for (annotations, expect, wrong) in [
            (json!({}), "false None 60", ""),
            (json!({REDIRECT: "true", MOST_BYTES: "1000", PATIENCE: "5"}), "true Some(1000) 5", ""),
            (json!({REDIRECT: "yes"}), "false None 60", REDIRECT),
            (json!({MOST_BYTES: "1Mi", REDIRECT: "true"}), "true None 60", MOST_BYTES),
            (json!({PATIENCE: "0"}), "false None 60", PATIENCE),
        ] {
            let all = serde_json::from_value(annotations).expect("texts");
            let (options, named) = Options::of(Some(&all));
            let Options { redirect, most_bytes, patience } = options;
            assert_eq!(format!("{redirect} {most_bytes:?} {}", patience.as_secs()), expect, "{all:?}");
            assert_eq!(named.len(), usize::from(!wrong.is_empty()), "{named:?}");
            assert!(named.iter().all(|text| text.starts_with(wrong)), "{named:?}");
        }
        assert_eq!(Options::of(None), (Options::default(), Vec::new()));
    }

    #[test]
    fn an_ingress_names_its_class_its_secrets_and_its_backends() {
        let backend = |name: &str| json!({"service": {"name": name, "port": {"number": 80}}});
        let ingress = json!({
            "metadata": {"annotations": {OLD_CLASS: "old"}},
            "spec": {
                "defaultBackend": backend("rest"),
                "rules": [{"host": "a"}, {"http": {"paths": [{"pathType": "Exact", "backend": backend("one")}]}}],
                "tls": [{"secretName": "b"}, {"secretName": "a"}, {}, {"secretName": ""}, {"secretName": "b"}],
            },
        });
        let mut ingress: Ingress = serde_json::from_value(ingress).expect("an Ingress");
        assert_eq!((class(&ingress), secrets(&ingress)), (Some("old"), vec!["a", "b"]));
        let names = backends(&ingress).filter_map(|backend| Some(backend.service.as_ref()?.name.as_str()));
        assert_eq!(names.collect::<Vec<_>>(), ["one", "rest"]);
        if let Some(spec) = &mut ingress.spec {
            spec.ingress_class_name = Some("new".into());
        }
        assert_eq!(class(&ingress), Some("new"));
        assert_eq!((class(&Ingress::default()), backends(&Ingress::default()).count()), (None, 0));
    }
}
