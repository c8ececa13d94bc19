//! Where expressions of webhooks and policies are judged when an object is written.

use crate::{FieldError, Path, rows::vocab::Errors};

pub(crate) use crate::expressions::{
    Age,
    admission::{Returns, Scope},
};

/// Judges the expression at `path`, which is not empty.
pub(crate) fn check(errs: &mut Errors, path: &Path, expression: &str, returns: Returns, scope: &Scope) {
    if let Err(why) = scope.compile(expression, returns) {
        errs.push(FieldError::invalid(path, expression, why));
    }
}

/// Whether a variable may be called so.
#[must_use]
pub fn is_identifier(name: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    name.bytes().next().is_some_and(|c| word(c) && !c.is_ascii_digit())
        && name.bytes().all(word)
        && !kontiki_cel::reserved(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_words_that_mean_nothing_else() {
        for (name, good) in [("a", true), ("_A1", true), ("1a", false), ("a b", false), ("in", false), ("", false)] {
            assert_eq!(is_identifier(name), good, "{name}");
        }
    }
}
