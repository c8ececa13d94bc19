//! Members that are taken out of the group and added to it, through the Cluster API.

use anyhow::{Result, anyhow, ensure};
use kontiki_etcd_tests::client::Clients;
use kontiki_proto::etcd::{Member, MemberAddRequest, MemberListRequest, MemberRemoveRequest};
use tokio::time::{Duration, Instant, sleep, timeout};

use super::{ANSWER, Group, POLL, SLOTS, initial_cluster, name, peer_url};

/// Until a change of membership is accepted: etcd wants every member to have been connected for a while.
const CHANGE: Duration = Duration::from_secs(90);

impl Group {
    /// The members as the group itself lists them.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn members(&self) -> Result<Vec<Member>> {
        let mut last = anyhow!("nobody to ask");
        for slot in self.present() {
            let mut clients = self.doors.clients(slot);
            match timeout(ANSWER, clients.cluster.member_list(MemberListRequest { linearizable: true })).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner().members),
                Ok(Err(status)) => last = status.into(),
                Err(late) => last = late.into(),
            }
        }
        Err(last.context("listing the members"))
    }

    /// Takes a member out of the group, ends it and wipes its disk.
    ///
    /// # Errors
    /// The group refuses for too long.
    pub async fn remove(&mut self, slot: usize) -> Result<()> {
        self.doors.seats.lock().present.remove(&slot);
        let deadline = Instant::now() + CHANGE;
        loop {
            let members = self.members().await;
            let there =
                members.as_ref().ok().map(|members| members.iter().find(|m| m.peer_ur_ls.contains(&peer_url(slot))));
            if let Some(None) = there {
                break;
            }
            let answer = match there.flatten().map(|member| member.id) {
                Some(id) => {
                    self.change(async |clients| {
                        clients.cluster.member_remove(MemberRemoveRequest { id }).await.map(drop)
                    })
                    .await
                }
                None => Err(members.err().unwrap_or_else(|| anyhow!("no members"))),
            };
            if let Err(error) = answer {
                ensure!(Instant::now() < deadline, "removing {}: {error:#}", name(slot));
                sleep(POLL * 5).await;
            }
        }
        // A removed member may end by itself.
        self.slots[slot].excused = true;
        self.kill(slot)?;
        self.wipe(slot)
    }

    /// Removes all that a member which does not run has on its disk.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn wipe(&mut self, slot: usize) -> Result<()> {
        self.disk(slot)?.wipe()
    }

    /// Adds a fresh member and starts it.
    ///
    /// # Errors
    /// The group refuses for too long.
    pub async fn add(&mut self, slot: usize) -> Result<()> {
        let deadline = Instant::now() + CHANGE;
        let members = loop {
            let members = self.members().await?;
            if members.iter().any(|member| member.peer_ur_ls.contains(&peer_url(slot))) {
                break members;
            }
            let add = MemberAddRequest { peer_ur_ls: vec![peer_url(slot)], is_learner: false };
            let answer = self.change(async |clients| clients.cluster.member_add(add.clone()).await.map(drop)).await;
            if let Err(error) = answer {
                ensure!(Instant::now() < deadline, "adding {}: {error:#}", name(slot));
                sleep(POLL * 5).await;
            }
        };
        let slots = (0..SLOTS).filter(|slot| members.iter().any(|member| member.peer_ur_ls.contains(&peer_url(*slot))));
        self.slots[slot].start = (initial_cluster(slots), "existing");
        self.run(slot)?;
        self.doors.seats.lock().present.insert(slot);
        Ok(())
    }

    /// Asks one member after the other until one accepts.
    async fn change(&self, ask: impl AsyncFn(&mut Clients) -> Result<(), tonic::Status>) -> Result<()> {
        let mut last = anyhow!("nobody to ask");
        for slot in self.present() {
            match self.ask(slot, &ask).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}
