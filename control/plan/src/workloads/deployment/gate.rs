//! The gate of a rollout that is to stop at steps (`kontiki_model::rollout`): how far it may go now, and whether it goes
//! back.
//!
//! Invariants
//! - What is known of a rollout is kept by the ReplicaSet of its template and written together with the size that follows
//!   from it: any leader goes on where another died, and an undo, which takes a Deployment's annotations from a ReplicaSet,
//!   loses nothing.
//! - A ReplicaSet that was refused gets no pods while there is another to go back to. One that has passed is not judged
//!   again.
//! - A sample counts once: it is newer than the last that counted.
//! - The template belongs to whoever wrote it; going back is a matter of sizes.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kontiki_model::rollout::{
    ALONE, BAD, HELD, JUDGED, Metric, PASSED, REACHED, REASON, REFUSED, SINCE, STATE, STEP, Settings, Steps, TRAFFIC,
    VERDICT, is_kept,
};

use super::sample::{Sample, Verdict, about};
use super::{COMPONENT, Work, limits, replicas, rolling};
use crate::action::{EventRecord, reference};
use crate::object::{after_seconds, annotation, deleting, time};

/// What is kept of a set while it is at a step.
const CLOCK: [&str; 4] = [SINCE, REACHED, JUDGED, BAD];

/// How many pods the set that is rolled out may have, and how many the others together keep.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    pub(super) new: i32,
    pub(super) others: i32,
}

/// Where a rollout stops.
pub(super) struct Stage {
    bound: Bound,
    traffic: Option<&'static str>,
    /// In seconds.
    pause: i64,
    /// By the metric, if there is one.
    pub(super) measured: bool,
}

/// What a deployment asks for, as far as it can be had.
pub(super) fn settings(deployment: &Deployment) -> Result<Option<Settings>, String> {
    let annotations = deployment.metadata.annotations.iter().flatten();
    let settings = Settings::read(annotations.map(|(key, value)| (key.as_str(), value.as_str())))?;
    if settings.is_some() && !rolling(&deployment.spec) {
        return Err(
            "rollout.kontiki.dev/steps needs the strategy RollingUpdate: with Recreate nothing old runs beside \
                    what is new"
                .to_owned(),
        );
    }
    let whole = settings.as_ref().is_some_and(|settings| settings.steps == Steps::BlueGreen);
    if whole && limits(&deployment.spec).surge < replicas(&deployment.spec) {
        return Err("rollout.kontiki.dev/steps: blue-green needs maxSurge 100%, for all new pods beside the old ones"
            .to_owned());
    }
    Ok(settings)
}

/// The stops of a rollout to `want` pods, the last of which is the whole.
pub(super) fn stages(settings: &Settings, want: i32) -> Vec<Stage> {
    let pause = i64::try_from(settings.pause.as_secs()).unwrap_or(i64::MAX);
    let measured = settings.metric.is_some();
    match &settings.steps {
        Steps::BlueGreen => {
            let bound = Bound { new: want, others: want };
            vec![
                Stage { bound, traffic: Some(HELD), pause: 0, measured: false },
                Stage { bound, traffic: Some(ALONE), pause, measured },
            ]
        }
        Steps::Canary(shares) => {
            let bound = |new| Bound { new, others: want - new };
            let stage = |new| Stage { bound: bound(new), traffic: None, pause, measured };
            let mut stages: Vec<Stage> = shares.iter().map(|share| stage(share.of(want))).collect();
            if stages.last().is_none_or(|last| last.bound.new < want) {
                stages.push(Stage { bound: bound(want), traffic: None, pause: 0, measured: false });
            }
            stages
        }
    }
}

/// The step that a set is at, of `stages`.
fn clamped(step: &str, stages: usize) -> usize {
    step.parse::<usize>().unwrap_or(1).clamp(1, stages.max(1))
}

impl super::set::Set {
    fn time(&self, key: &str) -> Option<Timestamp> {
        self.said(key)?.parse().ok()
    }

    fn forget_all(&mut self, keys: &[&str]) {
        keys.iter().for_each(|key| self.forget(key));
    }

