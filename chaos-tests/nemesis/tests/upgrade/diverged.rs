//! One member whose state is made to differ from the others'.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use kontiki_etcd_tests::binaries;
use kontiki_nemesis::{
    clients::{Client, Shared},
    faults::recovered,
    group::{Group, Program, name},
    history::{Ask, Kind, Step},
    upgrade::{Builds, How, busy, risen, swap},
};
use tokio::time::Instant;

/// Members compare their states more often than this.
const NOTICED: Duration = Duration::from_secs(60);
/// Keys written once. The mistake is made at one revision in 64.
const ONCE: u32 = 400;
const WRITER: u32 = 4000;
/// Until a process has ended that must not go on.
const REFUSED: Duration = Duration::from_secs(10);
/// What a member says that stops because it differs.
const DIFFERS: &str = "differs from the majority";
/// What a member says that was told to make a mistake.
const PLANTED: &str = "a mistake is made on purpose";

/// It alone stops and says why, is not started on the same data again, and comes back with an empty disk.
pub fn diverged() -> Result<()> {
    let newer = binaries::kontiki()?;
    let planted = std::env::var_os("KONTIKI_PLANTED_BIN").map_or_else(|| newer.clone(), PathBuf::from);
    let env = vec![("KONTIKI_PLANTED_BUG".to_owned(), "state-diverges".to_owned())];
    let planted = Program { binary: planted, args: Vec::new(), env };
    let builds = Builds::new(PathBuf::new(), newer, &[]);
    let story = async |group: &mut Group, shared: &Arc<Shared>| {
        let recorder = &shared.recorder;
        recovered(group, recorder).await?;
        risen(group).await?;
        let slot = super::follower(group).await?;
        // What it answers from now on is wrong, and that is not what this is about.
        group.shun(slot, true);
        swap(group, slot, &planted, How::Stopped).await?;
        write_once(shared).await;
        stops(group, slot).await?;
        busy(group, recorder, &builds).await?;
        refused(group, slot, &builds.newer).await?;
        busy(group, recorder, &builds).await?;
        group.remove(slot).await?;
        group.install(slot, &builds.newer);
        group.add(slot).await?;
        group.shun(slot, false);
        recovered(group, recorder).await?;
        risen(group).await?;
        busy(group, recorder, &builds).await
    };
    super::told("diverged", &builds.newer, story, |_| Ok(()))
}

/// Keys that nobody writes again: what one of them became on one member stays.
async fn write_once(shared: &Arc<Shared>) {
    let mut client = Client::new(shared, WRITER, u64::from(WRITER));
    for number in 0..ONCE {
        client
            .insist(|client| {
                let put = Step::Put { key: format!("o/{number:04}"), value: client.value(), lease: 0 };
                Ask::plain(Kind::Put, vec![put])
            })
            .await;
    }
}

async fn stops(group: &mut Group, slot: usize) -> Result<()> {
    let begun = Instant::now();
    let status = group.ends(slot, NOTICED).await?;
    let said = group.said(slot);
    ensure!(said.contains(PLANTED), "{} has no mistakes to make: build it with the feature planted-bugs", name(slot));
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(DIFFERS)).collect();
    ensure!(!status.success() && status.code().is_some(), "it ended with {status}: {said}");
    ensure!(!lines.is_empty(), "it does not say why it ended: {said}");
    println!("            {} ended after {:.1} s: {}", name(slot), begun.elapsed().as_secs_f64(), lines[0]);
    Ok(())
}

/// The same data with a program that makes no mistakes.
async fn refused(group: &mut Group, slot: usize, program: &Program) -> Result<()> {
    group.install(slot, program);
    group.run(slot)?;
    let status = group.ends(slot, REFUSED).await?;
    let said = group.said(slot);
    ensure!(!status.success() && status.code().is_some(), "it ended with {status}: {said}");
    let way_out = said.lines().find(|line| line.contains("remove") && line.contains("add"));
    let way_out = way_out.ok_or_else(|| anyhow::anyhow!("it names no way out: {said}"))?;
    println!("            {} again: {way_out}", name(slot));
    Ok(())
}
