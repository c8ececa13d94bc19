//! Stories of groups in which an older build of the store meets the one of this checkout.
//!
//! Each is a few steps while clients write, read, watch and hold leases through all members; what they saw is judged
//! afterwards by the same checkers as faults are.

mod diverged;
mod rolling;
mod snapshots;
mod too_old;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
pub use diverged::diverged;
use kontiki_nemesis::{
    clients::Shared,
    group::{Group, Program, Setup, Store},
    run::{Options, Report, tell},
};
pub use rolling::{rollback, rolling};
pub use snapshots::{between_builds, old_backup};
pub use too_old::too_old;

const RATE: u32 = 200;

/// A new group's setup; `name` goes into the name of the directory where logs are.
fn setup(name: &str, program: &Program, members: usize) -> Setup {
    let out = std::env::temp_dir().join(format!("nemesis-{}-{name}", std::process::id()));
    Setup { store: Store::Kontiki, binary: Some(program.binary.clone()), members, out, env: program.env.clone() }
}

/// Tells a story of three members, under clients. Keeps the history only if something was wrong.
fn told(
    name: &str,
    program: &Program,
    story: impl AsyncFnOnce(&mut Group, &Arc<Shared>) -> Result<()>,
    then: impl FnOnce(&Report) -> Result<()>,
) -> Result<()> {
    let options = Options { setup: setup(name, program, 3), seed: rand::random(), rate: RATE, lie: None };
    let report = tell(&options, "story-failed", story)?;
    println!("{}", report.table);
    let judged = then(&report);
    if !report.passed() || judged.is_err() {
        println!("history: {}", report.history.display());
        ensure!(report.passed(), "the store broke a promise: {}", report.verdict.violations[0]);
        return judged;
    }
    std::fs::remove_dir_all(&options.setup.out)?;
    judged
}

/// Some member that does not lead.
async fn follower(group: &Group) -> Result<usize> {
    let leader = group.leader().await.context("nobody leads")?;
    group.present().into_iter().find(|slot| *slot != leader).context("only the leader is there")
}
