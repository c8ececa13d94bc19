//! Tables, stories and properties of Jobs.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule, UncountedTerminatedPods,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::action::Patch;
use crate::key::NamespacedName;
use crate::object::{after_seconds, controller_reference, name, time};
use crate::testing::{Cluster, NOW, map, meta, pod_condition, selector, show, template};

fn job(change: impl FnOnce(&mut JobSpec)) -> Job {
    let mut spec = JobSpec {
        completions: Some(2),
        parallelism: Some(2),
        backoff_limit: Some(6),
        completion_mode: Some("NonIndexed".into()),
        suspend: Some(false),
        pod_replacement_policy: Some("TerminatingOrFailed".into()),
        selector: Some(selector("job")),
        template: template("job"),
        ..JobSpec::default()
    };
    change(&mut spec);
    Job { metadata: meta("job"), spec: Some(spec), status: None }
}

fn indexed(spec: &mut JobSpec) {
    spec.completion_mode = Some("Indexed".into());
}

/// `a` runs, `a+` has succeeded, `a!` has failed, `a~` is on its way out, `a*` has no finalizer, `a?` has no manager,
/// `a^` has another, `a-` matches no more; digits are its index.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    text.split_whitespace().map(|word| Arc::new(one(word))).collect()
}

fn one(word: &str) -> Pod {
    let bare = word.trim_end_matches(['+', '!', '~', '*', '?', '^', '-']);
    let mut pod = crate::testing::pod(bare, &[("app", "job")]);
    pod.metadata.owner_references = Some(vec![controller_reference(&job(|_| {}))]);
    pod.metadata.finalizers = Some(vec![FINALIZER.into()]);
    let digits = bare.trim_start_matches(|c: char| !c.is_ascii_digit());
    if !digits.is_empty() {
        pod.metadata.annotations = Some(map(&[(index::INDEX, digits)]));
    }
    for mark in word[bare.len()..].chars() {
        let status = pod.status.get_or_insert_default();
        match mark {
            '+' => status.phase = Some("Succeeded".into()),
            '!' => status.phase = Some("Failed".into()),
            '~' => pod.metadata.deletion_timestamp = Some(time(after_seconds(NOW, -3600))),
            '*' => pod.metadata.finalizers = None,
            '?' => (pod.metadata.owner_references, pod.metadata.finalizers) = (None, None),
            '^' => {
                let other = Job { metadata: meta("other"), ..Job::default() };
                pod.metadata.owner_references = Some(vec![controller_reference(&other)]);
            }
            _ => pod.metadata.labels = Some(map(&[("app", "changed")])),
        }
        if "+!".contains(mark) {
            let conditions = &mut pod.status.get_or_insert_default().conditions;
            let mut unready = pod_condition("Ready", "False");
            unready.last_transition_time = Some(time(after_seconds(NOW, -3600)));
            *conditions = Some(vec![unready]);
        }
    }
    pod
}

fn view(job: Job, have: &str) -> View {
    View { job: Arc::new(job), pods: pods(have), namespace_terminating: false }
}

/// What is done besides the status and events.
fn writes(plan: &Plan) -> String {
    let real = |action: &&Action| match action {
        Action::Patch(patch) => patch.subresource.is_none(),
        Action::Event(_) => false,
        _ => true,
    };
    show(&plan.actions.iter().filter(real).cloned().collect::<Vec<_>>())
}

#[test]
fn makes_as_many_pods_as_it_may() {
    let none: fn(&mut JobSpec) = |_| {};
    let queue: fn(&mut JobSpec) = |spec| spec.completions = None;
    let narrow: fn(&mut JobSpec) = |spec| (spec.completions, spec.parallelism) = (Some(5), Some(2));
    let stopped: fn(&mut JobSpec) = |spec| spec.parallelism = Some(0);
    let patient: fn(&mut JobSpec) = |spec| spec.pod_replacement_policy = Some("Failed".into());
    for (name, change, have, expect) in [
        ("begins", none, "", "+job- +job-"),
        ("has enough", none, "a b", ""),
        ("one has succeeded", none, "a b+", ""),
        ("counts no more than once", none, "a b+*", "+job-"),
        ("replaces what goes", none, "a b~", "+job-"),
        ("replaces only what has ended", patient, "a b~", ""),
        ("too many", none, "a b c", "patch a -a"),
        ("adopts", none, "a b?", "patch b"),
        ("lets go", none, "a b-", "patch b"),
        ("leaves pods of others", none, "a b^", "+job-"),
        ("a queue keeps its width", queue, "a", "+job-"),
        ("a queue that has a success makes no more", queue, "a b+", ""),
        ("no wider than it may", narrow, "", "+job- +job-"),
        ("stopped by its width", stopped, "a b", "patch a patch b -a -b"),
    ] {
        assert_eq!(writes(&plan(&view(job(change), have), NOW)), expect, "{name}");
    }
    let gone = View { namespace_terminating: true, ..view(job(|_| {}), "") };
    assert_eq!(writes(&plan(&gone, NOW)), "", "its namespace goes");
}

