//! What failures mean, and when successes are enough.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use kontiki_model::indexes::Indexes;

use super::State;
use crate::object::{name, namespace};

/// What a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts, as failures do.
    Counts,
    /// It does not count.
    Ignored,
    /// Its index has failed.
    FailsIndex,
    /// The Job has failed, for this reason.
    FailsJob(String),
}

/// What the failure of a pod means. The first rule that matches says so.
pub(super) fn judge(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    let place = || format!("{}/{}", namespace(&pod.metadata), name(&pod.metadata));
    for (index, rule) in rules.enumerate() {
        let why = if let Some(wanted) = &rule.on_exit_codes {
            exit(pod, wanted).map(|(container, code)| {
                format!("Container {container} for pod {} failed with exit code {code}", place())
            })
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            condition(pod, patterns).map(|found| format!("Pod {} has condition {}", place(), found.type_))
        };
        let Some(why) = why else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignored,
            "FailIndex" => Verdict::FailsIndex,
            "FailJob" => Verdict::FailsJob(format!("{why} matching FailJob rule at index {index}")),
            _ => Verdict::Counts,
        };
    }
    Verdict::Counts
}

/// Whether the failure of a pod counts.
pub(super) fn counts(spec: &JobSpec, pod: &Pod) -> bool {
    judge(spec, pod) != Verdict::Ignored
}

/// The first container that ended with a code that is asked for.
fn exit<'a>(pod: &'a Pod, wanted: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses];
    let matches = |container: &&ContainerStatus| {
        let named = wanted.container_name.as_ref().is_none_or(|name| *name == container.name);
        let code = exit_code(container).filter(|code| *code != 0);
        let listed = code.is_some_and(|code| wanted.values.contains(&code));
        named && code.is_some() && if wanted.operator == "In" { listed } else { !listed }
    };
    let found = all.into_iter().flatten().flatten().find(matches)?;
    Some((&found.name, exit_code(found)?))
}

fn exit_code(container: &ContainerStatus) -> Option<i32> {
    Some(container.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn condition<'a>(pod: &'a Pod, wanted: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<&'a PodCondition> {
    let matches = |found: &&PodCondition| {
        wanted.iter().any(|pattern| {
            let status = pattern.status.as_deref().unwrap_or("True");
            found.type_ == pattern.type_ && found.status == status
        })
    };
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(matches)
}

/// Which rule of the success policy is met.
pub(super) fn success(state: &State<'_>) -> Option<String> {
    let rules = &state.spec.success_policy.as_ref()?.rules;
    let completions = state.completions()?;
    rules.iter().enumerate().find_map(|(at, rule)| {
        let met = match &rule.succeeded_indexes {
            Some(text) => {
                let wanted = Indexes::read(text, completions);
                let needed = rule.succeeded_count.map_or(wanted.total(), |count| u32::try_from(count).unwrap_or(0));
                wanted.common(&state.succeeded) >= needed
            }
            None => rule.succeeded_count.is_some_and(|count| i64::from(state.succeeded.total()) >= i64::from(count)),
        };
        met.then(|| format!("Matched rules at index {at}"))
    })
}
