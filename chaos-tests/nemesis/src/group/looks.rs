//! Looking at the members: who leads, whether they answer, whether they hold the same.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use kontiki_proto::etcd::{HashKvRequest, RangeRequest, StatusRequest, StatusResponse};
use tokio::time::{Instant, sleep, timeout};

use super::{ANSWER, Group, POLL, name};
use crate::history::Rev;

impl Group {
    /// What a member says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self, slot: usize) -> Result<StatusResponse> {
        let mut clients = self.doors.clients(slot);
        let answer = timeout(ANSWER, clients.maintenance.status(StatusRequest {})).await;
        Ok(answer.with_context(|| format!("{} is silent", name(slot)))??.into_inner())
    }

    /// The member that leads, by the newest term that any member knows.
    pub async fn leader(&self) -> Option<usize> {
        let mut best = None;
        for slot in self.present() {
            let Ok(status) = self.status(slot).await else { continue };
            let leads = status.header.as_ref().is_some_and(|header| header.member_id == status.leader);
            if leads {
                best = best.max(Some((status.raft_term, slot)));
            }
        }
        best.map(|(_, slot)| slot)
    }

    /// Waits until every member answers a linearizable read.
    ///
    /// # Errors
    /// Not in time; with who did not, and why.
    pub async fn healthy(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let mut last = Vec::new();
            for slot in self.present() {
                if let Err(error) = self.reads(slot).await {
                    self.note_death(slot);
                    let dead = if self.slots[slot].child.is_none() { " (ended)" } else { "" };
                    last.push(format!("{}{dead}: {error:#}", name(slot)));
                }
            }
            if last.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not healthy within {} s: {}", limit.as_secs(), last.join("; "));
            }
            sleep(POLL).await;
        }
    }

    async fn reads(&self, slot: usize) -> Result<()> {
        let mut clients = self.doors.clients(slot);
        let read = RangeRequest { key: "nobody".into(), ..Default::default() };
        timeout(ANSWER, clients.kv.range(read)).await.context("no answer")??;
        Ok(())
    }

    /// Waits until every member that clients may ask gives the same hash of all keys at a revision, and gives that.
    /// Members that compact at their own pace hash alike once they are done.
    ///
    /// # Errors
    /// Not in time; with what each of them said.
    pub async fn alike(&self, revision: Rev, limit: Duration) -> Result<u32> {
        let deadline = Instant::now() + limit;
        loop {
            let mut said = BTreeMap::new();
            for slot in self.doors.present() {
                said.insert(name(slot), self.hash(slot, revision).await.map_err(|error| format!("{error:#}")));
            }
            if let Some(Ok(first)) = said.values().next()
                && said.values().all(|hash| hash.as_ref() == Ok(first))
            {
                return Ok(first.0);
            }
            if Instant::now() > deadline {
                bail!("hashes and compacted revisions at revision {revision}: {said:?}");
            }
            sleep(POLL).await;
        }
    }

    async fn hash(&self, slot: usize, revision: Rev) -> Result<(u32, Rev)> {
        let mut clients = self.doors.clients(slot);
        let answer = timeout(ANSWER * 2, clients.maintenance.hash_kv(HashKvRequest { revision })).await;
        let answer = answer.context("no answer")??.into_inner();
        Ok((answer.hash, answer.compact_revision))
    }
}
