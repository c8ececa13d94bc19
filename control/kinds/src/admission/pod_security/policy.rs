//! Levels and their versions, what namespaces say about them in labels, and judging a pod by one.

use std::fmt;

use serde_json::Value;

use super::pod::Pod;
use super::{baseline, restricted};
use crate::rows::value::{get, some};
use crate::{FieldError, Path};

/// The newest version of the policies: that of the API.
const NEWEST: u32 = 37;
const PREFIX: &str = "pod-security.kubernetes.io/";

/// How far a pod may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As far as it likes.
    #[default]
    Privileged,
    /// Not out of its containers by known ways.
    Baseline,
    /// As little as is good practice.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
}

/// A level as of a version of Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelVersion {
    /// The level.
    pub level: Level,
    /// The minor version; `None`: the latest.
    pub minor: Option<u32>,
}

impl LevelVersion {
    /// Reads `LEVEL` or `LEVEL:VERSION`. `None` if it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (level, version) = text.split_once(':').unwrap_or((text, "latest"));
        Some(Self { level: Level::parse(level)?, minor: parse_version(version)? })
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            None => write!(f, "{level}:latest"),
            Some(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

/// What a namespace is held to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What else is refused.
    pub enforce: LevelVersion,
    /// What else is noted.
    pub audit: LevelVersion,
    /// What else the client is warned of.
    pub warn: LevelVersion,
}

impl Policy {
    /// What a namespace's labels make of the default, and what is wrong with them. What cannot be read is as strict as
    /// can be.
    #[must_use]
    pub fn of(namespace: &Value, default: Self) -> (Self, Vec<FieldError>) {
        let labels = get(get(namespace, "metadata"), "labels");
        let (mut policy, mut errs) = (default, Vec::new());
        let label = |name: &str| some(labels, &format!("{PREFIX}{name}")).and_then(Value::as_str);
        for (name, of) in [("enforce", &mut policy.enforce), ("audit", &mut policy.audit), ("warn", &mut policy.warn)] {
            let path = |name: &str| Path::new("metadata").child("labels").key(&format!("{PREFIX}{name}"));
            if let Some(text) = label(name) {
                match Level::parse(text) {
                    Some(level) => *of = LevelVersion { level, minor: None },
                    None => {
                        *of = LevelVersion { level: Level::Restricted, minor: None };
                        errs.push(FieldError::invalid(
                            path(name),
                            text,
                            "must be one of privileged, baseline, restricted",
                        ));
                    }
                }
            }
            let version = format!("{name}-version");
            if let Some(text) = label(&version) {
                match parse_version(text) {
                    Some(minor) => of.minor = minor,
                    None => errs.push(FieldError::invalid(path(&version), text, "must be \"latest\" or \"v1.x\"")),
                }
            }
        }
        (policy, errs)
    }
}

fn parse_version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("v1.")?;
    let good = digits.bytes().all(|c| c.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| good).map(Some)
}

/// What of a pod is not of the level: upstream's sentence, or nothing.
#[must_use]
pub fn judge(policy: LevelVersion, meta: &Value, spec: &Value) -> Option<String> {
    let minor = policy.minor.unwrap_or(NEWEST).min(NEWEST);
    let pod = Pod { meta, spec, minor };
    let strict = policy.level == Level::Restricted;
    let applies = |since: u32| since <= minor;
    let replaced = |name: &str| {
        let by = restricted::INSTEAD.iter().find(|(own, _)| *own == name).map(|(_, by)| *by);
        strict && restricted::CHECKS.iter().any(|(own, (since, _))| Some(*own) == by && applies(*since))
    };
    let basic = baseline::CHECKS.iter().filter(|(name, _)| policy.level >= Level::Baseline && !replaced(name));
    let checks = basic.chain(restricted::CHECKS.iter().filter(|_| strict));
    let found = checks.filter(|(_, (since, _))| applies(*since)).filter_map(|(_, (_, check))| check(pod));
    let texts: Vec<String> = found
        .map(
            |found| if found.detail.is_empty() { found.reason } else { format!("{} ({})", found.reason, found.detail) },
        )
        .collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}
