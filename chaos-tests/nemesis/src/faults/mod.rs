//! What is done to the group.
//!
//! A fault is applied, held, and healed; healing is [`Group::heal`]'s alone, so a fault says only how it
//! begins. [`strike`] notes how long no write was acknowledged and when every member answered again.

mod disks;
mod links;
mod members;
mod processes;
mod upkeep;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::{Instant, sleep};

use crate::{
    group::Group,
    history::{Line, Mark, Recorder},
};

/// From healed until writes are acknowledged and every member answers.
const RECOVERY: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

/// Everything that can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillOne,
    KillLeader,
    KillMajority,
    KillAll,
    PauseOne,
    PauseLeader,
    Restart,
    IsolateLeader,
    Halves,
    Ring,
    OneWay,
    Bridge,
    Unplug,
    Slow,
    Loss,
    FullDisk,
    TornWrite,
    GarbageLog,
    PowerCut,
    PowerCutAll,
    StalledDisk,
    Replace,
    Resize,
    ClockJump,
    Compact,
    MoveLeader,
}

/// All faults, with the names by which they are asked for.
pub const ALL: &[(&str, Fault)] = &[
    ("kill-one", Fault::KillOne),
    ("kill-leader", Fault::KillLeader),
    ("kill-majority", Fault::KillMajority),
    ("kill-all", Fault::KillAll),
    ("pause-one", Fault::PauseOne),
    ("pause-leader", Fault::PauseLeader),
    ("restart", Fault::Restart),
    ("isolate-leader", Fault::IsolateLeader),
    ("halves", Fault::Halves),
    ("ring", Fault::Ring),
    ("one-way", Fault::OneWay),
    ("bridge", Fault::Bridge),
    ("unplug", Fault::Unplug),
    ("slow", Fault::Slow),
    ("loss", Fault::Loss),
    ("full-disk", Fault::FullDisk),
    ("torn-write", Fault::TornWrite),
    ("garbage-log", Fault::GarbageLog),
    ("power-cut", Fault::PowerCut),
    ("power-cut-all", Fault::PowerCutAll),
    ("stalled-disk", Fault::StalledDisk),
    ("replace", Fault::Replace),
    ("resize", Fault::Resize),
    ("clock-jump", Fault::ClockJump),
    ("compact", Fault::Compact),
    ("move-leader", Fault::MoveLeader),
];

/// What faults are asked for by.
#[must_use]
pub fn names() -> String {
    ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

impl Fault {
    /// The name by which it is asked for.
    #[must_use]
    pub fn name(self) -> &'static str {
        ALL.iter().find(|(_, fault)| *fault == self).map_or("?", |(name, _)| name)
    }

    /// Faults from names with commas between them; all for an empty list.
    ///
    /// # Errors
    /// A name is unknown.
    pub fn parse(list: &str) -> Result<Vec<Self>> {
        let find = |name: &str| {
            let found = ALL.iter().find(|(known, _)| *known == name).map(|(_, fault)| *fault);
            found.with_context(|| format!("no fault is called {name}: there are {}", names()))
        };
        let names: Vec<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Ok(ALL.iter().map(|(_, fault)| *fault).collect());
        }
        names.into_iter().map(find).collect()
    }

    /// Whether it means anything for this group.
    #[must_use]
    pub fn fits(self, group: &Group) -> bool {
        match self {
            Self::Ring => group.present().len() == 5,
            Self::Bridge | Self::Halves => group.present().len() >= 3,
            Self::ClockJump => group.has_clocks(),
            _ => true,
        }
    }

    async fn apply(self, group: &mut Group, rng: &mut StdRng) -> Result<String> {
        match self {
            Self::KillOne => processes::kill_one(group, rng),
            Self::KillLeader => processes::kill_leader(group, rng).await,
            Self::KillMajority => processes::kill_majority(group, rng),
            Self::KillAll => processes::kill_all(group),
            Self::PauseOne => processes::pause_one(group, rng),
            Self::PauseLeader => processes::pause_leader(group, rng).await,
            Self::Restart => processes::restart(group).await,
            Self::ClockJump => processes::jump_clock(group, rng),
            Self::IsolateLeader => links::isolate_leader(group, rng).await,
            Self::Halves => links::halves(group, rng),
            Self::Ring => links::ring(group, rng),
            Self::OneWay => links::one_way(group, rng).await,
            Self::Bridge => links::bridge(group, rng),
            Self::Unplug => links::unplug(group, rng).await,
            Self::Slow => links::slow(group, rng),
            Self::Loss => links::loss(group, rng),
            Self::FullDisk => disks::full(group, rng),
            Self::TornWrite => disks::torn(group, rng),
            Self::GarbageLog => disks::garbage(group, rng),
            Self::PowerCut => disks::power_cut(group, rng).await,
            Self::PowerCutAll => disks::power_cut_all(group),
            Self::StalledDisk => disks::stall(group, rng).await,
            Self::Replace => members::replace(group, rng).await,
            Self::Resize => members::resize(group, rng).await,
            Self::Compact => upkeep::compact(group, rng).await,
            Self::MoveLeader => upkeep::move_leader(group, rng).await,
        }
    }
}

