//! Groups whose members run different builds of the store, and the feature level that they agree on.
//!
//! Three programs: an older build, which knows no feature levels; the newer one; and the newer one held at the
//! older one's level. What holds for every mixture of them:
//! - while any member cannot do more, the level stays 0, and any of the three may take over any directory;
//! - once none of them is older or held the level rises, on all of them, for good;
//! - whatever runs where, all members hold the same.
//!
//! Not here: what clients see, which the checkers judge.

pub mod random;
pub mod together;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use kontiki_etcd_tests::{binaries, wait::until};
use kontiki_proto::etcd::{MoveLeaderRequest, RangeRequest};
use tokio::time::timeout;

use crate::{
    faults::record,
    group::{Group, Program, name},
    history::{Recorder, Rev},
    run::show,
};

/// The newest feature level.
pub const NEWEST: u64 = 1;
/// The format of a data directory that the older build can be put back on, and of one at the newest level.
const FORMATS: [u64; 2] = [2, 3];
/// Until a level that may rise has done so everywhere.
pub const RISES: Duration = Duration::from_secs(15);
/// Until every member has acknowledged so many writes: clients move between members slowly.
const BUSY: Duration = Duration::from_secs(60);
const WRITES: u64 = 25;
const ANSWER: Duration = Duration::from_secs(5);
const HASHED: Duration = Duration::from_secs(30);

/// The builds of one test.
#[derive(Clone, Debug)]
pub struct Builds {
    pub older: Program,
    pub held: Program,
    pub newer: Program,
}

impl Builds {
    /// Of two binaries, both with this environment.
    #[must_use]
    pub fn new(older: PathBuf, newer: PathBuf, env: &[(String, String)]) -> Self {
        let [older, newer] = [older, newer].map(|binary| Program { binary, args: Vec::new(), env: env.to_vec() });
        let held = Program { args: vec!["--max-feature-level".into(), "0".into()], ..newer.clone() };
        Self { older, held, newer }
    }

    /// Those that are built from this checkout; `None` where its history does not go back to the older one.
    ///
    /// # Errors
    /// One cannot be built or found.
    pub fn find() -> Result<Option<Self>> {
        let newer = binaries::kontiki()?;
        Ok(binaries::older()?.map(|older| Self::new(older, newer, &[])))
    }

    /// The newer one, held by its environment instead of by a flag.
    #[must_use]
    pub fn held_by_environment(&self) -> Program {
        let mut program = self.newer.clone();
        program.env.push(("KONTIKI_MAX_FEATURE_LEVEL".into(), "0".into()));
        program
    }

    /// What a member runs, in a word.
    #[must_use]
    pub fn word(&self, program: &Program) -> &'static str {
        match program {
            program if *program == self.older => "older",
            program if *program == self.newer => "newer",
            program if program.binary == self.newer.binary => "newer, held",
            _ => "another",
        }
    }

    /// The other of the two that may take each other's place.
    #[must_use]
    pub fn other(&self, program: &Program) -> &Program {
        if *program == self.older { &self.held } else { &self.older }
    }

    fn words(&self, group: &Group) -> String {
        let one = |slot| format!("{} {}", name(slot), self.word(group.program(slot)));
        group.present().into_iter().map(one).collect::<Vec<_>>().join(" | ")
    }
}

/// How a process makes room for another build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Stopped,
    Killed,
}

/// Puts another build in a member's place, and does not wait for it.
///
/// # Errors
/// The old process does not stop, or the new one cannot be started.
pub async fn swap(group: &mut Group, slot: usize, program: &Program, how: How) -> Result<()> {
    match how {
        How::Stopped => group.stop(slot).await?,
        How::Killed => group.kill(slot)?,
    }
    group.install(slot, program);
    group.run(slot)
}

/// The same up to full recovery, noted in the history.
///
/// # Errors
/// As [`swap`], or the group does not recover.
pub async fn swapped(
    group: &mut Group,
    recorder: &Recorder,
    builds: &Builds,
    slot: usize,
    program: &Program,
    how: How,
) -> Result<()> {
    let act = async |group: &mut Group| {
        let before = builds.word(group.program(slot));
        swap(group, slot, program, how).await?;
        Ok(format!("{} {how:?} as {before}, now {}", name(slot), builds.word(program)))
    };
    show(&record(group, recorder, "swap", act).await?);
    Ok(())
}

