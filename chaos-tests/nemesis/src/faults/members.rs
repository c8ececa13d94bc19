//! Members that come and go through the Cluster API, while the others work.

use std::time::Duration;

use anyhow::Result;
use rand::{Rng, rngs::StdRng};

use super::{any, leader};
use crate::group::{Group, SLOTS, name};

/// Sizes to choose from: mostly those that survive a member's loss.
const SIZES: [usize; 9] = [1, 2, 3, 3, 3, 4, 5, 5, 5];
/// Until a new member answers.
const JOINED: Duration = Duration::from_secs(90);

/// A member is taken out, its disk wiped, and a new one put in its place.
pub async fn replace(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let slot = if rng.random_bool(0.5) { leader(group, rng).await } else { any(group, rng) };
    if group.present().len() == 1 {
        return resize(group, rng).await;
    }
    group.remove(slot).await?;
    group.healthy(JOINED).await?;
    group.add(slot).await?;
    group.healthy(JOINED).await?;
    Ok(name(slot))
}

/// The group grows or shrinks, one member at a time, to any size from 1 to 5.
pub async fn resize(group: &mut Group, rng: &mut StdRng) -> Result<String> {
    let before = group.present().len();
    let after = loop {
        let size = SIZES[rng.random_range(0..SIZES.len())];
        if size != before {
            break size;
        }
    };
    while group.present().len() != after {
        let present = group.present();
        if present.len() > after {
            let slot = any(group, rng);
            group.remove(slot).await?;
        } else {
            let free = (0..SLOTS).find(|slot| !present.contains(slot)).expect("fewer members than slots");
            group.add(free).await?;
        }
        group.healthy(JOINED).await?;
    }
    Ok(format!("from {before} to {after}"))
}
