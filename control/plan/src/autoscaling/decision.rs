//! What is to be done about an autoscaler.

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus};

use super::COMPONENT;
use crate::action::{Action, EventRecord, reference};

/// What is to be done, and what is to be remembered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Another size for the target.
    pub rescale: Option<Asked>,
    /// The status, where it is to be written.
    pub status: Option<HorizontalPodAutoscalerStatus>,
    /// What to tell people.
    pub events: Vec<Tell>,
    /// What metrics ask for, whatever else bounds it.
    pub recommended: Option<i32>,
    /// The sizes before and after a change that was asked for and is seen now.
    pub done: Option<(i32, i32)>,
    /// What decided.
    pub why: &'static str,
}

/// Another size of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The size before.
    pub from: i32,
    /// The size that is asked for.
    pub to: i32,
    /// Why, for people.
    pub reason: String,
    /// The status that tells of it, without the time.
    pub status: HorizontalPodAutoscalerStatus,
}

/// A warning: reason and text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tell {
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Tell {
    pub(super) fn action(&self, about: &HorizontalPodAutoscaler) -> Action {
        Action::Event(EventRecord::warning(reference(about), COMPONENT, self.reason, self.message.clone()))
    }
}