#[test]
fn each_index_has_one_pod() {
    for (name, have, expect) in [
        ("begins", "", "+job-0- +job-1-"),
        ("the one that is missing", "a1", "+job-0-"),
        ("one has succeeded", "a0+ b1", ""),
        ("twins", "a0 b0 c1", "patch a0 -a0"),
        ("beyond the last", "a0 b1 c7", "patch c7 -c7"),
        ("without an index", "a0 b1 c", "patch c -c"),
    ] {
        assert_eq!(writes(&plan(&view(job(indexed), have), NOW)), expect, "{name}");
    }
    let made = plan(&view(job(indexed), "a1"), NOW);
    let Some(Action::Create { object, .. }) = made.actions.iter().find(|a| matches!(a, Action::Create { .. })) else {
        panic!("{made:?}")
    };
    assert_eq!(object["metadata"]["annotations"][index::INDEX], "0");
    assert_eq!(object["metadata"]["labels"][index::INDEX], "0");
    assert_eq!(object["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(object["spec"]["hostname"], "job-0");
    let env = &object["spec"]["containers"][0]["env"][0];
    let path = "metadata.labels['batch.kubernetes.io/job-completion-index']";
    assert_eq!(
        (&env["name"], &env["valueFrom"]["fieldRef"]["fieldPath"]),
        (&json!("JOB_COMPLETION_INDEX"), &json!(path))
    );
}

#[test]
fn a_pod_is_written_down_before_it_is_let_go() {
    let first = view(job(|_| {}), "a+ b");
    let plan = super::plan(&first, NOW);
    let Some(Action::Patch(Patch { body, subresource: Some("status"), .. })) = plan.actions.first() else {
        panic!("{plan:?}")
    };
    assert_eq!(body["status"]["uncountedTerminatedPods"]["succeeded"], json!(["uid-a"]));
    assert!(body["status"]["succeeded"].is_null(), "not a number yet");
    assert_eq!(writes(&plan), "", "the finalizer stays");
    let uncounted = UncountedTerminatedPods { succeeded: Some(vec!["uid-a".into()]), failed: None };
    let status = JobStatus {
        uncounted_terminated_pods: Some(uncounted),
        start_time: Some(time(NOW)),
        active: Some(1),
        ready: Some(1),
        terminating: Some(0),
        ..JobStatus::default()
    };
    let written = |have| view(Job { status: Some(status.clone()), ..job(|_| {}) }, have);
    assert_eq!(show(&super::plan(&written("a+ b"), NOW).actions), "patch a", "now it goes");
    let counted = super::plan(&written("a+* b"), NOW);
    let Some(Action::Patch(Patch { body, .. })) = counted.actions.first() else { panic!("{counted:?}") };
    assert_eq!(
        (&body["status"]["succeeded"], &body["status"]["uncountedTerminatedPods"]["succeeded"]),
        (&json!(1), &json!(null))
    );
}

#[test]
fn pods_without_a_job_are_let_go() {
    let held = one("a");
    let mine = Arc::new(job(|_| {}));
    let mut going = job(|_| {});
    going.metadata.deletion_timestamp = Some(time(NOW));
    let mut reborn = job(|_| {});
    reborn.metadata.uid = Some("another".into());
    for (pod, job, expect) in [
        (held.clone(), Some(mine), ""),
        (held.clone(), Some(Arc::new(going)), "patch a"),
        (held.clone(), Some(Arc::new(reborn)), "patch a"),
        (held, None, "patch a"),
        (one("a*"), None, ""),
    ] {
        assert_eq!(show(&plan_stray(&Stray { pod: Arc::new(pod), job }).actions), expect);
    }
}

#[test]
fn a_pod_concerns_its_job_and_who_may_adopt_it() {
    let selecting = |_: &Pod| vec![Arc::new(job(|_| {}))];
    for (old, new, expect) in [
        ("", "a", "ns/job, pod ns/a"),
        ("a", "", "ns/job"),
        ("", "a*", "ns/job"),
        ("", "a?", "ns/job"),
        ("", "a^", "ns/other, pod ns/a"),
    ] {
        let (old, new) = (pods(old), pods(new));
        let keys = by_pod(old.first().map(Arc::as_ref), new.first().map(Arc::as_ref), selecting);
        assert_eq!(keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "), expect);
    }
    let name = || NamespacedName::new("ns", "job");
    assert_eq!(by_job(name(), false, || pods("a")), [Key::Job(name())]);
    assert_eq!(by_job(name(), true, || pods("a b*")).len(), 2, "what it leaves behind");
}

/// How a pod ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Runs,
    Succeeds,
    Fails(i32),
    Disrupted,
}

/// A cluster in which pods end as `outcome` says, and finalizers hold what is deleted.
struct JobCluster {
    cluster: Cluster,
    now: Timestamp,
    succeeded: BTreeSet<String>,
    failed: BTreeSet<String>,
}

impl JobCluster {
    fn new(job: &Job) -> Self {
        let mut cluster = Cluster::default();
        cluster.add(job);
        Self { cluster, now: NOW, succeeded: BTreeSet::new(), failed: BTreeSet::new() }
    }

    fn job(&self) -> Job {
        self.cluster.only()
    }

    fn status(&self) -> JobStatus {
        self.job().status.unwrap_or_default()
    }

    fn plan(&self) -> Plan {
        let view = View { job: Arc::new(self.job()), pods: self.cluster.list(), namespace_terminating: false };
        plan(&view, self.now)
    }

    fn patch(&mut self, pod: &Pod, body: serde_json::Value) {
        let key = crate::action::key_of(pod);
        self.cluster.apply(Action::Patch(Patch { key, subresource: None, body, announce: None }));
    }

    fn apply(&mut self, action: Action) {
        let pods: Vec<Arc<Pod>> = self.cluster.list();
        match &action {
            Action::Delete { key, .. } => {
                let pod = pods.iter().find(|pod| name(&pod.metadata) == key.name);
                match pod.filter(|pod| held(pod)) {
                    Some(pod) => self.patch(pod, json!({"metadata": {"deletionTimestamp": time(self.now)}})),
                    None => self.cluster.apply(action),
                }
            }
            _ => self.cluster.apply(action),
        }
        let free: Vec<Arc<Pod>> = self.cluster.list();
        for pod in free.iter().filter(|pod| deleting(&pod.metadata) && !held(pod)) {
            let gone = crate::action::delete(pod.as_ref(), crate::action::DeleteHow::default(), None);
            self.cluster.apply(gone);
        }
    }

    /// What the nodes do.
    fn nodes(&mut self, outcome: &dyn Fn(&Pod) -> Outcome) {
        let pods: Vec<Arc<Pod>> = self.cluster.list();
        for pod in pods.iter().filter(|pod| !pod::finished(pod)) {
            let uid = uid(&pod.metadata).to_owned();
            let end = if deleting(&pod.metadata) { Outcome::Fails(137) } else { outcome(pod) };
            let at = time(self.now);
            let ended = |code: i32| {
                json!([{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                        "state": {"terminated": {"exitCode": code, "finishedAt": at}}}])
            };
            let status = match end {
                Outcome::Runs => continue,
                Outcome::Succeeds => json!({"phase": "Succeeded", "containerStatuses": ended(0)}),
                Outcome::Fails(code) => json!({"phase": "Failed", "containerStatuses": ended(code)}),
                Outcome::Disrupted => {
                    json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}]})
                }
            };
            if end == Outcome::Succeeds {
                self.succeeded.insert(uid)
            } else {
                self.failed.insert(uid)
            };
            self.patch(pod, json!({ "status": status }));
        }
    }

    /// Runs until nothing happens any more. `cut` says after how many actions of a plan its maker dies.
    fn run(&mut self, outcome: &dyn Fn(&Pod) -> Outcome, mut cut: impl FnMut() -> usize) -> bool {
        for _ in 0..400 {
            let plan = self.plan();
            if plan.actions.iter().all(|action| matches!(action, Action::Event(_))) {
                match plan.wake {
                    Some(at) if !is_finished(&self.job()) && at > self.now => self.now = at,
                    _ => return true,
                }
            }
            let many = cut();
            plan.actions.into_iter().take(many).for_each(|action| self.apply(action));
            self.nodes(outcome);
        }
        false
    }
}

