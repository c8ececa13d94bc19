//! What a command line asks for by words in names.

use anyhow::{Result, bail};

/// Those whose name holds one of the words; all without words.
///
/// # Errors
/// A word is in no name: whoever asks for nothing has mistyped something, and must not take it for a success.
pub fn select<'a, T>(all: &'a [T], name: impl Fn(&T) -> &str, words: &[String]) -> Result<Vec<&'a T>> {
    if let Some(word) = words.iter().find(|word| !all.iter().any(|one| name(one).contains(word.as_str()))) {
        bail!("no name holds {word:?}; there are {}", all.iter().map(&name).collect::<Vec<_>>().join(", "));
    }
    let wanted = |one: &&T| words.is_empty() || words.iter().any(|word| name(one).contains(word.as_str()));
    Ok(all.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_to_be_in_a_name() {
        let all = ["leader dies", "node dies"];
        let cases: [(&[&str], &[&str]); 4] =
            [(&[], &all), (&["dies"], &all), (&["node"], &["node dies"]), (&["node", "leader"], &all)];
        let found = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            select(&all, |name| name, &words).map(|names| names.into_iter().copied().collect::<Vec<_>>())
        };
        for (words, expected) in cases {
            assert_eq!(found(words).expect("every word is in a name"), expected, "{words:?}");
        }
        for words in [&["gone"][..], &["node", "gone"]] {
            let error = found(words).expect_err("a word is in no name").to_string();
            assert_eq!(error, "no name holds \"gone\"; there are leader dies, node dies");
        }
    }
}