    fn is(&self, verdict: &str) -> bool {
        self.said(VERDICT) == Some(verdict)
    }

    fn has_pods(&self) -> bool {
        self.size() > 0 || self.actual() > 0
    }

    /// Says what Services send to its pods.
    fn direct(&mut self, traffic: Option<&str>) {
        match traffic {
            Some(traffic) => self.annotate(TRAFFIC, traffic.to_owned()),
            None => self.forget(TRAFFIC),
        }
    }
}

/// Where a set is.
pub(super) struct At {
    /// From 1.
    pub(super) step: usize,
    /// Since when it has all its pods.
    pub(super) reached: Option<Timestamp>,
    /// Of when the last sample is that counted.
    pub(super) judged: Option<Timestamp>,
    /// When it may end.
    pub(super) end: Option<Timestamp>,
}

impl At {
    pub(super) fn of(said: impl Fn(&str) -> Option<String>, stages: &[Stage]) -> Option<Self> {
        let time = |key: &str| said(key)?.parse::<Timestamp>().ok();
        let step = clamped(&said(STEP)?, stages.len());
        let reached = time(REACHED);
        let end = reached.map(|reached| after_seconds(reached, stages[step - 1].pause));
        Some(Self { step, reached, judged: time(JUDGED), end })
    }

    /// When to ask again, if the last answer is from `last`: every so often, and once when the step may end.
    pub(super) fn due(&self, last: Option<Timestamp>, metric: &Metric) -> Option<Timestamp> {
        let (reached, end) = (self.reached?, self.end?);
        let Some(last) = last.max(self.judged).filter(|last| *last >= reached) else { return Some(reached) };
        let next = after_seconds(last, i64::try_from(metric.every.as_secs()).unwrap_or(i64::MAX));
        Some(if last < end { next.min(end) } else { next })
    }
}