fn conditions(status: &JobStatus) -> String {
    let mut out = String::new();
    for condition in status.conditions.iter().flatten().filter(|condition| condition.status == "True") {
        let _ = write!(out, "{}:{} ", condition.type_, condition.reason.as_deref().unwrap_or_default());
    }
    out.trim_end().to_owned()
}

fn told(change: impl FnOnce(&mut JobSpec), outcome: &dyn Fn(&Pod) -> Outcome) -> (JobCluster, String) {
    let mut world = JobCluster::new(&job(change));
    assert!(world.run(outcome, || usize::MAX), "{}", world.cluster.trace());
    let status = world.status();
    let number = |number: Option<i32>| number.unwrap_or(0);
    let mut text =
        format!("{} ok, {} failed; {}", number(status.succeeded), number(status.failed), conditions(&status));
    for (name, indexes) in [("done", status.completed_indexes), ("lost", status.failed_indexes)] {
        if let Some(indexes) = indexes {
            let _ = write!(text, "; {name} {indexes}");
        }
    }
    let left: Vec<Arc<Pod>> = world.cluster.list();
    if is_finished(&world.job()) {
        assert!(!left.iter().any(|pod| held(pod)), "no pod waits any more");
        assert!(!left.iter().any(|pod| pod::active(pod)), "nothing runs on");
        assert_eq!(status.uncounted_terminated_pods, Some(UncountedTerminatedPods::default()));
    }
    (world, text)
}

