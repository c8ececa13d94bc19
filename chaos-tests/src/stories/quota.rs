//! A quota is kept, whoever is asked and whoever dies.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::Scratch;
use crate::{cluster::Cluster, wait};

const CREATES: usize = 200;
/// So many have got an answer when the leader dies; the others are under way.
const BEFORE: usize = 20;
const ALLOWED: usize = 50;
/// Before somebody who was told nothing asks again.
const PAUSE: Duration = Duration::from_millis(100);

pub async fn a_quota_holds_through_all_masters_and_a_leaders_death(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-quota").await?;
    s.kubectl(&format!("create quota few --hard=count/secrets={ALLOWED}")).await?;
    let used = async || s.kubectl("get quota few -o jsonpath={.status.used.count/secrets}").await;
    let counted = async || if used().await? == "0" { Ok(()) } else { Err(anyhow!("the quota is not looked at yet")) };
    wait::until("the quota counts", wait::PATIENCE, counted).await?;
    c.healthy().await?;
    let leader = c.leader().await?;
    let mut masters = Vec::new();
    for (_, address) in c.servers().await? {
        masters.push(Api::namespaced(c.hasty_client(Some(&address.to_string())).await?, s.name));
    }
    let (answered, mut heard) = watch::channel(0);
    let makers = Arc::new(Makers { masters, answered });
    let mut creates = JoinSet::new();
    (0..CREATES).for_each(|number| drop(creates.spawn(makers.clone().create(number))));
    timeout(wait::PATIENCE, heard.wait_for(|count| *count >= BEFORE)).await.context("nobody is answered")??;
    c.signal("servers", &leader, Signal::SIGKILL)?;
    let before = *heard.borrow();
    let told = timeout(wait::PATIENCE, creates.join_all()).await.context("somebody is never answered")?;
    let told = told.into_iter().collect::<Result<Vec<Told>>>()?;
    c.up(&["--no-demo"]).await?;
    c.healthy().await?;

    let api: Api<Secret> = Api::namespaced(c.client().await?, s.name);
    let there = api.list(&ListParams::default()).await?.items.into_iter().filter_map(|secret| secret.metadata.name);
    let there: BTreeSet<String> = there.collect();
    let unsure = told.iter().filter(|told| !told.sure).count();
    println!("      {before} answers before the leader died, {unsure} of {CREATES} had to ask again");
    ensure!(there.len() == ALLOWED, "{} are there", there.len());
    wait::until("the quota to count all of them", wait::PATIENCE, async || {
        let used = used().await?;
        if used == ALLOWED.to_string() { Ok(()) } else { Err(anyhow!("{used}")) }
    })
    .await?;
    for told in told {
        // Who asked again may be refused although the first attempt counted.
        ensure!(!told.made || there.contains(&told.name), "{} was acknowledged and is not there", told.name);
        ensure!(told.made || !told.sure || !there.contains(&told.name), "{} was refused and is there", told.name);
    }
    s.done().await
}

struct Makers {
    masters: Vec<Api<Secret>>,
    /// How many have got their last answer.
    answered: watch::Sender<usize>,
}

/// What somebody was told in the end.
struct Told {
    name: String,
    made: bool,
    /// Whether the first answer was the only one.
    sure: bool,
}

impl Makers {
    /// Asks one master after another until one says yes or no.
    async fn create(self: Arc<Self>, number: usize) -> Result<Told> {
        let name = format!("s{number}");
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        let mut attempts = 0;
        let made = loop {
            let master = &self.masters[(number + attempts) % self.masters.len()];
            match master.create(&PostParams::default(), &secret).await {
                Ok(_) => break true,
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    ensure!(status.message.contains("exceeded quota: few"), "{status:?}");
                    break false;
                }
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" && attempts > 0 => break true,
                Err(kube::Error::Api(status)) if !matches!(status.code, 409 | 429 | 500..) => bail!("{status:?}"),
                // Nobody knows what became of it.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            attempts += 1;
        };
        self.answered.send_modify(|count| *count += 1);
        Ok(Told { name, made, sure: attempts == 0 })
    }
}
