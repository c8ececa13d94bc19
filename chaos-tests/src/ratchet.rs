//! How many recorded answers are equal, and which are known to differ: a mark in a committed file that moves one way.
//!
//! Invariants
//! - An answer that differs has a line in the file, or the comparison fails.
//! - An answer that became equal is told of; `KONTIKI_RATCHET=tighten` takes its line out.
//! - Equal answers are counted: one that is no longer asked for is missed.
//! - Nothing but a person's hand makes the mark worse. What the file does not know of at all (a new file of scenarios)
//!   is taken in as it is found.
//!
//! Also read as a module by tests of crates that this one would be too heavy for.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Begins the reason of an answer that may be equal or not, from run to run.
const SOMETIMES: &str = "sometimes: ";

/// What was seen of one file of scenarios.
#[derive(Clone, Default)]
pub struct Seen {
    pub equal: usize,
    /// `scenario: step`.
    pub differs: BTreeSet<String>,
}

#[derive(Clone, Default, PartialEq, Deserialize, Serialize)]
struct Mark {
    equal: usize,
    /// Why, where that is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    differs: BTreeMap<String, Option<String>>,
}

impl Mark {
    fn sometimes(&self, step: &str) -> bool {
        self.differs.get(step).and_then(Option::as_deref).is_some_and(|reason| reason.starts_with(SOMETIMES))
    }

    /// The mark that fits what was seen: reasons stay, as do answers that are sometimes equal, uncounted.
    fn after(&self, seen: &Seen) -> Self {
        let reason = |step: &String| self.differs.get(step).cloned().flatten();
        let mut differs: BTreeMap<_, _> = seen.differs.iter().map(|step| (step.clone(), reason(step))).collect();
        let lucky: Vec<_> = self.differs.iter().filter(|(step, _)| self.sometimes(step)).collect();
        let lucky: Vec<_> = lucky.into_iter().filter(|(step, _)| !seen.differs.contains(*step)).collect();
        differs.extend(lucky.iter().map(|(step, reason)| ((*step).clone(), (*reason).clone())));
        Self { equal: seen.equal.saturating_sub(lucky.len()), differs }
    }
}

/// Holds what was seen against the mark in `file`; `again` is the command that runs this comparison.
///
/// # Errors
/// Something is worse than the mark. Says what, in a line each.
///
/// # Panics
/// The file cannot be read or written.
pub fn hold(file: &Path, seen: &BTreeMap<String, Seen>, again: &str) -> Result<(), String> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let marks = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let next = judge(&marks, seen).map_err(|worse| {
        let what = "once equal, and not any more, by";
        format!("{what} {}:\n  {}", file.display(), worse.join("\n  "))
    })?;
    let better = moved(&marks, &next);
    if better.is_empty() {
        return Ok(());
    }
    if env::var("KONTIKI_RATCHET").is_ok_and(|how| how == "tighten") {
        let text = serde_json::to_string_pretty(&next).expect("marks are JSON");
        fs::write(file, text + "\n").unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        println!("{}:\n  {}", file.display(), better.join("\n  "));
        return Ok(());
    }
    let better = better.join("\n  ");
    println!("better than the mark in {}; KONTIKI_RATCHET=tighten {again} moves it:\n  {better}", file.display());
    Ok(())
}

type Marks = BTreeMap<String, Mark>;

/// The next mark, or what is worse than this one.
fn judge(marks: &Marks, seen: &BTreeMap<String, Seen>) -> Result<Marks, Vec<String>> {
    let lost = marks.keys().filter(|group| !seen.contains_key(*group)).map(|group| format!("{group}: not asked for"));
    let mut worse: Vec<String> = lost.collect();
    let mut next = Marks::new();
    for (group, seen) in seen {
        let Some(mark) = marks.get(group) else {
            next.insert(group.clone(), Mark::default().after(seen));
            continue;
        };
        let new: Vec<_> = seen.differs.iter().filter(|step| !mark.differs.contains_key(*step)).collect();
        let after = mark.after(seen);
        if after.equal + new.len() < mark.equal {
            worse.push(format!("{group}: {} answers were equal, {} are", mark.equal, after.equal));
        }
        worse.extend(new.into_iter().map(|step| format!("{group}: {step}")));
        next.insert(group.clone(), after);
    }
    if worse.is_empty() { Ok(next) } else { Err(worse) }
}