fn rule(action: &str, codes: &[i32], condition: &str) -> PodFailurePolicy {
    let codes = (!codes.is_empty()).then(|| PodFailurePolicyOnExitCodesRequirement {
        container_name: None,
        operator: "In".into(),
        values: codes.to_vec(),
    });
    let pattern = PodFailurePolicyOnPodConditionsPattern { type_: condition.into(), status: Some("True".into()) };
    let on_pod_conditions = (!condition.is_empty()).then(|| vec![pattern]);
    PodFailurePolicy {
        rules: vec![PodFailurePolicyRule { action: action.into(), on_exit_codes: codes, on_pod_conditions }],
    }
}

fn per_index(spec: &mut JobSpec, limit: i32) {
    indexed(spec);
    (spec.completions, spec.parallelism) = (Some(4), Some(4));
    (spec.backoff_limit, spec.backoff_limit_per_index) = (Some(i32::MAX), Some(limit));
}

#[test]
fn jobs_end_as_upstreams_do() {
    let ok = |_: &Pod| Outcome::Succeeds;
    let fails = |_: &Pod| Outcome::Fails(1);
    let even_fails = |pod: &Pod| match index::of(pod) {
        Some(index) if index % 2 == 0 => Outcome::Fails(1),
        _ => Outcome::Succeeds,
    };
    let (_, text) = told(|_| {}, &ok);
    assert_eq!(text, "2 ok, 0 failed; SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached");
    let (_, text) = told(|spec| (spec.completions, spec.parallelism) = (None, Some(3)), &ok);
    assert_eq!(text, "3 ok, 0 failed; SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached");
    let (_, text) = told(|spec| spec.completions = Some(0), &ok);
    assert_eq!(text, "0 ok, 0 failed; SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached");
    let (_, text) = told(indexed, &ok);
    assert_eq!(text, "2 ok, 0 failed; SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached; done 0,1");
    let (world, text) = told(|spec| (spec.parallelism, spec.backoff_limit) = (Some(1), Some(3)), &fails);
    assert_eq!(text, "0 ok, 4 failed; FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded");
    assert_eq!(world.now, after_seconds(NOW, 10 + 20 + 40), "it waited longer each time");
    let (_, text) = told(|spec| spec.pod_failure_policy = Some(rule("FailJob", &[3], "")), &|_| Outcome::Fails(3));
    assert_eq!(text, "0 ok, 2 failed; FailureTarget:PodFailurePolicy Failed:PodFailurePolicy");
    let (_, text) = told(|spec| per_index(spec, 0), &even_fails);
    assert_eq!(text, "2 ok, 2 failed; FailureTarget:FailedIndexes Failed:FailedIndexes; done 1,3; lost 0,2");
    let (_, text) = told(|spec| per_index(spec, 1), &even_fails);
    assert_eq!(text, "2 ok, 4 failed; FailureTarget:FailedIndexes Failed:FailedIndexes; done 1,3; lost 0,2");
    let few = |spec: &mut JobSpec| {
        per_index(spec, 0);
        spec.max_failed_indexes = Some(1);
    };
    let (_, text) = told(few, &even_fails);
    assert!(
        text.ends_with("FailureTarget:MaxFailedIndexesExceeded Failed:MaxFailedIndexesExceeded; done 1,3; lost 0,2"),
        "{text}"
    );
    let fatal = |spec: &mut JobSpec| {
        per_index(spec, 5);
        spec.pod_failure_policy = Some(rule("FailIndex", &[1], ""));
    };
    let (_, text) = told(fatal, &even_fails);
    assert_eq!(text, "2 ok, 2 failed; FailureTarget:FailedIndexes Failed:FailedIndexes; done 1,3; lost 0,2");
}

