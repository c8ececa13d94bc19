//! Images: what a reference names, and when one is pulled.
//!
//! Invariants
//! - `Never` never pulls; `IfNotPresent` pulls only what is absent; `Always` asks the registry each time.
//! - A pull that fails again is no news: the status says `ImagePullBackOff` from the second failure on, and does not
//!   change while the reason stays the same.
//!
//! Not here: pulling, credentials and mirrors (the agent's images).

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{backoff::Backoff, start_failure::StartFailure};

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// The policy of a container. Without one, `latest` means `Always`, as upstream defaults it.
    #[must_use]
    pub fn of(policy: Option<&str>, image: &str) -> Self {
        match policy {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ if tag(image) == Some("latest") => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

/// The tag of a reference, `latest` if it has neither tag nor digest.
fn tag(image: &str) -> Option<&str> {
    if image.contains('@') {
        return None;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    Some(last.rsplit_once(':').map_or("latest", |(_, tag)| tag))
}

/// The registry host that an image reference names.
#[must_use]
pub fn registry_host(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// Whether the reference is one at all: containerd's own words are of little help otherwise.
#[must_use]
pub fn valid_reference(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or(image);
    let path = name.split_once('/').filter(|_| registry_host(name) != "docker.io").map_or(name, |(_, rest)| rest);
    let repository = match path.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => {
            let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if tag.is_empty() || tag.len() > 128 || !tag.chars().all(ok) {
                return false;
            }
            repository
        }
        _ => path,
    };
    let part = |p: &str| {
        !p.is_empty()
            && p.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
            && !p.starts_with(['.', '_', '-'])
            && !p.ends_with(['.', '_', '-'])
    };
    repository.split('/').all(part)
}

/// What is done for a container's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is here.
    Use,
    Pull,
    /// It is not here, and may not be pulled.
    Refuse,
    /// It could not be pulled, and is not tried again yet.
    Wait(BackOff),
}

/// Why, and until when, an image is not pulled again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackOff {
    pub until: Timestamp,
    /// The last pull's.
    pub reason: String,
}

/// A pull that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failed {
    backoff: Backoff,
    at: Timestamp,
    reason: String,
}

/// The pulls of one pod's images that failed, by image.
#[derive(Clone, Debug, Default)]
pub struct Pulls(BTreeMap<String, Failed>);

impl Pulls {
    /// What is done for an image that is `present` on the node, or is not.
    #[must_use]
    pub fn action(&self, policy: PullPolicy, present: bool, image: &str, now: Timestamp) -> Action {
        match (policy, present) {
            (PullPolicy::Never, false) => Action::Refuse,
            (PullPolicy::Never | PullPolicy::IfNotPresent, true) => Action::Use,
            (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, false) => {
                self.back_off(image, now).map_or(Action::Pull, Action::Wait)
            }
        }
    }

    fn back_off(&self, image: &str, now: Timestamp) -> Option<BackOff> {
        let Failed { backoff, at, reason } = self.0.get(image)?;
        let until = Backoff::until(Some(*backoff), *at).filter(|until| *until > now)?;
        Some(BackOff { until, reason: reason.clone() })
    }

    /// A pull succeeded.
    pub fn succeeded(&mut self, image: &str) {
        self.0.remove(image);
    }

    /// A pull failed. The back-off that the container shows at once because it was `shown` before; `None`: it shows
    /// `ErrImagePull` first.
    pub fn failed(
        &mut self,
        image: &str,
        reason: String,
        shown: Option<StartFailure>,
        now: Timestamp,
    ) -> Option<BackOff> {
        let backoff = Backoff::next(self.0.get(image).map(|failed| failed.backoff), now);
        self.0.insert(image.to_owned(), Failed { backoff, at: now, reason });
        if shown == Some(StartFailure::ImagePullBackOff) { self.back_off(image, now) } else { None }
    }
}