/// Lets a member lead, noted in the history.
///
/// # Errors
/// It does not lead in time.
pub async fn lead(group: &mut Group, recorder: &Recorder, slot: usize) -> Result<()> {
    let act = async |group: &mut Group| {
        until(&format!("{} leads", name(slot)), BUSY, async || {
            let leader = group.leader().await.context("nobody leads")?;
            if leader == slot {
                return anyhow::Ok(());
            }
            let target_id = group.status(slot).await?.header.context("a status without a header")?.member_id;
            let move_it = MoveLeaderRequest { target_id };
            group.ask(leader, async |clients| clients.maintenance.move_leader(move_it).await.map(drop)).await?;
            anyhow::bail!("{} leads", name(leader))
        })
        .await?;
        Ok(name(slot))
    };
    show(&record(group, recorder, "lead", act).await?);
    Ok(())
}

/// Waits until every member has acknowledged some writes from now on, and all hold the same.
///
/// # Errors
/// Not in time.
pub async fn busy(group: &Group, recorder: &Recorder, builds: &Builds) -> Result<()> {
    let before: Vec<(usize, u64)> =
        group.doors().present().into_iter().map(|slot| (slot, recorder.acknowledged_by(slot))).collect();
    until("writes through every member", BUSY, async || {
        let behind = before.iter().find(|(slot, before)| recorder.acknowledged_by(*slot) < before + WRITES);
        behind.map_or(Ok(()), |(slot, _)| Err(format!("too few by {}", name(*slot))))
    })
    .await?;
    let revision = revision(group).await?;
    let hash = group.alike(revision, HASHED).await?;
    let levels = levels(group).await?;
    println!("            {}: all hash to {hash:08x} at revision {revision}, levels {levels:?}", builds.words(group));
    Ok(())
}

/// The newest revision.
async fn revision(group: &Group) -> Result<Rev> {
    let slot = *group.doors().present().first().context("a group has members")?;
    let read = RangeRequest { key: "nobody".into(), ..Default::default() };
    let answer = timeout(ANSWER, group.doors().clients(slot).kv.range(read)).await.context("no answer")??;
    Ok(answer.into_inner().header.context("an answer without a header")?.revision)
}

/// The feature levels at which the members work that clients may ask; 0 for one that knows of none.
///
/// # Errors
/// A member does not answer.
pub async fn levels(group: &Group) -> Result<Vec<u64>> {
    let mut levels = Vec::new();
    for slot in group.doors().present() {
        levels.push(group.metrics(slot).await?.get("kontiki_store_feature_level").unwrap_or(0));
    }
    Ok(levels)
}

/// Makes sure that none of those is above level 0, nor says so on its disk.
///
/// # Errors
/// One is.
pub async fn not_risen(group: &Group) -> Result<()> {
    let levels = levels(group).await?;
    ensure!(levels.iter().all(|level| *level == 0), "the level has risen: {levels:?}");
    for slot in group.doors().present() {
        let format = format(group, slot)?;
        ensure!(
            format == FORMATS[0],
            "the data of {} have format {format}, and no older program reads them",
            name(slot)
        );
    }
    Ok(())
}

/// Waits until all of them are at the newest level, in memory and on disk.
///
/// # Errors
/// Not in time.
pub async fn risen(group: &Group) -> Result<()> {
    until("the newest feature level everywhere", RISES, async || {
        let levels = levels(group).await?;
        ensure!(levels.iter().all(|level| *level == NEWEST), "levels {levels:?}");
        for slot in group.doors().present() {
            let format = format(group, slot)?;
            ensure!(format == FORMATS[1], "the data of {} have format {format}", name(slot));
        }
        anyhow::Ok(())
    })
    .await
}

/// The format of a member's data directory, as that says itself.
fn format(group: &Group, slot: usize) -> Result<u64> {
    let path = group.data(slot).join("identity.json");
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let identity: serde_json::Value = serde_json::from_slice(&text)?;
    identity["format"].as_u64().with_context(|| format!("{} names no format", path.display()))
}
