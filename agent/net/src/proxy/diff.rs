//! From rules that are loaded to rules that are wanted: one nft script, one transaction.
//!
//! Invariants
//! - Nothing is named before it exists nor removed while something refers to it: new chains and
//!   sets first, then contents, then elements, then what is gone.
//! - What did not change is not mentioned, so its counters, affinity and place stay.

use std::fmt::Write as _;

use super::rules::{Chain, Elements, Ruleset, TABLE};

/// A script that replaces whatever the table held.
pub(super) fn full(want: &Ruleset) -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n{}", between(&Ruleset::default(), want))
}

/// A script that turns `have` into `want`; empty if they are equal.
pub(super) fn between(have: &Ruleset, want: &Ruleset) -> String {
    let mut script = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = script.write_fmt(text);
        script.push('\n');
    };
    for (name, chain) in &want.chains {
        if !have.chains.contains_key(name) {
            match chain.hook {
                Some(hook) => line(format_args!("add chain {TABLE} {name} {{ {hook} }}")),
                None => line(format_args!("add chain {TABLE} {name}")),
            }
        }
    }
    // A set with another time-out cannot be changed in place: its users are rewritten below.
    for (name, (kind, body)) in &want.sets {
        match have.sets.get(name) {
            None => line(format_args!("add {kind} {TABLE} {name} {{ {body} }}")),
            Some(old) if old.1 != *body => {
                for chain in users(have, name) {
                    line(format_args!("flush chain {TABLE} {chain}"));
                }
                line(format_args!("delete {kind} {TABLE} {name}"));
                line(format_args!("add {kind} {TABLE} {name} {{ {body} }}"));
            }
            Some(_) => {}
        }
    }
    for (name, chain) in &want.chains {
        let old = have.chains.get(name);
        if needs_rewrite(have, want, old, chain) {
            if old.is_some() {
                line(format_args!("flush chain {TABLE} {name}"));
            }
            for rule in &chain.rules {
                line(format_args!("add rule {TABLE} {name} {rule}"));
            }
        }
    }
    for (set, elements) in &want.elements {
        let none = Elements::new();
        let old = have.elements.get(set).unwrap_or(&none);
        let stale: Vec<String> = old.iter().filter(|(k, v)| elements.get(*k) != Some(*v)).map(show).collect();
        let fresh: Vec<String> = elements.iter().filter(|(k, v)| old.get(*k) != Some(*v)).map(show).collect();
        for (verb, list) in [("delete", stale), ("add", fresh)] {
            if !list.is_empty() {
                line(format_args!("{verb} element {TABLE} {set} {{ {} }}", list.join(", ")));
            }
        }
    }
    // Elements hold the chains that they lead to.
    for (name, (kind, _)) in
        have.sets.iter().filter(|(name, (kind, _))| *kind == "map" && !want.sets.contains_key(*name))
    {
        line(format_args!("flush {kind} {TABLE} {name}"));
    }
    let gone: Vec<&String> = have.chains.keys().filter(|name| !want.chains.contains_key(*name)).collect();
    for name in &gone {
        line(format_args!("flush chain {TABLE} {name}"));
    }
    for name in gone {
        line(format_args!("delete chain {TABLE} {name}"));
    }
    for (name, (kind, _)) in &have.sets {
        if !want.sets.contains_key(name) {
            line(format_args!("delete {kind} {TABLE} {name}"));
        }
    }
    script
}

fn show((key, value): (&String, &Option<String>)) -> String {
    match value {
        Some(value) => format!("{key} : {value}"),
        None => key.clone(),
    }
}

/// Chains whose rules look a set up.
fn users<'a>(rules: &'a Ruleset, set: &str) -> impl Iterator<Item = &'a String> {
    let mention = format!("@{set} ");
    rules
        .chains
        .iter()
        .filter(move |(_, chain)| chain.rules.iter().any(|rule| format!("{rule} ").contains(&mention)))
        .map(|(name, _)| name)
}

/// A chain is written again if its rules changed or a set it uses was replaced.
fn needs_rewrite(have: &Ruleset, want: &Ruleset, old: Option<&Chain>, chain: &Chain) -> bool {
    let Some(old) = old else { return !chain.rules.is_empty() };
    old.rules != chain.rules
        || chain.rules.iter().any(|rule| {
            want.sets.iter().any(|(name, body)| {
                have.sets.get(name).is_some_and(|before| before != body)
                    && format!("{rule} ").contains(&format!("@{name} "))
            })
        })
}