#[test]
fn disruptions_that_are_ignored_do_not_count() {
    let seen = std::cell::Cell::new(0);
    let outcome = |_: &Pod| {
        seen.set(seen.get() + 1);
        if seen.get() <= 3 { Outcome::Disrupted } else { Outcome::Succeeds }
    };
    let change = |spec: &mut JobSpec| {
        (spec.parallelism, spec.backoff_limit) = (Some(1), Some(0));
        spec.pod_failure_policy = Some(rule("Ignore", &[], "DisruptionTarget"));
    };
    let (_, text) = told(change, &outcome);
    assert_eq!(text, "2 ok, 0 failed; SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached");
}

#[test]
fn success_policies_end_it_early() {
    let policy = |indexes: Option<&str>, count: Option<i32>| {
        let rule = SuccessPolicyRule { succeeded_indexes: indexes.map(str::to_owned), succeeded_count: count };
        move |spec: &mut JobSpec| {
            indexed(spec);
            (spec.completions, spec.parallelism) = (Some(4), Some(4));
            spec.success_policy = Some(SuccessPolicy { rules: vec![rule] });
        }
    };
    let first = |pod: &Pod| if index::of(pod) == Some(0) { Outcome::Succeeds } else { Outcome::Runs };
    for (indexes, count) in [(Some("0"), None), (None, Some(1)), (Some("0-2"), Some(1))] {
        let (_, text) = told(policy(indexes, count), &first);
        assert_eq!(
            text, "1 ok, 0 failed; SuccessCriteriaMet:SuccessPolicy Complete:SuccessPolicy; done 0",
            "{indexes:?}"
        );
    }
    let (world, text) = told(policy(Some("1"), None), &first);
    assert!(!is_finished(&world.job()), "{text}");
}

#[test]
fn a_suspended_job_has_no_pods_and_its_time_begins_anew() {
    let mut world = JobCluster::new(&job(|spec| spec.active_deadline_seconds = Some(60)));
    let run = |_: &Pod| Outcome::Runs;
    for _ in 0..4 {
        let plan = world.plan();
        plan.actions.into_iter().for_each(|action| world.apply(action));
    }
    assert_eq!(world.cluster.list::<Pod>().len(), 2);
    let mut suspended = world.job();
    suspended.spec.get_or_insert_default().suspend = Some(true);
    world.cluster.add(&suspended);
    assert!(world.run(&run, || usize::MAX), "{}", world.cluster.trace());
    assert!(world.cluster.list::<Pod>().is_empty());
    let status = world.status();
    assert_eq!((conditions(&status).as_str(), status.failed), ("Suspended:JobSuspended", None), "nothing failed");
    world.now = after_seconds(NOW, 1000);
    let mut resumed = world.job();
    resumed.spec.get_or_insert_default().suspend = Some(false);
    world.cluster.add(&resumed);
    let plan = world.plan();
    plan.actions.into_iter().for_each(|action| world.apply(action));
    assert_eq!(world.status().start_time, Some(time(world.now)));
    assert!(world.run(&run, || usize::MAX), "{}", world.cluster.trace());
    assert_eq!(conditions(&world.status()), "FailureTarget:DeadlineExceeded Failed:DeadlineExceeded");
}

