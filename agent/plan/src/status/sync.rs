//! Whether the API has a pod's status, and what is said to it.
//!
//! Invariants
//! - What the API shows is not sent; what was sent is not sent again before [`UNSEEN`] has passed without the API
//!   showing it.
//! - The parts of a status that are others' stay as the API has them.
//! - Times are counted from any fixed moment, by a clock that never goes back.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;

/// A status that the API does not show after this long is sent again.
pub const UNSEEN: Duration = Duration::from_secs(5);
/// Conditions that are the node's to set.
const OWN: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

/// What was said of one pod.
#[derive(Clone, Debug, Default)]
pub struct StatusSync {
    /// The status as last computed: the base of the next one until the API shows it.
    last: Option<PodStatus>,
    sent: Option<(PodStatus, Duration)>,
}

impl StatusSync {
    /// A master may have lost what was sent: it is due again.
    pub fn resend(&mut self) {
        self.sent = None;
    }

    /// Puts the node's own part of the last status over the API's, which may be behind.
    pub fn overlay(&self, api: &mut PodStatus) {
        if let Some(own) = &self.last {
            overlay(api, own);
        }
    }

    /// Takes the status as it is now; whether it must be sent.
    pub fn is_due(&mut self, new: &PodStatus, api: Option<&PodStatus>, now: Duration) -> bool {
        self.last = Some(new.clone());
        if api == Some(new) {
            self.sent = None;
            return false;
        }
        let waits = self.sent.as_ref().is_some_and(|(sent, at)| sent == new && now.saturating_sub(*at) < UNSEEN);
        !waits
    }

    /// It was sent.
    pub fn sent(&mut self, status: PodStatus, now: Duration) {
        self.sent = Some((status, now));
    }
}

fn overlay(api: &mut PodStatus, own: &PodStatus) {
    let is_own = |type_: &str| OWN.contains(&type_);
    let ours = own.conditions.iter().flatten().filter(|c| is_own(&c.type_));
    let theirs = api.conditions.iter().flatten().filter(|c| !is_own(&c.type_));
    api.conditions = Some(ours.chain(theirs).cloned().collect());
    api.start_time.clone_from(&own.start_time);
    api.init_container_statuses.clone_from(&own.init_container_statuses);
    api.container_statuses.clone_from(&own.container_statuses);
    api.ephemeral_container_statuses.clone_from(&own.ephemeral_container_statuses);
    api.pod_ips.clone_from(&own.pod_ips);
    let ended = |phase: &Option<String>| matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
    if !ended(&api.phase) {
        api.phase.clone_from(&own.phase);
        api.reason.clone_from(&own.reason);
        api.message.clone_from(&own.message);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;

    use super::*;

    fn status(phase: &str, conditions: &[(&str, &str)]) -> PodStatus {
        let condition = |(type_, status): &(&str, &str)| PodCondition {
            type_: (*type_).to_owned(),
            status: (*status).to_owned(),
            ..PodCondition::default()
        };
        PodStatus {
            phase: Some(phase.to_owned()),
            conditions: Some(conditions.iter().map(condition).collect()),
            ..PodStatus::default()
        }
    }

    #[test]
    fn a_status_is_sent_until_the_api_shows_it() {
        let (one, two) = (status("Pending", &[]), status("Running", &[]));
        let mut sync = StatusSync::default();
        for (name, new, api, second, expect) in [
            ("the API has it", &one, &one, 0, false),
            ("a new one", &two, &one, 1, true),
            ("not again at once", &two, &one, 5, false),
            ("again when nothing is heard of it", &two, &one, 6, true),
            ("the API has it now", &two, &two, 7, false),
            ("the API lost it", &two, &one, 8, true),
            ("another one", &one, &two, 9, true),
        ] {
            let now = Duration::from_secs(second);
            let due = sync.is_due(new, Some(api), now);
            assert_eq!(due, expect, "{name}");
            if due {
                sync.sent(new.clone(), now);
            }
        }
        sync.resend();
        assert!(sync.is_due(&one, Some(&two), Duration::from_secs(9)), "a new session");
    }

    #[test]
    fn others_conditions_and_a_final_phase_stay() {
        let mut sync = StatusSync::default();
        let mut api = status("Failed", &[("Ready", "True"), ("example.com/gate", "True")]);
        sync.overlay(&mut api);
        assert_eq!(api.phase.as_deref(), Some("Failed"), "nothing is known yet");
        sync.is_due(&status("Running", &[("Ready", "False"), ("example.com/gate", "False")]), None, Duration::ZERO);
        sync.overlay(&mut api);
        let shown: Vec<_> = api.conditions.iter().flatten().map(|c| format!("{}={}", c.type_, c.status)).collect();
        assert_eq!(shown, ["Ready=False", "example.com/gate=True"]);
        assert_eq!(api.phase.as_deref(), Some("Failed"));
    }
}
