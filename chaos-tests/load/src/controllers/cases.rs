//! The table of what controllers are given to do.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::{load::figures::Column, process, wait::until};
use serde_json::Value;

use super::{
    Amounts,
    follow::{Counts, Following, LIMIT},
    hollow::Hollow,
    objects::{self, complete, named, rolled_out},
    takeover,
};
use crate::{
    closed::{self, Client, Limit, Work},
    objects::{NAME, name, namespace},
    peer::Peer,
    wire::{Request, STRATEGIC},
};

/// Pods of a Job.
const JOB_PODS: usize = 10;
/// Clients that create many objects.
const CREATORS: usize = 16;
/// How long those at rest are looked at.
const REST: Duration = Duration::from_secs(20);
/// Until a namespace has its service account.
const ACCOUNT: Duration = Duration::from_secs(60);
const MIB: f64 = 1024.0 * 1024.0;
const MINUTE: u64 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    Deployment,
    Jobs,
    CronJobs,
    Takeover,
}

pub const CASES: &[Case] = &[Case::Deployment, Case::Jobs, Case::CronJobs, Case::Takeover];

impl Case {
    pub fn title(self, amounts: &Amounts) -> String {
        match self {
            Self::Deployment => format!("Deployment of {} Pods", amounts.replicas),
            Self::Jobs => format!("{} Jobs of {JOB_PODS} Pods", amounts.jobs),
            Self::CronJobs => format!("{} CronJobs due in one minute", amounts.cron_jobs),
            Self::Takeover => format!("leader killed, {} times", amounts.kills),
        }
    }

    /// Whether a leader is killed, so that another has to be there.
    pub fn wants_standby(self) -> bool {
        self == Self::Takeover
    }

    /// # Errors
    /// Controllers do not do it, or something ends.
    pub async fn measure(self, peer: &mut Peer, amounts: &Amounts, column: &mut Column<'_>) -> Result<()> {
        let title = self.title(amounts);
        let namespace = match self {
            Self::Deployment => "deployment",
            Self::Jobs => "jobs",
            Self::CronJobs => "cron-jobs",
            Self::Takeover => return takeover::measure(peer, &title, amounts.kills, column).await,
        };
        let peer: &Peer = peer;
        let place = Place { peer, namespace, title, controllers: peer.controllers().await? };
        place.prepare().await?;
        let hollow = Hollow::start(peer, namespace).await?;
        let work = async {
            match self {
                Self::Deployment => deployment(&place, &hollow, amounts.replicas, column).await,
                Self::Jobs => jobs(&place, amounts.jobs, column).await,
                _ => cron_jobs(&place, amounts.cron_jobs, column).await,
            }
        };
        hollow.beside(work).await?;
        drop(hollow);
        place.clear().await
    }
}

/// Where a case happens: a namespace of a peer.
struct Place<'a> {
    peer: &'a Peer,
    namespace: &'static str,
    title: String,
    /// The process that has them.
    controllers: u32,
}

/// Processor seconds so far.
#[derive(Clone, Copy)]
struct Used {
    all: f64,
    controllers: f64,
    own: f64,
}

struct Span {
    start: Instant,
    before: Used,
}

impl Place<'_> {
    async fn prepare(&self) -> Result<()> {
        self.peer.ensure("/api/v1/namespaces", &namespace(self.namespace)).await?;
        until("a namespace's service account", ACCOUNT, async || self.peer.account(self.namespace).await).await?;
        self.peer.calm().await
    }

    /// Deletes the namespace and waits until it is gone.
    async fn clear(&self) -> Result<()> {
        let (mut connection, path) = (self.peer.connect(0).await?, format!("/api/v1/namespaces/{}", self.namespace));
        let (status, answer) = connection.json("DELETE", &path, None).await?;
        ensure!([200, 202, 404, 409].contains(&status), "{answer}");
        let gone = until("a namespace is gone", LIMIT, async || {
            let (status, answer) = connection.json("GET", &path, None).await?;
            ensure!(status == 404, "{answer}");
            anyhow::Ok(())
        });
        gone.await
    }

    fn collection(&self, group: &str, plural: &str) -> String {
        format!("/apis/{group}/namespaces/{}/{plural}", self.namespace)
    }

    fn used(&self) -> Result<Used> {
        Ok(Used {
            all: self.peer.cpu()?,
            controllers: process::cpu_seconds(self.controllers)?,
            own: process::cpu_seconds(std::process::id())?,
        })
    }

    fn begin(&self) -> Result<Span> {
        Ok(Span { start: Instant::now(), before: self.used()? })
    }

    /// What it took since the beginning of the span.
    fn tell(&self, span: &Span, what: &str, column: &mut Column<'_>) -> Result<()> {
        let (seconds, before, after) = (span.start.elapsed().as_secs_f64(), span.before, self.used()?);
        let title = format!("{}, {what}", self.title);
        column.add(&title, "s", seconds);
        column.add(&title, "CPU s of all servers", after.all - before.all);
        column.add(&title, "CPU s of the process with the controllers", after.controllers - before.controllers);
        column.add(&title, "generator CPU s", after.own - before.own);
        Ok(())
    }

    /// What is used when nothing changes.
    async fn rest(&self, what: &str, column: &mut Column<'_>) -> Result<()> {
        self.peer.calm().await?;
        let span = self.begin()?;
        tokio::time::sleep(REST).await;
        let (seconds, after) = (span.start.elapsed().as_secs_f64(), self.used()?);
        let title = format!("{}, at rest {what}", self.title);
        let share = |before: f64, after: f64| (after - before) / seconds * 100.0;
        column.add(&title, "% of a core, all servers", share(span.before.all, after.all));
        let controllers = share(span.before.controllers, after.controllers);
        column.add(&title, "% of a core, the process with the controllers", controllers);
        column.add(&title, "RSS of all servers, MiB", self.peer.rss()?.iter().sum::<u64>() as f64 / MIB);
        let rss = process::rss(self.controllers)? as f64;
        column.add(&title, "RSS of the process with the controllers, MiB", rss / MIB);
        Ok(())
    }

    /// Creates objects of one kind that differ in their names.
    async fn create(&self, path: &str, object: &Value, count: usize) -> Result<()> {
        let (template, next) = (Arc::new(named(object)), Arc::default());
        let mut clients = Vec::new();
        for number in 0..CREATORS {
            let (path, template) = (path.to_owned(), Arc::clone(&template));
            let work = Work::Create { path, template, holes: |number| vec![name(number)], next: Arc::clone(&next) };
            clients.push(Client::new(self.peer.connect(number).await?, work));
        }
        let (_, run) = closed::run(clients, Limit::Requests(count)).await?;
        ensure!(run.refusals == 0, "{} of {count} objects were refused", run.refusals);
        Ok(())
    }
}

