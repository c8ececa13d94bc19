//! After the level has risen: an older build on a member's data, and as a member of its own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::wait::until;
use kontiki_nemesis::{
    clients::Shared,
    faults::{record, recovered},
    group::{Group, name, peer_url},
    run::show,
    upgrade::{Builds, busy, risen},
};
use kontiki_proto::etcd::{Member, MemberPromoteRequest};

/// Until a process has ended that cannot go on.
const ENDS: Duration = Duration::from_secs(10);
const REFUSAL: &str = "its format is 3, this program reads 2";
/// Until the leader has found out what a new member is.
const WARNED: Duration = Duration::from_secs(30);
/// Where the fresh member sits.
const FRESH: usize = 3;

pub fn too_old(builds: &Builds) -> Result<()> {
    let story = async |group: &mut Group, shared: &Arc<Shared>| {
        let recorder = &shared.recorder;
        recovered(group, recorder).await?;
        risen(group).await?;
        busy(group, recorder, builds).await?;
        let slot = super::follower(group).await?;
        let act = async |group: &mut Group| on_newer_data(group, builds, slot).await;
        show(&record(group, recorder, "older-build", act).await?);
        busy(group, recorder, builds).await?;
        group.install(FRESH, &builds.older);
        group.shun(FRESH, true);
        group.add(FRESH).await?;
        stays_learner(group).await?;
        busy(group, recorder, builds).await?;
        warned(group).await?;
        stays_learner(group).await?;
        group.remove(FRESH).await?;
        recovered(group, recorder).await?;
        risen(group).await
    };
    super::told("too-old", &builds.newer, story, |_| Ok(()))
}

/// The older build ends at once, says why, and changes nothing; the newer one goes on where it was.
async fn on_newer_data(group: &mut Group, builds: &Builds, slot: usize) -> Result<String> {
    group.stop(slot).await?;
    let before = files(&group.data(slot))?;
    group.install(slot, &builds.older);
    group.run(slot)?;
    let status = group.ends(slot, ENDS).await?;
    let said = group.said(slot);
    let lines: Vec<&str> = said.lines().collect();
    ensure!(!status.success() && status.code().is_some(), "it ended with {status}");
    ensure!(matches!(lines[..], [line] if line.contains(REFUSAL)), "it said: {said}");
    let after = files(&group.data(slot))?;
    let changed: Vec<_> = after.iter().filter(|(path, bytes)| before.get(*path) != Some(bytes)).collect();
    ensure!(
        before.len() == after.len() && changed.is_empty(),
        "it changed {:?}",
        changed.first().map(|(path, _)| path)
    );
    group.install(slot, &builds.newer);
    Ok(format!("{}: {}", name(slot), lines[0]))
}

/// Every file below, with what is in it.
fn files(dir: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(files(&path)?);
        } else {
            all.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(all)
}

/// The fresh member, as the others know it.
async fn fresh(group: &Group) -> Result<Member> {
    let members = group.members().await?;
    let fresh = members.into_iter().find(|member| member.peer_ur_ls.contains(&peer_url(FRESH)));
    fresh.context("the others do not know the fresh member")
}

/// The leader's log names the fresh member in a warning.
async fn warned(group: &Group) -> Result<()> {
    let member = fresh(group).await?;
    let address = peer_url(FRESH).trim_start_matches("https://").to_owned();
    let names = [name(FRESH), address, member.id.to_string()];
    until("a warning of the leader", WARNED, async || {
        let leader = group.leader().await.context("nobody leads")?;
        let said = group.said(leader);
        let warning = said.lines().find(|line| line.contains("WARN") && names.iter().any(|name| line.contains(name)));
        let warning = warning.with_context(|| format!("{} says nothing of {names:?}", name(leader)))?;
        println!("            {}: {warning}", name(leader));
        anyhow::Ok(())
    })
    .await
}

async fn stays_learner(group: &Group) -> Result<()> {
    let member = fresh(group).await?;
    ensure!(member.is_learner, "a member votes that cannot read the log");
    let leader = group.leader().await.context("nobody leads")?;
    let promote = MemberPromoteRequest { id: member.id };
    let promoted = group.ask(leader, async |clients| clients.cluster.member_promote(promote).await.map(drop)).await;
    ensure!(promoted.is_err(), "a member was promoted that cannot read the log");
    Ok(())
}
