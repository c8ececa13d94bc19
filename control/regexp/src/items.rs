//! What may stand within a class as well as outside: escapes, sets of characters.

use regex::Regex;

use crate::{RegexpError, error};

pub(crate) enum Item {
    Char(char),
    /// A class of its own, as the engine spells it.
    Set(String),
}

pub(crate) struct Escaped {
    pub what: Item,
    pub length: usize,
}

const DIGITS: &str = "0-9";
const WORDS: &str = "0-9A-Za-z_";
const SPACES: &str = "\\t\\n\\f\\r ";

/// An escape that may stand within a class too; `text` begins with the backslash.
pub(crate) fn item_escape(text: &str) -> Result<Escaped, RegexpError> {
    let after = &text[1..];
    let Some(c) = after.chars().next() else { return Err(error("trailing backslash at end of expression", "")) };
    let simple = |what| Ok(Escaped { what, length: 2 });
    let set =
        |members: &str, negated: bool| simple(Item::Set(format!("[{}{members}]", if negated { "^" } else { "" })));
    match c {
        'd' | 'D' => set(DIGITS, c == 'D'),
        'w' | 'W' => set(WORDS, c == 'W'),
        's' | 'S' => set(SPACES, c == 'S'),
        'p' | 'P' => property(text),
        'a' => simple(Item::Char('\u{7}')),
        'f' => simple(Item::Char('\u{c}')),
        'n' => simple(Item::Char('\n')),
        'r' => simple(Item::Char('\r')),
        't' => simple(Item::Char('\t')),
        'v' => simple(Item::Char('\u{b}')),
        'x' => hex(text),
        '0'..='7' => octal(text),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => simple(Item::Char(c)),
        c => Err(error("invalid escape sequence", &text[..1 + c.len_utf8()])),
    }
}

fn octal(text: &str) -> Result<Escaped, RegexpError> {
    let digits: String = text[1..].chars().take(3).take_while(|c| ('0'..='7').contains(c)).collect();
    // A single digit but zero would refer back.
    if digits.len() == 1 && digits != "0" {
        return Err(error("invalid escape sequence", &text[..2]));
    }
    let value = u32::from_str_radix(&digits, 8).unwrap_or(0);
    Ok(Escaped { what: Item::Char(char::from_u32(value).unwrap_or('\0')), length: 1 + digits.len() })
}

fn hex(text: &str) -> Result<Escaped, RegexpError> {
    let body = &text[2..];
    let (digits, length) = match body.strip_prefix('{') {
        Some(body) => match body.split_once('}') {
            Some((digits, _)) => (digits, digits.len() + 4),
            None => return Err(error("invalid escape sequence", text)),
        },
        None => (body.get(..2).unwrap_or(""), 4),
    };
    let good = !digits.is_empty() && digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let value = good.then(|| u32::from_str_radix(digits, 16).ok()).flatten().and_then(char::from_u32);
    let shown = || text.get(..length.min(text.len())).unwrap_or(text);
    value.map(|c| Escaped { what: Item::Char(c), length }).ok_or_else(|| error("invalid escape sequence", shown()))
}

/// `\pL`, `\p{Greek}`, `\P{^Greek}`
fn property(text: &str) -> Result<Escaped, RegexpError> {
    let mut negated = text[1..].starts_with('P');
    let body = &text[2..];
    let (name, length) = match body.strip_prefix('{') {
        Some(inner) => match inner.split_once('}') {
            Some((name, _)) => (name, name.len() + 4),
            None => return Err(error("invalid character class range", text)),
        },
        None => {
            let c = body.chars().next().map_or(0, char::len_utf8);
            (&body[..c], 2 + c)
        }
    };
    let wrong = || error("invalid character class range", &text[..length]);
    let plain = match name.strip_prefix('^') {
        Some(rest) => {
            negated = !negated;
            rest
        }
        None => name,
    };
    let set = format!("\\{}{{{plain}}}", if negated { 'P' } else { 'p' });
    let known = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !known || !plain.starts_with(|c: char| c.is_ascii_uppercase()) || Regex::new(&set).is_err() {
        return Err(wrong());
    }
    Ok(Escaped { what: Item::Set(set), length })
}

pub(crate) fn class_item<'p>(text: &'p str, class: &str) -> Result<(Item, &'p str), RegexpError> {
    if text.starts_with('\\') {
        let escaped = item_escape(text)?;
        return Ok((escaped.what, &text[escaped.length..]));
    }
    let c = text.chars().next().ok_or_else(|| error("missing closing ]", class))?;
    Ok((Item::Char(c), &text[c.len_utf8()..]))
}

/// `[:alpha:]` within a class.
pub(crate) fn posix(text: &str) -> Result<Option<(String, &str)>, RegexpError> {
    let Some(body) = text.strip_prefix("[:") else { return Ok(None) };
    let Some((name, after)) = body.split_once(":]") else { return Ok(None) };
    let (plain, negated) = name.strip_prefix('^').map_or((name, ""), |plain| (plain, "^"));
    let members = match plain {
        "alnum" => "0-9A-Za-z",
        "alpha" => "A-Za-z",
        "ascii" => "\\x00-\\x7F",
        "blank" => "\\t ",
        "cntrl" => "\\x00-\\x1F\\x7F",
        "digit" => "0-9",
        "graph" => "!-~",
        "lower" => "a-z",
        "print" => " -~",
        "punct" => "!-/:-@\\[-`\\{-~",
        "space" => "\\t\\n\\x0B\\f\\r ",
        "upper" => "A-Z",
        "word" => "0-9A-Za-z_",
        "xdigit" => "0-9A-Fa-f",
        _ => return Err(error("invalid character class range", &text[..text.len() - after.len()])),
    };
    Ok(Some((format!("[{negated}{members}]"), after)))
}
