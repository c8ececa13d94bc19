//! Upgrades and downgrades at random, under random faults.
//!
//! For most of the time the newer build is held at the older one's level, and any member may be given any of the two
//! at any moment, also while another fault is there. Then all are upgraded for good, one after the other and still
//! under faults; the level rises, and faults go on at the new level to the end.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::{
    Rng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use tokio::time::Instant;

use super::{Builds, How, busy, not_risen, risen, swap, swapped};
use crate::{
    faults::{Fault, recovered, strike, strike_during},
    group::{Group, Program, SLOTS, name},
    history::Recorder,
    run::show,
};

/// The part of the time at the older level.
const HELD: f64 = 0.7;

/// Does it for so long.
///
/// # Errors
/// The group does not recover, members differ, or the level rose too early or not at all.
pub async fn sail(
    group: &mut Group,
    recorder: &Recorder,
    builds: &Builds,
    faults: &[Fault],
    length: Duration,
    rng: &mut StdRng,
) -> Result<()> {
    let begun = Instant::now();
    recovered(group, recorder).await.context("before the first fault")?;
    let mut swaps = 0;
    while begun.elapsed() < length.mul_f64(HELD) {
        swaps += turn(group, recorder, builds, faults, rng).await?;
        not_risen(group).await?;
        busy(group, recorder, builds).await?;
    }
    println!("{swaps} builds were put in another's place; now all go up for good");
    // Also where nobody is now: a member that is added later must not hold the level of those that are here.
    let mut slots: Vec<usize> = (0..SLOTS).collect();
    slots.shuffle(rng);
    for slot in slots {
        if group.present().contains(&slot) {
            not_risen(group).await?;
            let how = how(rng);
            swapped(group, recorder, builds, slot, &builds.newer, how).await?;
        } else {
            group.install(slot, &builds.newer);
        }
    }
    risen(group).await?;
    while begun.elapsed() < length {
        let fault = some(group, faults, rng)?;
        show(&strike(group, recorder, fault, rng).await?);
        risen(group).await?;
        busy(group, recorder, builds).await?;
    }
    Ok(())
}

/// A fault, and a swap before it or while it is there, or both. Gives the number of swaps.
async fn turn(
    group: &mut Group,
    recorder: &Recorder,
    builds: &Builds,
    faults: &[Fault],
    rng: &mut StdRng,
) -> Result<u32> {
    let fault = some(group, faults, rng)?;
    // A process that waits for its disk cannot be killed, and one that starts on a full disk may end again.
    let can = !matches!(fault, Fault::StalledDisk | Fault::FullDisk);
    let during = can && rng.random_bool(0.6);
    let before = !during || rng.random_bool(0.3);
    if before {
        let (slot, program) = choose(group, builds, rng)?;
        let how = how(rng);
        swapped(group, recorder, builds, slot, &program, how).await?;
    }
    let more = async |group: &mut Group, rng: &mut StdRng| {
        if !during {
            return Ok(String::new());
        }
        let (slot, program) = choose(group, builds, rng)?;
        // A frozen process does not stop when it is asked to.
        swap(group, slot, &program, How::Killed).await?;
        Ok(format!("meanwhile {} became {}", name(slot), builds.word(&program)))
    };
    show(&strike_during(group, recorder, fault, rng, more).await?);
    Ok(u32::from(before) + u32::from(during))
}

/// Some member, and what it is to run next.
fn choose(group: &Group, builds: &Builds, rng: &mut StdRng) -> Result<(usize, Program)> {
    let slot = *group.present().choose(rng).context("a group has members")?;
    Ok((slot, builds.other(group.program(slot)).clone()))
}

fn how(rng: &mut StdRng) -> How {
    if rng.random_bool(0.5) { How::Stopped } else { How::Killed }
}

fn some(group: &Group, faults: &[Fault], rng: &mut StdRng) -> Result<Fault> {
    let able: Vec<Fault> = faults.iter().copied().filter(|fault| fault.fits(group)).collect();
    able.choose(rng).copied().context("none of the faults fits this group")
}
