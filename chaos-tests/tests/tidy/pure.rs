//! Crates that decide and never act: what they may not call, so that the same arguments give the same answer.

use super::sources::Said;

/// Consecutive segments of a path, and why not. One that begins a path ends with `::`.
type Banned = &'static [(&'static [&'static str], &'static str)];

/// What asks the machine for the time of day or for chance.
const MACHINE: Banned = &[
    (&["SystemTime"], CLOCK),
    (&["Timestamp", "now"], CLOCK),
    (&["Zoned", "now"], CLOCK),
    (&["Utc", "now"], CLOCK),
    (&["rand::"], RANDOM),
    (&["getrandom::"], RANDOM),
    (&["thread_rng"], RANDOM),
    (&["Uuid", "new_v4"], RANDOM),
];
/// What else asks a clock or the world.
const WORLD: Banned = &[
    (&["Instant", "now"], CLOCK),
    // Asks the clock.
    (&[".elapsed"], CLOCK),
    (&["uuid::"], RANDOM),
    (&["std::", "env"], OUTSIDE),
    (&["std::", "fs"], OUTSIDE),
    (&["std::", "process"], OUTSIDE),
    (&["std::", "thread", "sleep"], OUTSIDE),
    (&["std::", "thread", "spawn"], OUTSIDE),
    (&["std::", "net", "TcpStream"], OUTSIDE),
    (&["std::", "net", "UdpSocket"], OUTSIDE),
    (&["std::", "net", "TcpListener"], OUTSIDE),
    (&["tokio::"], OUTSIDE),
];
const CLOCK: &str = "now is an argument";
const RANDOM: &str = "what is random is an argument";
const OUTSIDE: &str = "the world is asked by shells";

/// What a source of a pure crate says and may not.
pub fn offences(said: &Said) -> Vec<String> {
    [among(MACHINE, said), among(WORLD, said)].concat()
}

/// Where a source takes the time of day or chance from the machine. Monotonic instants are not looked for.
pub fn asks_the_machine(said: &Said) -> Vec<String> {
    among(MACHINE, said)
}

fn among(banned: Banned, said: &Said) -> Vec<String> {
    let mut found = Vec::new();
    for (words, why) in banned {
        let hit = said.paths.iter().find(|path| names(path, words));
        found.extend(hit.map(|path| format!("{}: {why}", path.join("::"))));
        // Its new name would hide what comes after it.
        let first = words[0].trim_end_matches("::");
        let hidden = said.renamed.iter().any(|path| path.last().is_some_and(|last| last == first));
        found.extend(hidden.then(|| format!("{first} under another name: {why}")));
    }
    found
}

fn names(path: &[String], words: &[&str]) -> bool {
    let same = |part: &[String]| part.iter().zip(words).all(|(part, word)| part == word.trim_end_matches("::"));
    if !words[0].ends_with("::") {
        return path.windows(words.len()).any(same);
    }
    // The name of a crate alone may be a variable's.
    path.len() > 1 && path.len() >= words.len() && same(&path[..words.len()])
}

#[test]
fn planted_clocks_and_randomness_are_found() {
    let cases = [
        "fn f() { std::time::SystemTime::now(); }",
        "use std::time::{Duration, SystemTime};",
        "use std::time::SystemTime as Clock;",
        "fn f() { Instant::now() }",
        "fn f() { std::time::Instant::now() }",
        "use std::time::Instant as Moment;",
        "fn f() { format!(\"{}\", jiff::Timestamp::now()) }",
        "fn f() { jiff::Zoned::now(); }",
        "fn f(since: Instant) { since.elapsed() }",
        "fn f() { rand::random::<u8>() }",
        "use rand::Rng;",
        "use rand::{self, Rng};",
        "use rand as dice;",
        "use std as outside;",
        "fn f() { thread_rng() }",
        "fn f() { Uuid::new_v4() }",
        "fn f() { std::env::var(\"A\") }",
        "use std::{collections::BTreeMap, env};",
        "use std::{fs::{self, File}};",
        "fn f() { ::std::thread::sleep(d) }",
        "fn f() { vec![tokio::spawn(x)] }",
        "#[cfg(feature = \"x\")] fn f() { tokio::spawn(x) }",
    ];
    for text in cases {
        assert!(!offences(&Said::of(text)).is_empty(), "not found: {text}");
    }
}

#[test]
fn what_decides_is_left_alone() {
    let cases = [
        "use std::time::{Duration, Instant}; fn f(now: Instant) { now.checked_add(d) }",
        "use jiff::Timestamp; fn f(now: Timestamp) -> Timestamp { now }",
        "mod env; use self::env::Sources; use crate::fs::x; fn f() { env::check(); env!(\"A\") }",
        "fn f(rand: u64) { rand + 1; x.elapsed_ms() }",
        "// Instant::now()\n/// SystemTime\nfn f() { \"tokio::spawn\" }",
        "use std::net::IpAddr; use std::thread::LocalKey;",
        "#[cfg(test)] mod tests { fn f() { Instant::now(); std::env::var(x) } }",
    ];
    for text in cases {
        assert_eq!(offences(&Said::of(text)), [] as [String; 0], "{text}");
    }
}

#[test]
fn a_shell_may_measure_and_not_ask_the_machine() {
    for (text, expect) in [
        ("fn f() { Instant::now(); uuid::Builder::from_random_bytes(b); tokio::spawn(x) }", 0),
        ("fn f() { jiff::Timestamp::now(); uuid::Uuid::new_v4(); rand::random::<u8>() }", 3),
        ("#[cfg(test)] mod tests { fn f() { Timestamp::now() } }", 0),
    ] {
        assert_eq!(asks_the_machine(&Said::of(text)).len(), expect, "{text}");
    }
}