#[test]
fn the_policy_of_others_is_theirs() {
    let mine = job(|spec| spec.managed_by = Some("example.com/queue".into()));
    assert_eq!(plan(&view(mine, "a+ b"), NOW).why, "somebody else manages it");
    let named = job(|spec| spec.managed_by = Some(MANAGER.into()));
    assert_ne!(plan(&view(named, ""), NOW).actions, []);
}

#[test]
fn a_job_that_goes_lets_its_pods_go() {
    let mut going = job(|_| {});
    going.metadata.deletion_timestamp = Some(time(NOW));
    let plan = plan(&view(going, "a b+ c*"), NOW);
    assert_eq!(show(&plan.actions), "patch a patch b");
}

proptest! {
    /// Whatever pods do and whenever the controller dies, the Job ends, everything is counted once, and then it rests.
    #[test]
    fn everything_counts_once(
        completions in 0i32..5, parallelism in 1i32..4, limit in 0i32..4, by_index: bool,
        luck in prop::collection::vec(0u8..4, 1..12), cuts in prop::collection::vec(0usize..5, 1..20),
    ) {
        let mut world = JobCluster::new(&job(|spec| {
            (spec.completions, spec.parallelism, spec.backoff_limit) = (Some(completions), Some(parallelism), Some(limit));
            if by_index {
                indexed(spec);
            }
        }));
        let at = std::cell::Cell::new(0);
        let outcome = |_: &Pod| {
            at.set(at.get() + 1);
            match luck[at.get() % luck.len()] {
                0 => Outcome::Fails(1),
                _ => Outcome::Succeeds,
            }
        };
        // A controller that always dies at once gets nowhere.
        let turns = std::cell::Cell::new(0);
        let cut = || {
            turns.set(turns.get() + 1);
            if usize::is_multiple_of(turns.get(), 3) { usize::MAX } else { cuts[turns.get() % cuts.len()] }
        };
        prop_assert!(world.run(&outcome, cut), "{}", world.cluster.trace());
        let (status, done) = (world.status(), world.job());
        prop_assert!(is_finished(&done), "{:?}\n{}", status, world.cluster.trace());
        let count = |number: Option<i32>| usize::try_from(number.unwrap_or(0)).unwrap_or(0);
        prop_assert_eq!(count(status.failed), world.failed.len(), "{}", world.cluster.trace());
        if !by_index {
            prop_assert_eq!(count(status.succeeded), world.succeeded.len(), "{}", world.cluster.trace());
        }
        prop_assert!(is_true(&done, "Failed") || status.succeeded.unwrap_or(0) >= completions);
        prop_assert_eq!(is_true(&done, "Failed"), count(status.failed) > count(Some(limit)));
        prop_assert!(!world.cluster.list::<Pod>().iter().any(|pod| held(pod)));
        prop_assert_eq!(world.plan().actions, vec![]);
    }

    /// What one plan asks for is never more than the Job may have.
    #[test]
    fn no_plan_makes_too_many(
        completions in 0i32..6, parallelism in 0i32..6, by_index: bool, have in "([a-f][0-5]?[+!~*]{0,2} ){0,6}",
    ) {
        let mut names: Vec<&str> = have.split_whitespace().collect();
        names.sort_by_key(|word| word.trim_end_matches(['+', '!', '~', '*']).to_owned());
        names.dedup_by_key(|word| word.trim_end_matches(['+', '!', '~', '*']).to_owned());
        let view = view(job(|spec| {
            (spec.completions, spec.parallelism) = (Some(completions), Some(parallelism));
            if by_index {
                indexed(spec);
            }
        }), &names.join(" "));
        let plan = plan(&view, NOW);
        let made = plan.actions.iter().filter(|action| matches!(action, Action::Create { .. })).count();
        let active = view.pods.iter().filter(|pod| pod::active(pod)).count();
        let most = usize::try_from(parallelism.min(completions)).unwrap_or(0);
        prop_assert!(made == 0 || made + active <= most, "{made} + {active} of {most}");
        let deleted = plan.actions.iter().any(|action| matches!(action, Action::Delete { .. }));
        prop_assert!(!(deleted && made > 0));
    }
}
