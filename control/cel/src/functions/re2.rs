//! Patterns of expressions.

use kontiki_regexp::Regex;

/// A compiled pattern.
pub type Pattern = Regex;

const MAX_SIZE: usize = 32 << 20;

/// Compiles a pattern of Go's `regexp`.
///
/// # Errors
/// Go's sentence, `error parsing regexp: …`.
pub fn compile(pattern: &str) -> Result<Pattern, String> {
    kontiki_regexp::compile(pattern, MAX_SIZE).map_err(|error| error.to_string())
}

/// All matches, at most so many.
pub(crate) fn find_all<'t>(pattern: &Pattern, text: &'t str, most: usize) -> impl Iterator<Item = &'t str> {
    // Borrowed for the iterator only; the texts live as long as the subject.
    let found: Vec<&'t str> = pattern.find_iter(text).take(most).map(|found| found.as_str()).collect();
    found.into_iter()
}
