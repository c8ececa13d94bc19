//! The configuration files of servers and agents: what `up` wants there, without undoing what a person has changed.
//!
//! Invariants
//! - A value that is not what `up` itself would have written before this run is somebody's own, and stays.
//! - How a member begins (`bootstrap`, `join`, tokens) is said by `up` alone, and no longer once the member has begun.
//! - A file that says what it should is not written: its comments stay.

use std::{fs, io, path::Path};

use anyhow::{Context as _, Result};
use kontiki_files::{Readers, replace};
use serde::Serialize;
use serde_yaml_ng::{Mapping, Value};

use super::progress::note;

/// Keys that say how a member begins.
const BEGINNING: [&str; 4] = ["bootstrap", "join", "token", "ca_hash"];

/// Who says how the member begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// What is wanted now.
    Wanted,
    /// The file.
    Kept,
}

/// Has the file say what is `wanted` now, where it says what was wanted `before`. Tells where it keeps something else.
pub fn settle<T: Serialize>(path: &Path, before: &T, wanted: &T, beginning: Beginning) -> Result<()> {
    let [before, wanted] = [before, wanted].map(mapping);
    let (before, wanted) = (before?, wanted?);
    let file = match fs::read_to_string(path) {
        Ok(text) => serde_yaml_ng::from_str::<Option<Mapping>>(&text).with_context(|| path.display().to_string())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let Some(file) = file else {
        return if beginning == Beginning::Kept { Ok(()) } else { write(path, &wanted) };
    };
    let (merged, against) = merge(&file, &before, &wanted, beginning);
    for key in against {
        // Without the values: there may be passwords among them.
        note("kept", &format!("{}: {key} is as it was changed there, not as asked for now", path.display()));
    }
    if merged == file { Ok(()) } else { write(path, &merged) }
}

fn mapping<T: Serialize>(config: &T) -> Result<Mapping> {
    // By way of the text, so that it compares with what is read.
    let text = serde_yaml_ng::to_string(config).context("plain data")?;
    serde_yaml_ng::from_str(&text).context("a configuration is a mapping")
}

fn write(path: &Path, config: &Mapping) -> Result<()> {
    let text = serde_yaml_ng::to_string(config).context("plain data")?;
    let text = format!("# Written by `kontiki up`, which keeps what is changed here.\n{text}");
    // It may hold a join token.
    replace(path, text.as_bytes(), Readers::Owner).with_context(|| format!("writing {}", path.display()))
}

/// What is not said is nothing.
fn value<'a>(from: &'a Mapping, key: &str) -> &'a Value {
    from.get(key).unwrap_or(&Value::Null)
}

/// What the file is to say, and the keys of which something else is asked for now than it keeps.
fn merge(file: &Mapping, before: &Mapping, wanted: &Mapping, beginning: Beginning) -> (Mapping, Vec<String>) {
    let (mut merged, mut against) = (file.clone(), Vec::new());
    for key in before.keys().chain(wanted.keys()).chain(file.keys()).filter_map(Value::as_str) {
        let [has, had, asked] = [file, before, wanted].map(|from| value(from, key));
        let begins = BEGINNING.contains(&key);
        let is_ours = if begins { beginning == Beginning::Wanted } else { has == had };
        if has == asked || begins && !is_ours {
            continue;
        }
        if is_ours && asked.is_null() {
            merged.remove(key);
        } else if is_ours {
            merged.insert(key.into(), asked.clone());
        } else if asked != had && !against.iter().any(|told| told == key) {
            against.push(key.to_owned());
        }
    }
    (merged, against)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Mapping {
        serde_yaml_ng::from_str(text).expect("a mapping")
    }

    #[test]
    fn what_somebody_changed_stays() {
        use Beginning::{Kept, Wanted};
        for (name, file, before, wanted, beginning, expect, against) in [
            ("nothing is new", "{a: 1}", "{a: 1}", "{a: 1}", Wanted, "{a: 1}", ""),
            ("somebody's own", "{a: 2, b: 3}", "{a: 1}", "{a: 1}", Wanted, "{a: 2, b: 3}", ""),
            ("something else is asked for", "{a: 1, b: 3}", "{a: 1}", "{a: 2}", Wanted, "{a: 2, b: 3}", ""),
            ("both", "{a: 3}", "{a: 1}", "{a: 2}", Wanted, "{a: 3}", "a"),
            ("both alike", "{a: 2}", "{a: 1}", "{a: 2}", Wanted, "{a: 2}", ""),
            ("taken out by somebody", "{b: 1}", "{a: 1, b: 1}", "{a: 1, b: 1}", Wanted, "{b: 1}", ""),
            ("no longer wanted", "{a: 1, b: 1}", "{a: 1, b: 1}", "{b: 1}", Wanted, "{b: 1}", ""),
            ("new", "{b: 1}", "{b: 1}", "{a: 1, b: 1}", Wanted, "{b: 1, a: 1}", ""),
            ("nothing is as good as nothing said", "{b: 1}", "{a: null, b: 1}", "{b: 1}", Wanted, "{b: 1}", ""),
            (
                "it has begun",
                "{bootstrap: true, token: x}",
                "{bootstrap: false}",
                "{bootstrap: false}",
                Wanted,
                "{bootstrap: false}",
                "",
            ),
            (
                "it has not",
                "{token: x, a: 1}",
                "{bootstrap: true, a: 1}",
                "{bootstrap: true, a: 2}",
                Kept,
                "{token: x, a: 2}",
                "",
            ),
        ] {
            let (merged, told) = merge(&read(file), &read(before), &read(wanted), beginning);
            assert_eq!((merged, told.join(" ")), (read(expect), against.to_owned()), "{name}");
        }
    }

    #[test]
    fn a_file_that_says_what_it_should_keeps_its_comments() {
        let path = std::env::temp_dir().join(format!("kontiki-settings-{}.yaml", std::process::id()));
        let (one, two) = (read("{a: 1, bootstrap: true}"), read("{a: 1, bootstrap: false}"));
        settle(&path, &one, &one, Beginning::Kept).expect("nothing to do");
        assert!(!path.exists(), "a member that has not begun has no file yet");
        settle(&path, &one, &one, Beginning::Wanted).expect("written");
        settle(&path, &two, &two, Beginning::Wanted).expect("written");
        let mine = "# mine\na: 7\nbootstrap: false\n";
        fs::write(&path, mine).expect("a file");
        settle(&path, &two, &two, Beginning::Wanted).expect("as it should be");
        assert_eq!(fs::read_to_string(&path).expect("a file"), mine);
        fs::write(&path, "a: [").expect("a file");
        let error = settle(&path, &two, &two, Beginning::Wanted).expect_err("no YAML");
        assert!(format!("{error:#}").contains(&path.display().to_string()), "{error:#}");
        fs::remove_file(&path).expect("it is there");
    }
}