async fn deployment(place: &Place<'_>, hollow: &Hollow, replicas: usize, column: &mut Column<'_>) -> Result<()> {
    let collection = place.collection("apps/v1", "deployments");
    let rolled = async || Following::start(place.peer, &collection, rolled_out, None).await;
    let done = |counts: Counts| counts.done == 1;
    place.rest("before it", column).await?;

    let deployments = rolled().await?;
    let mut connection = place.peer.connect(0).await?;
    let span = place.begin()?;
    let body = objects::deployment("front", replicas);
    let (status, answer) = connection.json("POST", &collection, Some(&body)).await?;
    ensure!(status == 201, "{answer}");
    hollow.pods().wait("all Pods of a Deployment", |counts| counts.all >= replicas).await?;
    place.tell(&span, "created until all Pods exist", column)?;
    deployments.wait("a Deployment that is rolled out", done).await?;
    place.tell(&span, "created until all are available", column)?;
    place.rest("with it", column).await?;

    let span = place.begin()?;
    let path = format!("{collection}/front");
    let mut connection = place.peer.connect(0).await?;
    let body = Some((STRATEGIC, objects::ROLL.as_bytes()));
    let answer = connection.ask(&Request { method: "PATCH", body, ..Request::get(&path) }).await?;
    ensure!(answer.status == 200, "{}", String::from_utf8_lossy(connection.body()));
    // Listed anew: the state before the change would pass for done.
    rolled().await?.wait("a Deployment that is rolled out again", done).await?;
    place.tell(&span, "rolled to another template", column)?;

    place.peer.calm().await?;
    let span = place.begin()?;
    place.clear().await?;
    place.tell(&span, "its namespace deleted until it is gone", column)
}

async fn jobs(place: &Place<'_>, count: usize, column: &mut Column<'_>) -> Result<()> {
    let collection = place.collection("batch/v1", "jobs");
    let jobs = Following::start(place.peer, &collection, complete, None).await?;
    let span = place.begin()?;
    place.create(&collection, &objects::job(NAME, JOB_PODS), count).await?;
    jobs.wait("all Jobs are complete", |counts| counts.done == count).await?;
    place.tell(&span, "created until all are complete", column)
}

async fn cron_jobs(place: &Place<'_>, count: usize, column: &mut Column<'_>) -> Result<()> {
    let minute = due(since_epoch()?.as_secs(), count as u64);
    let jobs = Following::start(place.peer, &place.collection("batch/v1", "jobs"), complete, None).await?;
    let object = objects::cron_job(NAME, &schedule(minute));
    place.create(&place.collection("batch/v1", "cronjobs"), &object, count).await?;
    let left = Duration::from_secs(minute).checked_sub(since_epoch()?);
    tokio::time::sleep(left.context("the CronJobs were due before all were created")?).await;
    let span = place.begin()?;
    jobs.wait("all CronJobs have a Job", |counts| counts.all >= count).await?;
    place.tell(&span, "from the minute until the last has a Job", column)?;
    jobs.wait("all Jobs of CronJobs are complete", |counts| counts.done >= count).await?;
    place.tell(&span, "from the minute until all Jobs are complete", column)
}

fn since_epoch() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// The first beginning of a minute that leaves time to create so many objects, in seconds since the epoch.
fn due(now: u64, count: u64) -> u64 {
    (now + 10 + count / 100).next_multiple_of(MINUTE)
}

/// Once a day, at that minute in UTC.
fn schedule(minute: u64) -> String {
    format!("{} {} * * *", minute / MINUTE % 60, minute / MINUTE / 60 % 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cron_jobs_are_due_when_there_was_time_to_create_them() {
        let day = 20_000 * 86_400;
        for (now, count, expected, text) in [
            (0, 0, 60, "1 0 * * *"),
            (50, 0, 60, "1 0 * * *"),
            (51, 0, 120, "2 0 * * *"),
            (0, 5_000, 60, "1 0 * * *"),
            (1, 5_000, 120, "2 0 * * *"),
            (13 * 3600 + 59 * 60, 500, 14 * 3600, "0 14 * * *"),
            (23 * 3600 + 59 * 60, 500, 24 * 3600, "0 0 * * *"),
        ] {
            let minute = due(day + now, count);
            assert_eq!((minute - day, schedule(minute)), (expected, text.to_owned()), "{now}, {count}");
        }
    }

    #[test]
    fn every_case_has_a_title_of_its_own() {
        let titles: std::collections::BTreeSet<_> = CASES.iter().map(|case| case.title(&Amounts::full())).collect();
        assert_eq!(titles.len(), CASES.len());
        assert!(titles.contains("1000 Jobs of 10 Pods"));
    }
}