fn moved(marks: &Marks, next: &Marks) -> Vec<String> {
    let mut lines = Vec::new();
    for (group, after) in next {
        let Some(mark) = marks.get(group) else {
            lines.push(format!("{group}: new, {} equal, {} not", after.equal, after.differs.len()));
            continue;
        };
        let gone = mark.differs.keys().filter(|step| !after.differs.contains_key(*step));
        lines.extend(gone.map(|step| format!("{group}: {step}: equal, or not asked for")));
        if after.equal > mark.equal {
            lines.push(format!("{group}: {} answers were equal, {} are", mark.equal, after.equal));
        }
    }
    lines
}

/// The folder of recorded answers: `KONTIKI_ORACLE`, or the one beside the checkout. Without one nothing can be
/// compared, which is said past what a test harness captures.
///
/// # Errors
/// It is missing where `KONTIKI_ORACLE_REQUIRED=true`.
pub fn recorded(checkout: &Path) -> Result<Option<PathBuf>, String> {
    let given = env::var_os("KONTIKI_ORACLE").map(PathBuf::from);
    let dir = given.unwrap_or_else(|| checkout.join("../shared/oracle"));
    if dir.join("scenarios").is_dir() && dir.join("golden").is_dir() {
        return Ok(Some(dir));
    }
    let missing = format!("no recorded answers in {} (KONTIKI_ORACLE says where they are)", dir.display());
    if env::var("KONTIKI_ORACLE_REQUIRED").is_ok_and(|required| required == "true") {
        return Err(missing);
    }
    let _ = writeln!(std::io::stderr(), "SKIPPED: {missing}");
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(equal: usize, differs: &[&str]) -> BTreeMap<String, Seen> {
        let differs = differs.iter().map(|step| (*step).to_owned()).collect();
        BTreeMap::from([("a-pod".to_owned(), Seen { equal, differs })])
    }

    fn marks(equal: usize, differs: &[(&str, Option<&str>)]) -> Marks {
        let differs = differs.iter().map(|(step, why)| ((*step).to_owned(), why.map(str::to_owned))).collect();
        Marks::from([("a-pod".to_owned(), Mark { equal, differs })])
    }

    /// What is worse, or else what moves.
    fn verdict(marks: &Marks, seen: &BTreeMap<String, Seen>) -> Result<Vec<String>, Vec<String>> {
        judge(marks, seen).map(|next| moved(marks, &next))
    }

    #[test]
    fn the_mark_moves_one_way() {
        let mark = marks(2, &[("s: known", Some("why"))]);
        let two_are = "a-pod: 2 answers were equal, 1 are".to_owned();
        let cases = [
            ("as before", seen(2, &["s: known"]), Ok(vec![])),
            ("one differs", seen(1, &["s: known", "s: new"]), Err(vec!["a-pod: s: new".into()])),
            ("one for another", seen(2, &["s: new"]), Err(vec!["a-pod: s: new".into()])),
            ("one is not asked for", seen(1, &["s: known"]), Err(vec![two_are])),
            ("nothing is", BTreeMap::new(), Err(vec!["a-pod: not asked for".into()])),
            (
                "one became equal",
                seen(3, &[]),
                Ok(vec![
                    "a-pod: s: known: equal, or not asked for".into(),
                    "a-pod: 2 answers were equal, 3 are".into(),
                ]),
            ),
        ];
        for (name, seen, expected) in cases {
            assert_eq!(verdict(&mark, &seen), expected, "{name}");
        }
    }

    #[test]
    fn what_the_file_does_not_know_is_taken_in() {
        assert_eq!(verdict(&Marks::new(), &seen(1, &["s: x"])), Ok(vec!["a-pod: new, 1 equal, 1 not".into()]));
    }

    #[test]
    fn reasons_stay() {
        let mark = marks(1, &[("s: a", Some("why")), ("s: b", None)]);
        let next = judge(&mark, &seen(2, &["s: a"])).expect("nothing is worse");
        assert!(next == marks(2, &[("s: a", Some("why"))]));
    }

    #[test]
    fn what_is_sometimes_equal_moves_nothing() {
        let mark = marks(1, &[("s: race", Some("sometimes: the collector may be first"))]);
        assert_eq!(verdict(&mark, &seen(1, &["s: race"])), Ok(vec![]));
        assert_eq!(verdict(&mark, &seen(2, &[])), Ok(vec![]));
        assert!(verdict(&mark, &seen(1, &[])).is_err());
    }
}
