//! Processes that die, stop for a while, are restarted, or lose track of the time.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use rand::{Rng, rngs::StdRng, seq::SliceRandom};

use super::{any, leader};
use crate::group::{Group, name};

/// Of one member in a rolling restart.
const BACK: Duration = Duration::from_secs(60);

pub fn kill_one(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = any(group, rng);
    group.kill(slot)?;
    Ok(name(slot))
}

pub async fn kill_leader(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = leader(group, rng).await;
    group.kill(slot)?;
    Ok(name(slot))
}

pub fn kill_majority(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let mut slots = group.present();
    slots.shuffle(rng);
    slots.truncate(slots.len() / 2 + 1);
    slots.iter().try_for_each(|slot| group.kill(*slot))?;
    Ok(names(&slots))
}

pub fn kill_all(group: &mut Group) -> Result<String> {
    let slots = group.present();
    slots.iter().try_for_each(|slot| group.kill(*slot))?;
    Ok(names(&slots))
}

pub fn pause_one(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = any(group, rng);
    group.signal(slot, Signal::SIGSTOP)?;
    Ok(name(slot))
}

pub async fn pause_leader(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = leader(group, rng).await;
    group.signal(slot, Signal::SIGSTOP)?;
    Ok(name(slot))
}

/// Every member in turn, as an upgrade does it.
pub async fn restart(group: &mut Group) -> Result<String> {
    let slots = group.present();
    for slot in &slots {
        group.stop(*slot).await?;
        group.run(*slot)?;
        group.healthy(BACK).await?;
    }
    Ok(names(&slots))
}

/// From seconds to hours, forwards or back.
pub fn jump_clock(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = any(group, rng);
    let far = 10_i64.pow(rng.random_range(0..5)) * rng.random_range(1..10);
    let seconds = if rng.random_bool(0.5) { far } else { -far };
    group.shift_clock(slot, seconds)?;
    Ok(format!("{} by {seconds} s", name(slot)))
}

/// Names with blanks between them.
pub fn names(slots: &[usize]) -> String {
    slots.iter().map(|slot| name(*slot)).collect::<Vec<_>>().join(" ")
}
