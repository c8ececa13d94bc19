//! `kontiki recover`: from the last server that is left to a cluster that works.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Result, bail};
use kontiki_etcd::{Survivor, SurvivorState};

/// Go on after most servers were lost for good.
///
/// Run it on the one stopped server that goes on: the one with the highest last entry, if several are left.
/// It becomes the only member of its group, with everything that it has, and works as soon as it is
/// started. The others then join with empty directories.
///
/// Writes that the lost servers acknowledged and that never reached this one are lost. The old servers must
/// not run again: this one refuses them, but two of them would still be a majority of three for each other.
#[derive(clap::Args)]
pub struct Args {
    /// Say that this server is what is left
    #[arg(long, required = true)]
    from_survivor: bool,
    /// Directory of the server
    #[arg(long, default_value = "/var/lib/kontiki/server", value_name = "DIR")]
    data_dir: PathBuf,
    /// The directory is that of a `kontiki store`
    #[arg(long)]
    store: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let dir = if args.store { args.data_dir.clone() } else { args.data_dir.join("raft") };
    // Held from here on: it cannot be started while somebody reads what is said about it.
    let survivor = Survivor::open(&dir)?;
    eprint!("{}", explain(survivor.state()));
    if !args.yes && !confirmed()? {
        bail!("nothing was changed");
    }
    let name = survivor.state().name.clone();
    survivor.force_new_cluster()?;
    println!("{name} is the only member of its group now: start it, then add the others with empty directories");
    Ok(ExitCode::SUCCESS)
}

fn explain(state: &SurvivorState) -> String {
    let SurvivorState { name, address, others, revision, applied, last, term, .. } = state;
    let others: Vec<String> = others.iter().map(|(name, address)| format!("{name} at {address}")).collect();
    let others = if others.is_empty() { "nobody else".to_owned() } else { others.join(", ") };
    format!(
        "{name} at {address} becomes the only member of its group.\n\
         It forgets {others}: they must not run again, and have to join anew with empty directories.\n\
         It has the log up to entry {last} of term {term}, applied up to entry {applied}, revision {revision}.\n\
         All of that stays. Lost is what the others acknowledged and this server never received.\n"
    )
}

fn confirmed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("there is no terminal to ask at: say --yes");
    }
    eprint!("Go on? Type yes: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_happen_is_said() {
        let mut state = SurvivorState {
            name: "s1".into(),
            id: 1,
            address: "10.0.0.11:2380".into(),
            others: vec![("s2".into(), "10.0.0.12:2380".into()), ("s3".into(), "10.0.0.13:2380".into())],
            revision: 70,
            applied: 89,
            last: 90,
            term: 4,
        };
        let said = explain(&state);
        assert!(said.contains("forgets s2 at 10.0.0.12:2380, s3 at 10.0.0.13:2380:"), "{said}");
        assert!(said.contains("up to entry 90 of term 4, applied up to entry 89, revision 70"), "{said}");
        state.others.clear();
        assert!(explain(&state).contains("forgets nobody else"));
    }
}