/// The text of an error without our own end of its connections: a port that is another one each time makes one
/// trouble look like many.
#[must_use]
pub fn without_own_end(error: &str) -> String {
    let words = error.split(' ').map(|word| word.split_once("->").map_or(word, |(_, far)| far));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn one_trouble_has_one_text() {
        for (error, expect) in [
            ("read udp 10.0.0.1:41234->10.0.0.2:53: i/o timeout", "read udp 10.0.0.2:53: i/o timeout"),
            ("dial tcp 10.0.0.2:80: connect: connection refused", "dial tcp 10.0.0.2:80: connect: connection refused"),
            ("no  such host", "no  such host"),
        ] {
            assert_eq!(without_own_end(error), expect);
        }
    }

    #[test]
    fn references_are_understood() {
        for (image, host, policy, valid) in [
            ("nginx", "docker.io", PullPolicy::Always, true),
            ("nginx:1.2", "docker.io", PullPolicy::IfNotPresent, true),
            ("library/nginx:latest", "docker.io", PullPolicy::Always, true),
            ("localhost/pause:1", "localhost", PullPolicy::IfNotPresent, true),
            ("10.0.0.1:5000/a/b", "10.0.0.1:5000", PullPolicy::Always, true),
            ("quay.io/a/b@sha256:00", "quay.io", PullPolicy::IfNotPresent, true),
            ("Bad_Image:1", "docker.io", PullPolicy::IfNotPresent, false),
            ("a:b:c", "docker.io", PullPolicy::IfNotPresent, false),
            ("nginx:", "docker.io", PullPolicy::IfNotPresent, false),
        ] {
            assert_eq!(registry_host(image), host, "{image}");
            assert_eq!(PullPolicy::of(None, image), policy, "{image}");
            assert_eq!(valid_reference(image), valid, "{image}");
        }
    }

    #[test]
    fn the_policy_decides() {
        let now = Timestamp::UNIX_EPOCH;
        for (name, policy, present, expect) in [
            ("never, absent", PullPolicy::Never, false, Action::Refuse),
            ("never, present", PullPolicy::Never, true, Action::Use),
            ("absent", PullPolicy::IfNotPresent, false, Action::Pull),
            ("present", PullPolicy::IfNotPresent, true, Action::Use),
            ("always, absent", PullPolicy::Always, false, Action::Pull),
            ("always, present", PullPolicy::Always, true, Action::Pull),
        ] {
            assert_eq!(Pulls::default().action(policy, present, "i", now), expect, "{name}");
        }
    }

    #[test]
    fn failed_pulls_wait_longer_and_longer() {
        let start = Timestamp::UNIX_EPOCH;
        let at = |second| start + SignedDuration::from_secs(second);
        let mut pulls = Pulls::default();
        let back_off = |until: i64, reason: &str| BackOff { until: at(until), reason: reason.to_owned() };
        let wait = |until, reason| Action::Wait(back_off(until, reason));
        assert_eq!(pulls.failed("i", "a".into(), None, at(0)), None, "the first failure is ErrImagePull");
        for (name, policy, present, second, expect) in [
            ("waits", PullPolicy::IfNotPresent, false, 9, wait(10, "a")),
            ("also for an image that is here", PullPolicy::Always, true, 9, wait(10, "a")),
            ("not for one that need not be pulled", PullPolicy::IfNotPresent, true, 9, Action::Use),
            ("then it is pulled", PullPolicy::IfNotPresent, false, 10, Action::Pull),
        ] {
            assert_eq!(pulls.action(policy, present, "i", at(second)), expect, "{name}");
        }
        let shown = Some(StartFailure::ImagePullBackOff);
        assert_eq!(
            pulls.failed("i", "b".into(), shown, at(10)),
            Some(back_off(30, "b")),
            "the second changes the reason only"
        );
        assert_eq!(pulls.action(PullPolicy::Always, false, "other", at(11)), Action::Pull, "each image for itself");
        pulls.succeeded("i");
        assert_eq!(pulls.action(PullPolicy::IfNotPresent, false, "i", at(11)), Action::Pull);
        assert_eq!(pulls.failed("i", "c".into(), None, at(12)), None);
        assert_eq!(pulls.action(PullPolicy::Always, true, "i", at(12)), wait(22, "c"), "a success makes it forget");
    }
}
