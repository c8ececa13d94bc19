//! Names of properties as identifiers of expressions. Upstream: `k8s.io/apiserver/pkg/cel/escaping.go`.

use std::borrow::Cow;

const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether an identifier is a word of the language.
#[must_use]
pub fn reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// The identifier that stands for a property; `None` if none does.
#[must_use]
pub fn escape(name: &str) -> Option<Cow<'_, str>> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if reserved(name) {
        return Some(Cow::Owned(format!("__{name}__")));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.chars().all(|c| plain(c) || matches!(c, '.' | '-' | '/')) {
        return None;
    }
    if name.chars().all(plain) && !name.contains("__") {
        return Some(Cow::Borrowed(name));
    }
    let escaped = name.replace("__", "\0").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__");
    Some(Cow::Owned(escaped.replace('\0', "__underscores__")))
}

/// The property that an identifier stands for; `None` if it is no identifier of one.
#[must_use]
pub fn unescape(identifier: &str) -> Option<Cow<'_, str>> {
    if !identifier.contains("__") {
        return Some(Cow::Borrowed(identifier));
    }
    let mut out = String::with_capacity(identifier.len());
    let mut rest = identifier;
    while let Some((start, end)) = sequence(rest) {
        out += &rest[..start];
        let word = &rest[start + 2..end - 2];
        match word {
            "underscores" => out += "__",
            "dot" => out.push('.'),
            "dash" => out.push('-'),
            "slash" => out.push('/'),
            word if reserved(word) && end - start == identifier.len() => out += word,
            _ => return None,
        }
        rest = &rest[end..];
    }
    out += rest;
    Some(Cow::Owned(out))
}

/// Where the first `__word__` begins and ends.
fn sequence(text: &str) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    (0..text.len()).find_map(|start| {
        if !bytes[start..].starts_with(b"__") {
            return None;
        }
        let word = bytes[start + 2..].iter().position(|b| *b == b'_')?;
        let end = start + 2 + word;
        (word > 0 && bytes[end..].starts_with(b"__")).then_some((start, end + 2))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for (name, identifier) in [
            ("a", Some("a")),
            ("namespace", Some("__namespace__")),
            ("a.b", Some("a__dot__b")),
            ("a-b", Some("a__dash__b")),
            ("a/b", Some("a__slash__b")),
            ("a__b", Some("a__underscores__b")),
            ("a_b", Some("a_b")),
            ("self", Some("self")),
            ("int", Some("int")),
            ("$ref", None),
            ("1a", None),
            ("", None),
        ] {
            assert_eq!(escape(name).as_deref(), identifier, "{name}");
            if let Some(identifier) = identifier {
                assert_eq!(unescape(identifier).as_deref(), Some(name), "{identifier}");
            }
        }
        assert_eq!(unescape("a__nope__b"), None);
        assert_eq!(unescape("foo__bar").as_deref(), Some("foo__bar"));
        assert_eq!(unescape("x__if__"), None);
    }
}
