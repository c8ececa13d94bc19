//! Networks that split, slow down and lose packets. Clients still reach every member, except one whose
//! cable is pulled.

use anyhow::Result;
use rand::{Rng, rngs::StdRng, seq::SliceRandom};

use super::{any, either, leader, processes::names};
use crate::{
    group::{Group, name},
    network::Network,
};

/// Rules that let members of different sides not hear each other.
fn between(left: &[usize], right: &[usize]) -> Vec<String> {
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b)));
    pairs.flat_map(|(a, b)| [Network::cut(a, b), Network::cut(b, a)]).collect()
}

fn others(group: &Group, slot: usize) -> Vec<usize> {
    group.present().into_iter().filter(|other| *other != slot).collect()
}

pub async fn isolate_leader(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = leader(group, rng).await;
    group.network().rules(&between(&[slot], &others(group, slot)))?;
    Ok(name(slot))
}

/// A majority on one side.
pub fn halves(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let mut slots = group.present();
    slots.shuffle(rng);
    let (left, right) = slots.split_at(slots.len() / 2);
    group.network().rules(&between(left, right))?;
    Ok(format!("{} | {}", names(left), names(right)))
}

/// Of five, each hears its two neighbours: everybody sees a majority, and no two the same one.
pub fn ring(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let mut slots = group.present();
    slots.shuffle(rng);
    let count = slots.len();
    let far = |a: usize, b: usize| ![1, count - 1].contains(&a.abs_diff(b));
    let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b && far(*a, *b));
    let rules: Vec<String> = pairs.map(|(a, b)| Network::cut(slots[a], slots[b])).collect();
    group.network().rules(&rules)?;
    Ok(names(&slots))
}

/// A member that is heard and hears nothing, or the other way round.
pub async fn one_way(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = either(group, rng).await;
    let deaf = rng.random_bool(0.5);
    let rule = |other: &usize| if deaf { Network::cut(*other, slot) } else { Network::cut(slot, *other) };
    let rules: Vec<String> = others(group, slot).iter().map(rule).collect();
    group.network().rules(&rules)?;
    Ok(format!("{} is {}", name(slot), if deaf { "deaf" } else { "mute" }))
}

/// Two halves that only one member can reach both of.
pub fn bridge(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let mut slots = group.present();
    slots.shuffle(rng);
    let middle = slots.pop().unwrap_or(0);
    let (left, right) = slots.split_at(slots.len() / 2);
    group.network().rules(&between(left, right))?;
    Ok(format!("{} | {} | {}", names(left), name(middle), names(right)))
}

pub async fn unplug(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = either(group, rng).await;
    group.network().link(slot, false)?;
    Ok(name(slot))
}

pub fn slow(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let kilobits = *[200, 500, 1500].get(rng.random_range(0..3_usize)).unwrap_or(&500);
    let mut slots = group.present();
    if rng.random_bool(0.5) {
        slots = vec![any(group, rng)];
    }
    slots.iter().try_for_each(|slot| group.network().slow(*slot, kilobits))?;
    Ok(format!("{} at {kilobits} kbit/s", names(&slots)))
}

pub fn loss(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let percent = rng.random_range(5..40);
    let mut slots = group.present();
    if rng.random_bool(0.5) {
        slots = vec![any(group, rng)];
    }
    let rules: Vec<String> = slots.iter().map(|slot| Network::lose(*slot, percent)).collect();
    group.network().rules(&rules)?;
    Ok(format!("{percent} % of what goes to {}", names(&slots)))
}
