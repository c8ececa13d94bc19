//! The loop of a worker: news in, one step out.
//!
//! Invariants
//! - A turn takes all news, asks [`next_step`], and performs that step to its end.
//! - Waiting ends with whatever comes first: news, a wake by the runtime's events, or the next thing that is due.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kontiki_agent_plan::{
    step::{Step, next_step},
    termination,
};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::worker::{RETRY, Report, Worker, soon};

/// How a worker ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Nothing of the pod is left.
    Gone,
    /// The agent stops; the pod goes on.
    Left,
}

/// Works until the pod is gone or the agent stops.
pub(super) async fn run(mut worker: Worker, stop: CancellationToken) -> End {
    while !worker.observe().await {
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return End::Left,
        }
    }
    worker.adopt();
    worker.admit();
    while !stop.is_cancelled() {
        worker.receive().await;
        worker.grant_resources();
        let pod = worker.effective_pod();
        worker.update_ending(&pod);
        worker.update_probes(&pod);
        let now = Timestamp::now();
        let step = next_step(&worker.view(&pod, now));
        let last_chance = matches!(step, Step::StopSandbox { .. } | Step::RemoveSandbox { .. } | Step::Gone);
        if matches!(step, Step::Wait(_)) || (worker.ending.is_some() && last_chance) {
            worker.publish(&pod, now);
            worker.announce_backoff(&pod, now);
        }
        let wait = match step {
            Step::Gone if worker.remove_files(&pod).await => {
                worker.node.watchers.forget(&worker.wake);
                return End::Gone;
            }
            Step::Gone => Some(soon()),
            Step::Wait(until) => until,
            step => match worker.perform(&pod, step).await {
                Ok(()) => continue,
                Err(until) => Some(until),
            },
        };
        worker.wait(wait, &stop).await;
    }
    End::Left
}

impl Worker {
    /// Performs one step. An error says when to think again.
    async fn perform(&mut self, pod: &Pod, step: Step) -> Result<(), Timestamp> {
        match step {
            Step::Wait(_) | Step::Gone => {}
            Step::PrepareVolumes => self.mount_volumes(),
            Step::CreateSandbox { attempt } => return self.create_sandbox(pod, attempt).await,
            Step::StopSandbox { id } => return self.stop_sandbox(pod, id).await,
            Step::RemoveSandbox { id } => return self.remove_sandbox(id).await,
            Step::FindImage { container, attempt } => self.find_image(pod, &container, attempt).await,
            Step::CreateContainer { container, attempt, image } => {
                self.create_container(pod, &container, attempt, &image).await;
            }
            Step::StartContainer { container, id } => self.start_container(pod, &container, &id).await,
            Step::StopContainers(stops) => self.stop_containers(pod, stops),
            Step::UpdateResources { container, id } => self.update_resources(pod, &container, id).await,
            Step::RemoveContainer { id } => return self.remove_container(pod, id).await,
            Step::TearDown => return self.tear_down().await,
        }
        Ok(())
    }

    /// Whether, and until when, the pod has to stop.
    fn update_ending(&mut self, pod: &Pod) {
        let present = self.desired.borrow().present;
        let age = self.node.objects.snapshot_age();
        let ending = termination::ending(pod, present, self.ending, age, Timestamp::now());
        if self.ending.is_none() && ending.is_some() {
            self.pull_jobs.values().for_each(AbortHandle::abort);
            self.pull_jobs.clear();
            self.memory.pulling.clear();
        }
        self.ending = ending;
    }

    /// Takes everything that has come in, without waiting.
    async fn receive(&mut self) {
        while let Ok(result) = self.probe_results.1.try_recv() {
            self.probed(result);
        }
        while let Some(done) = self.jobs.try_join_next() {
            match done {
                Ok(report) => self.reported(report),
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::error!(uid = %self.uid, %error, "work for a pod failed unexpectedly"),
            }
        }
        let now = self.clock();
        if self.data_changed.has_changed().unwrap_or(false) {
            self.data_changed.borrow_and_update();
            self.memory.objects_changed();
            self.remount.asked(now);
        }
        let (snapshot, changed) = (self.desired.borrow().snapshot, self.desired.has_changed().unwrap_or(false));
        if changed {
            self.desired.borrow_and_update();
            self.remount.asked(now); // labels and annotations may be in a volume
        }
        if snapshot != std::mem::replace(&mut self.snapshot, snapshot) {
            self.status.resend();
        }
        if self.relist.is_due(now) {
            let before = self.seen.clone();
            let answered = self.observe().await;
            self.relist.looked(answered, self.seen != before, self.clock());
        }
        self.remount_volumes();
        self.measure_disk();
    }

    fn reported(&mut self, report: Report) {
        match report {
            Report::Mounted(result) => self.mounted(result),
            Report::Remounted(result) => self.remounted(result),
            Report::Pulled { container, attempt, result } => self.pulled(&container, attempt, result),
            Report::Stopped { id, result } => {
                self.stopped(&id, result);
                self.relist.at_once(self.clock());
            }
            Report::DiskUse(used) => self.disk_measured(&used),
            Report::PostStart { id, container, result } => self.post_started(&id, &container, result),
        }
    }

    /// Waits for news, at most until the given moment.
    async fn wait(&mut self, until: Option<Timestamp>, stop: &CancellationToken) {
        let now = self.clock();
        let mut deadline = self.relist.due(now);
        if let Some(until) = until {
            let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
            deadline = deadline.min(now + left);
        }
        if let Some(remount) = self.remount.due(&self.memory.volumes, self.ending.is_some()) {
            deadline = deadline.min(remount);
        }
        if let Some(measure) = self.disk_due() {
            deadline = deadline.min(measure);
        }
        let deadline = self.instant(deadline);
        tokio::select! {
            // Each arm is cancel-safe: receivers keep what was not taken, a JoinSet keeps its
            // results, and the timer is only a bound.
            _ = self.desired.changed() => self.remount.asked(self.clock()),
            Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                if let Ok(report) = done {
                    self.reported(report);
                }
            }
            Some(result) = self.probe_results.1.recv() => self.probed(result),
            () = self.wake.notified() => self.relist.reported(self.clock()),
            changed = self.data_changed.changed() => {
                if changed.is_ok() {
                    self.data_changed.mark_changed();
                }
            }
            () = tokio::time::sleep_until(deadline) => {}
            () = stop.cancelled() => {}
        }
    }
}