impl Work<'_> {
    /// The set that sizes move towards: that of the template, or the one to go back to.
    pub(super) fn goal(&self) -> Option<usize> {
        self.back.or(self.new)
    }

    /// All others, oldest first.
    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let goal = self.goal();
        (0..self.sets.len()).filter(move |at| Some(*at) != goal)
    }

    /// The set that runs what the rollout began with.
    fn find_stable(&self) -> Option<usize> {
        let fit = |at: &usize| {
            let set = &self.sets[*at];
            Some(*at) != self.new && !set.is(REFUSED) && !deleting(&set.old().metadata)
        };
        (0..self.sets.len()).filter(fit).max_by_key(|at| {
            let set = &self.sets[*at];
            (set.size() > 0, set.is(PASSED), set.size(), set.revision())
        })
    }

    /// What earlier plans found out: whether it is gone back.
    pub(super) fn remember(&mut self) {
        if matches!(self.settings, Ok(None)) {
            return;
        }
        self.stable = self.find_stable();
        let Some(at) = self.new.filter(|at| self.sets[*at].is(REFUSED)) else { return };
        let Some(stable) = self.stable else { return };
        self.back = Some(stable);
        let why = self.sets[at].said(REASON).unwrap_or("no reason is kept");
        let (refused, runs) = (self.sets[at].name(), self.sets[stable].name());
        self.blame = Some(format!("ReplicaSet \"{refused}\" was refused, \"{runs}\" runs instead: {why}"));
    }

    /// Settings that cannot be meant hold everything up, and are told.
    pub(super) fn complain(&mut self) {
        let Err(why) = &self.settings else { return };
        let why = why.clone();
        if annotation(&self.view.deployment.metadata, STATE) != Some(&why) {
            let regarding = reference(self.view.deployment.as_ref());
            self.events.push(EventRecord::warning(regarding, COMPONENT, "RolloutSettings", why.clone()));
        }
        self.show(Some(why.clone()));
        self.blame = Some(why);
    }

    /// Stops the clock of the step: a pause is nobody's fault.
    pub(super) fn stop_clock(&mut self) {
        if let Some(at) = self.new {
            self.sets[at].forget_all(&CLOCK);
        }
    }

    /// Writes how the rollout stands on the deployment; what is kept of ReplicaSets has no place there.
    fn show(&mut self, state: Option<String>) {
        let metadata = &mut self.deployment.metadata;
        if let Some(annotations) = metadata.annotations.as_mut() {
            annotations.retain(|key, _| !is_kept(key));
        }
        if let Some(state) = state {
            metadata.annotations.get_or_insert_default().insert(STATE.to_owned(), state);
        }
    }

    /// Finds out how far the rollout may go. True if it was refused just now: sizes follow in the plan that this causes.
    pub(super) fn gate(&mut self) -> bool {
        let Ok(Some(settings)) = self.settings.clone() else {
            self.sets.iter_mut().for_each(|set| set.forget_all(&[STEP, SINCE, REACHED, JUDGED, BAD, TRAFFIC]));
            self.show(None);
            return false;
        };
        let Some(at) = self.new else { return false };
        self.stable = self.find_stable();
        self.put_aside(at);
        let want = replicas(self.spec);
        if want == 0 {
            self.stop_clock();
            return false;
        }
        if self.back.is_some() {
            self.stay_back(at);
            return false;
        }
        let stages = stages(&settings, want);
        match self.stable.filter(|_| !self.sets[at].is(PASSED)) {
            Some(stable) if self.begin(at, stable, &stages) => self.judge(at, &settings, &stages),
            _ => {
                self.open(at, &settings);
                false
            }
        }
    }

    /// Sets of other templates have no step. One that took traffic takes none; but the one to go back to.
    fn put_aside(&mut self, new: usize) {
        for at in (0..self.sets.len()).filter(|at| *at != new) {
            let is_stable = self.stable == Some(at);
            let set = &mut self.sets[at];
            set.forget_all(&[STEP, SINCE, REACHED, JUDGED, BAD]);
            if set.said(TRAFFIC).is_some() {
                let held = !is_stable && set.has_pods();
                set.direct(held.then_some(HELD));
            }
        }
    }

    /// Begins with the first step that is not behind the set, unless it is at one. False if nothing is to be held: the
    /// set has everything, or nothing else runs.
    fn begin(&mut self, at: usize, stable: usize, stages: &[Stage]) -> bool {
        let (size, runs) = (self.sets[at].size(), self.sets[stable].size() > 0);
        let step = match self.sets[at].said(STEP) {
            Some(step) => clamped(step, stages.len()),
            None if !runs || size >= replicas(self.spec) => return false,
            None if size > 0 && stages[0].traffic.is_some() => return false,
            None => stages.iter().position(|stage| stage.bound.new >= size).map_or(1, |index| index + 1),
        };
        if !runs && stages[step - 1].bound.others > 0 {
            return false;
        }
        if self.sets[stable].said(VERDICT).is_none() {
            self.sets[stable].annotate(VERDICT, PASSED.to_owned());
        }
        self.enter(at, step, &stages[step - 1]);
        true
    }

    fn enter(&mut self, at: usize, step: usize, stage: &Stage) {
        self.bound = stage.bound;
        let set = &mut self.sets[at];
        if set.said(STEP) != Some(step.to_string().as_str()) {
            set.forget_all(&CLOCK);
            set.annotate(STEP, step.to_string());
        }
        if set.time(SINCE).is_none() {
            set.annotate(SINCE, time(self.now).0.to_string());
        }
        set.direct(stage.traffic);
    }

    /// A set that is not held, or no more.
    fn open(&mut self, at: usize, settings: &Settings) {
        let others = self.others().any(|other| self.sets[other].has_pods());
        let whole = self.sets[at].available() >= replicas(self.spec);
        let blue_green = settings.steps == Steps::BlueGreen;
        let set = &mut self.sets[at];
        set.forget_all(&[STEP, SINCE, REACHED, JUDGED, BAD, REASON]);
        let takes_over = set.is(PASSED) && blue_green && others;
        let comes_again = takes_over && !whole && set.said(TRAFFIC) != Some(ALONE);
        if comes_again {
            self.bound.others = replicas(self.spec);
        }
        set.direct(takes_over.then_some(if comes_again { HELD } else { ALONE }));
        if whole && !others {
            set.annotate(VERDICT, PASSED.to_owned());
        } else if set.is(REFUSED) {
            // There is nothing to go back to.
            set.forget(VERDICT);
        }
        let state = if set.is(PASSED) { "passed" } else { "not held" };
        self.show(Some(state.to_owned()));
    }

    /// A set that was refused goes, and takes no traffic that was its alone.
    fn stay_back(&mut self, at: usize) {
        let set = &mut self.sets[at];
        let held = set.said(TRAFFIC).is_some() && set.has_pods();
        set.direct(held.then_some(HELD));
        let why = set.said(REASON).unwrap_or("no reason is kept").to_owned();
        self.show(Some(format!("refused: {why}")));
    }

    /// Judges the step that the set is at. True if it is refused.
    fn judge(&mut self, at: usize, settings: &Settings, stages: &[Stage]) -> bool {
        self.gated = true;
        let metric = settings.metric.as_ref();
        let Some(mut found) = self.look(at, stages) else { return false };
        let stage = &stages[found.step - 1];
        let metric = metric.filter(|_| stage.measured);
        let sample = metric.and_then(|metric| self.sample_of(at, found.step, metric)).cloned();
        if let (Some(metric), Some(sample)) = (metric, sample.as_ref().filter(|_| found.reached.is_some())) {
            if let Some(why) = self.count(at, metric, sample) {
                return self.refuse(at, found.step, stages.len(), why);
            }
            found.judged = self.sets[at].time(JUDGED);
        }
        let good = |sample: &Sample, end| matches!(sample.verdict, Verdict::Good(_)) && sample.at >= end;
        let passes = found.end.is_some_and(|end| {
            end <= self.now && (metric.is_none() || sample.as_ref().is_some_and(|sample| good(sample, end)))
        });
        if passes {
            self.pass(at, found.step, settings, stages);
            return false;
        }
        if let Some(why) = self.overdue(at, stage, &found, sample.as_ref()) {
            return self.refuse(at, found.step, stages.len(), why);
        }
        if let Some(overdue) = self.deadline_of(at, stage) {
            self.wake_at(overdue);
        }
        let waits = self.wait(at, &found, metric, sample.as_ref());
        let (pods, want) = (stage.bound.new, replicas(self.spec));
        self.show(Some(format!("step {} of {}, {pods} of {want} pods: {waits}", found.step, stages.len())));
        false
    }

    /// Where the set is; notes when it got the pods of its step, and when it lost them.
    fn look(&mut self, at: usize, stages: &[Stage]) -> Option<At> {
        let others: i32 = self.others().map(|other| self.sets[other].size()).sum();
        let (bound, now) = (self.bound, self.now);
        let set = &mut self.sets[at];
        let whole = set.size() == bound.new && set.available() >= bound.new && others <= bound.others;
        match (whole, set.time(REACHED)) {
            (true, None) => set.annotate(REACHED, time(now).0.to_string()),
            (false, Some(_)) => set.forget(REACHED),
            _ => {}
        }
        let set = &self.sets[at];
        At::of(|key| set.said(key).map(str::to_owned), stages)
    }

    fn sample_of(&self, at: usize, step: usize, metric: &Metric) -> Option<&Sample> {
        let wanted = about(self.sets[at].uid(), step, metric);
        self.view.sample.as_ref().filter(|sample| sample.about == wanted)
    }

    /// Counts a sample, if it is new. Says why if it is one bad sample too many.
    fn count(&mut self, at: usize, metric: &Metric, sample: &Sample) -> Option<String> {
        let set = &mut self.sets[at];
        if set.time(JUDGED).is_some_and(|judged| sample.at <= judged) {
            return None;
        }
        let bad: u32 = set.said(BAD).and_then(|bad| bad.parse().ok()).unwrap_or(0);
        match &sample.verdict {
            Verdict::Bad(value) => {
                if bad + 1 >= metric.fail_after {
                    return Some(format!("{} answers in a row were not {}; {value}", bad + 1, metric.bound));
                }
                set.annotate(BAD, (bad + 1).to_string());
                set.annotate(JUDGED, sample.at.to_string());
            }
            Verdict::Good(_) if bad > 0 => {
                set.forget(BAD);
                set.annotate(JUDGED, sample.at.to_string());
            }
            Verdict::Good(_) | Verdict::Unknown(_) => {}
        }
        None
    }

    /// Goes on to the next step, or ends.
    fn pass(&mut self, at: usize, step: usize, settings: &Settings, stages: &[Stage]) {
        let name = self.sets[at].name().to_owned();
        let Some(next) = stages.get(step) else {
            self.sets[at].annotate(VERDICT, PASSED.to_owned());
            self.gated = false;
            self.bound = Bound { new: replicas(self.spec), others: 0 };
            self.note("RolloutPassed", format!("ReplicaSet {name} has passed step {step} of {step}"));
            return self.open(at, settings);
        };
        self.note("RolloutStep", format!("ReplicaSet {name} has passed step {step} of {}", stages.len()));
        self.enter(at, step + 1, next);
        let (pods, want) = (next.bound.new, replicas(self.spec));
        self.show(Some(format!("step {} of {}, {pods} of {want} pods: begins", step + 1, stages.len())));
    }

    /// When the step has taken too long: its deadline is that for progress, after its pause.
    fn deadline_of(&self, at: usize, stage: &Stage) -> Option<Timestamp> {
        Some(after_seconds(after_seconds(self.sets[at].time(SINCE)?, stage.pause), self.deadline()?))
    }

    /// Why the step has taken too long, if it has.
    fn overdue(&self, at: usize, stage: &Stage, found: &At, sample: Option<&Sample>) -> Option<String> {
        let (overdue, deadline) = (self.deadline_of(at, stage)?, self.deadline()?);
        if self.now < overdue {
            return None;
        }
        let why = match (found.reached, sample.map(|sample| &sample.verdict)) {
            (None, _) => "its pods were not all available".to_owned(),
            (_, Some(Verdict::Unknown(why))) => format!("the metric was not known: {why}"),
            (_, Some(_)) => "the metric was not good to the end".to_owned(),
            (_, None) => "its pods were not available to the end".to_owned(),
        };
        Some(format!("it did not pass within {deadline} s; {why}"))
    }

    /// Says what is waited for, and when to look again.
    fn wait(&mut self, at: usize, found: &At, metric: Option<&Metric>, sample: Option<&Sample>) -> String {
        let Some(end) = found.end else { return "waits for pods".to_owned() };
        if end > self.now {
            self.wake_at(end);
        }
        if let Some(due) = metric.and_then(|metric| found.due(sample.map(|sample| sample.at), metric)) {
            // Who could not be asked just now is asked soon.
            self.wake_at(due.max(after_seconds(self.now, 1)));
        }
        let bad = self.sets[at].said(BAD).map(|bad| format!("bad answers in a row: {bad}"));
        let unknown = sample.filter(|sample| matches!(sample.verdict, Verdict::Unknown(_)));
        bad.or(unknown.map(|_| "the metric is not known".to_owned())).unwrap_or_else(|| "is judged".to_owned())
    }

    /// Ends the rollout: what ran before takes over.
    fn refuse(&mut self, at: usize, step: usize, steps: usize, why: String) -> bool {
        let why = format!("at step {step} of {steps}, {why}");
        let regarding = reference(self.view.deployment.as_ref());
        let set = &mut self.sets[at];
        let message = format!("ReplicaSet {} is refused {why}", set.name());
        set.forget_all(&[STEP, SINCE, REACHED, JUDGED, BAD]);
        set.annotate(VERDICT, REFUSED.to_owned());
        set.annotate(REASON, why);
        if set.said(TRAFFIC).is_some() {
            set.direct(Some(HELD));
        }
        set.tell(EventRecord::warning(regarding, COMPONENT, "RolloutRefused", message));
        self.remember();
        self.stay_back(at);
        true
    }

    pub(super) fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |old| old.min(at)));
    }
}
