//! What there is at the end of a run, without what differs by chance or by the time that a kill costs: generated names,
//! uids, times, versions, addresses, and which node a pod went to that may go to any.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::history::{History, aside};

/// The objects, in words, by kind and name; and how often each was made and removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndState {
    objects: BTreeMap<String, Vec<String>>,
    made: BTreeMap<String, [usize; 2]>,
}

/// Lists whose order says nothing.
const UNORDERED: &[&str] =
    &["endpoints", "active", "conditions", "ownerReferences", "finalizers", "succeeded", "failed", "addresses"];

/// How the volume with a pod's token is called, before what is random in it.
const TOKENS: &str = "kube-api-access-";

struct Normalizer<'a> {
    history: &'a History,
    generation: Value,
    /// Its node was chosen by chance.
    anywhere: bool,
}

impl Normalizer<'_> {
    fn text(&self, text: &str) -> String {
        let plain = |known: Option<&String>| known.cloned();
        if let Some(known) = plain(self.history.uids.get(text)).or_else(|| plain(self.history.names.get(text))) {
            return known;
        }
        if text.len() >= 20 && text.parse::<jiff::Timestamp>().is_ok() {
            return "a time".to_owned();
        }
        if text.parse::<std::net::IpAddr>().is_ok() {
            return "an address".to_owned();
        }
        // What admission gives each pod.
        if text.starts_with(TOKENS) {
            return TOKENS.to_owned();
        }
        let mut out = text.to_owned();
        for (name, plain) in self.history.names.iter().filter(|(name, _)| text.contains(name.as_str())) {
            out = out.replace(name, plain);
        }
        out
    }

    fn value(&self, key: &str, value: &Value) -> Value {
        match value {
            Value::String(_) if key == "nodeName" && self.anywhere => "a node".into(),
            Value::String(text) => self.text(text).into(),
            Value::Number(_) if key == "observedGeneration" => {
                if *value == self.generation { "this one" } else { "an earlier one" }.into()
            }
            Value::Array(items) => {
                let mut items: Vec<Value> = items.iter().map(|item| self.value("", item)).collect();
                if UNORDERED.contains(&key) {
                    items.sort_by_cached_key(Value::to_string);
                }
                Value::Array(items)
            }
            Value::Object(fields) => Value::Object(self.fields(fields)),
            other => other.clone(),
        }
    }

    fn fields(&self, fields: &Map<String, Value>) -> Map<String, Value> {
        let chance = ["managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"];
        let kept = fields.iter().filter(|(key, _)| !chance.contains(&key.as_str()));
        let mut out: Map<String, Value> = kept.map(|(key, value)| (self.text(key), self.value(key, value))).collect();
        if let Some(whose) = fields.get("uid").and_then(Value::as_str).and_then(|uid| self.history.uids.get(uid)) {
            out.insert("uid".to_owned(), whose.clone().into());
        }
        out
    }
}

fn manager(object: &Value) -> Option<&str> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)?["kind"].as_str()
}

/// What a run left.
pub fn end_state(history: &History) -> EndState {
    let mut objects: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, object) in history.objects.iter().filter(|(key, _)| !aside(key)) {
        let generation = object["metadata"]["generation"].clone();
        let normalizer = Normalizer { history, generation, anywhere: manager(object) != Some("DaemonSet") };
        objects.entry(history.plain(key)).or_default().push(normalizer.value("", object).to_string());
    }
    objects.values_mut().for_each(|alike| alike.sort());
    EndState { objects, made: history.made.clone() }
}

/// Where two texts begin to differ, with what is around.
fn around(expected: &str, found: &str) -> String {
    let same = expected.bytes().zip(found.bytes()).take_while(|(a, b)| a == b).count();
    let cut = |text: &str| {
        let bytes = text.as_bytes();
        let part = &bytes[same.saturating_sub(80).min(bytes.len())..(same + 120).min(bytes.len())];
        String::from_utf8_lossy(part).into_owned()
    };
    format!("…{}…\n      and not …{}…", cut(found), cut(expected))
}

impl EndState {
    /// What differs from the end of a run without a kill.
    pub fn differences(&self, expected: &Self) -> Vec<String> {
        let mut out = Vec::new();
        let keys: std::collections::BTreeSet<&String> = self.objects.keys().chain(expected.objects.keys()).collect();
        for key in keys {
            let none = Vec::new();
            let (found, wanted) = (self.objects.get(key).unwrap_or(&none), expected.objects.get(key).unwrap_or(&none));
            if found.len() != wanted.len() {
                out.push(format!("{key}: {} at the end, {} without a kill", found.len(), wanted.len()));
            }
            let unlike = found.iter().zip(wanted).find(|(found, wanted)| found != wanted);
            out.extend(unlike.map(|(found, wanted)| format!("{key}: {}", around(wanted, found))));
        }
        let keys: std::collections::BTreeSet<&String> = self.made.keys().chain(expected.made.keys()).collect();
        for key in keys {
            let (found, wanted) = (self.made.get(key).unwrap_or(&[0; 2]), expected.made.get(key).unwrap_or(&[0; 2]));
            if found != wanted {
                out.push(format!(
                    "{key}: made {} and removed {} times, {} and {} without a kill",
                    found[0], found[1], wanted[0], wanted[1]
                ));
            }
        }
        out
    }
}
