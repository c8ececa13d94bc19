//! The text of an expression, places in it, and errors that point there.

use std::fmt;

/// Where and what: one thing that is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// From 1.
    pub line: i32,
    /// In code points, from 0.
    pub column: i32,
    pub message: String,
}

/// Why an expression cannot be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// It does not parse or check. `text` is upstream's rendering of all issues.
    Issues { issues: Vec<Issue>, text: String },
    /// A constant part of it fails.
    Program(String),
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issues { text, .. } => write!(f, "compilation failed: {text}"),
            Self::Program(text) => write!(f, "program instantiation failed: {text}"),
        }
    }
}

impl std::error::Error for CompileError {}

/// Longer lines are not shown.
const MAX_SNIPPET: usize = 16_384;
const MAX_ISSUES: usize = 100;

/// Errors as they are found.
pub(crate) struct Issues<'s> {
    text: &'s str,
    found: Vec<Issue>,
    all: usize,
}

impl<'s> Issues<'s> {
    pub(crate) fn new(text: &'s str) -> Self {
        Self { text, found: Vec::new(), all: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all == 0
    }

    /// An error at a place, in code points from the beginning.
    pub(crate) fn report(&mut self, at: u32, message: String) {
        let (line, column) = self.place(at as usize);
        self.push(Issue { line, column, message });
    }

    /// An error that has no place.
    pub(crate) fn report_nowhere(&mut self, message: String) {
        self.push(Issue { line: -1, column: -1, message });
    }

    fn push(&mut self, issue: Issue) {
        self.all += 1;
        if self.all <= MAX_ISSUES {
            self.found.push(issue);
        }
    }

    fn place(&self, at: usize) -> (i32, i32) {
        if self.text.is_empty() {
            return (1, -1);
        }
        let (mut line, mut column) = (1, 0);
        for c in self.text.chars().take(at) {
            (line, column) = if c == '\n' { (line + 1, 0) } else { (line, column + 1) };
        }
        (line, column)
    }

    pub(crate) fn into_error(mut self) -> CompileError {
        self.found.sort_by_key(|issue| (issue.line, issue.column));
        let mut lines: Vec<String> = self.found.iter().map(|issue| self.render(issue)).collect();
        if self.all > MAX_ISSUES {
            lines.push(format!("{} more errors were truncated", self.all - MAX_ISSUES));
        }
        CompileError::Issues { text: lines.join("\n"), issues: self.found }
    }

    fn render(&self, issue: &Issue) -> String {
        let head = format!("ERROR: <input>:{}:{}: {}", issue.line, issue.column + 1, issue.message);
        let line = usize::try_from(issue.line).ok().and_then(|line| self.text.split('\n').nth(line.checked_sub(1)?));
        let shown = |line: &&str| line.len() <= MAX_SNIPPET && issue.column >= 0;
        let Some(line) = line.filter(shown) else { return head };
        let line = line.replace('\t', " ");
        let mut chars = line.chars();
        let column = usize::try_from(issue.column).unwrap_or(0);
        let dots: String = chars.by_ref().take(column).map(|c| if c.is_ascii() { '.' } else { '\u{ff0e}' }).collect();
        let mark = if chars.next().is_some_and(|c| !c.is_ascii()) { '\u{ff3e}' } else { '^' };
        format!("{head}\n | {line}\n | {dots}{mark}")
    }
}
