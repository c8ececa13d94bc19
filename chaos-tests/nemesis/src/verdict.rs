//! What the checkers found.

use std::fmt;

/// Something a correct store never does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The broken promise, in a fixed word.
    pub rule: &'static str,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.rule, self.text)
    }
}

/// The result of one or several checks.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    /// What could not be decided: neither passed nor failed.
    pub undecided: Vec<String>,
    /// What was looked at, for the reader: without this a check that saw nothing looks like a pass.
    pub checked: Vec<(&'static str, u64)>,
}

impl Verdict {
    /// Adds a violation.
    pub fn fail(&mut self, rule: &'static str, text: impl Into<String>) {
        self.violations.push(Violation { rule, text: text.into() });
    }

    /// Notes how much was looked at.
    pub fn saw(&mut self, what: &'static str, count: usize) {
        self.checked.push((what, count as u64));
    }

    /// Takes over another check's findings.
    pub fn join(&mut self, other: Self) {
        self.violations.extend(other.violations);
        self.undecided.extend(other.undecided);
        self.checked.extend(other.checked);
    }

    /// How much was looked at under this name.
    #[must_use]
    pub fn count(&self, what: &str) -> u64 {
        self.checked.iter().filter(|(name, _)| *name == what).map(|(_, count)| count).sum()
    }

    /// Whether this promise was found broken.
    #[must_use]
    pub fn broke(&self, rule: &str) -> bool {
        self.violations.iter().any(|violation| violation.rule == rule)
    }
}