/// Some member.
fn any(group: &Group, rng: &mut StdRng) -> usize {
    *group.present().choose(rng).expect("a group has members")
}

/// The leader, or some member while there is none.
async fn leader(group: &Group, rng: &mut StdRng) -> usize {
    let leader = group.leader().await;
    leader.unwrap_or_else(|| any(group, rng))
}

/// The leader or some member, each half of the time.
async fn either(group: &Group, rng: &mut StdRng) -> usize {
    if rng.random_bool(0.5) { leader(group, rng).await } else { any(group, rng) }
}

/// Does one fault, from its start to full recovery, and records it.
///
/// # Errors
/// The group does not recover; with the ends of the logs.
pub async fn strike(group: &mut Group, recorder: &Recorder, fault: Fault, rng: &mut StdRng) -> Result<Mark> {
    strike_during(group, recorder, fault, rng, async |_, _| Ok(String::new())).await
}

/// The same, with something else that happens as soon as the fault is there; it says what it did.
///
/// # Errors
/// As [`strike`].
pub async fn strike_during(
    group: &mut Group,
    recorder: &Recorder,
    fault: Fault,
    rng: &mut StdRng,
    more: impl AsyncFnOnce(&mut Group, &mut StdRng) -> Result<String>,
) -> Result<Mark> {
    let hold = Duration::from_millis(rng.random_range(500..6000));
    let act = async |group: &mut Group| {
        let detail = fault.apply(group, rng).await.with_context(|| format!("the fault {}", fault.name()))?;
        let more = more(group, rng).await?;
        sleep(hold).await;
        Ok(if more.is_empty() { detail } else { format!("{detail}; {more}") })
    };
    record(group, recorder, fault.name(), act).await
}

/// Does something to the group, heals it, waits for full recovery, and records all that.
///
/// # Errors
/// It could not be done, or the group does not recover; with the ends of the logs.
pub async fn record(
    group: &mut Group,
    recorder: &Recorder,
    name: &str,
    act: impl AsyncFnOnce(&mut Group) -> Result<String>,
) -> Result<Mark> {
    recorder.watch_gap();
    let start = recorder.now();
    let detail = act(group).await;
    group.heal().await?;
    let healed = recorder.now();
    let mut mark = Mark { name: name.into(), detail: String::new(), start, healed, recovered: None, gap: 0 };
    let recovered = recovered(group, recorder).await;
    mark.gap = recorder.gap();
    mark.recovered = recovered.is_ok().then(|| recorder.now());
    mark.detail = detail.as_ref().map_or_else(|error| format!("{error:#}"), Clone::clone);
    recorder.line(&Line::Fault(mark.clone()));
    detail?;
    recovered.map(|()| mark)
}

/// Waits until a write is acknowledged that was asked for after now, and every member answers.
///
/// # Errors
/// Not in time.
pub async fn recovered(group: &mut Group, recorder: &Recorder) -> Result<()> {
    let (healed, deadline) = (recorder.now(), Instant::now() + RECOVERY);
    while recorder.last_write() <= healed {
        if Instant::now() > deadline {
            let logs = group.present().into_iter().map(|slot| format!("--- s{}\n{}", slot + 1, group.tail(slot, 15)));
            bail!("no write was acknowledged within {} s\n{}", RECOVERY.as_secs(), logs.collect::<Vec<_>>().join("\n"));
        }
        sleep(POLL).await;
    }
    group.healthy(RECOVERY).await
}
