//! Go's regular expressions: they are read by Go's rules, with Go's errors, and said again for an engine that never
//! backtracks either.
//!
//! What differs between the two is settled here: `\d \w \s \b` are ASCII, classes know no set operations, braces that
//! count nothing are plain text.
//!
//! Invariants
//! - A pattern only says whether and where it matches: its groups capture nothing.
//! - What Go refuses is refused in its words; what it takes is compiled, up to a size.
//!
//! Source: `regexp/syntax/parse.go`.

mod items;

pub use regex::Regex;
use regex::RegexBuilder;

use items::{Item, class_item, item_escape, posix};

const MAX_REPEAT: u64 = 1000;
const MAX_DEPTH: usize = 1000;

/// Why a pattern is none, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {what}: `{of}`")]
pub struct RegexpError {
    what: &'static str,
    of: String,
}

fn error(what: &'static str, of: &str) -> RegexpError {
    RegexpError { what, of: of.to_owned() }
}

/// Compiles a pattern of Go's `regexp` that takes at most `largest` bytes of memory.
///
/// # Errors
/// Go would refuse it, or it is too large.
pub fn compile(pattern: &str, largest: usize) -> Result<Regex, RegexpError> {
    let mut builder = RegexBuilder::new(&translate(pattern)?);
    builder.size_limit(largest).nest_limit(MAX_DEPTH as u32);
    builder.build().map_err(|_| error("expression too large", pattern))
}

/// Whether Go would take a pattern; nothing is compiled.
///
/// # Errors
/// Go would refuse it.
pub fn check(pattern: &str) -> Result<(), RegexpError> {
    translate(pattern).map(drop)
}

/// The pattern in the engine's words.
fn translate(pattern: &str) -> Result<String, RegexpError> {
    let mut reader = Reader {
        whole: pattern,
        rest: pattern,
        out: String::with_capacity(pattern.len() + 16),
        groups: Vec::new(),
        lazy: false,
        atom: None,
        repeated: None,
        widest: 0,
    };
    reader.read()?;
    Ok(reader.out)
}

struct Group {
    /// What `U` was before it.
    lazy: bool,
    /// The largest repetition within, so far; of what encloses it.
    widest: u64,
    /// Where it begins in the output.
    start: usize,
}

struct Reader<'p> {
    whole: &'p str,
    rest: &'p str,
    out: String,
    groups: Vec<Group>,
    lazy: bool,
    /// How often the last atom is repeated within, if there is one that may be repeated.
    atom: Option<u64>,
    /// What followed the atom where it was repeated last, if nothing came in between.
    repeated: Option<&'p str>,
    /// The largest repetition of this group.
    widest: u64,
}

impl<'p> Reader<'p> {
    fn read(&mut self) -> Result<(), RegexpError> {
        while let Some(c) = self.rest.chars().next() {
            let before = self.rest;
            let repeated = self.repeated.take();
            match c {
                '(' => self.open()?,
                ')' => self.close()?,
                '|' => {
                    self.advance(1);
                    self.out.push('|');
                    self.atom = None;
                }
                '*' | '+' | '?' => self.repeat(before, 1, repeated, None)?,
                '{' => match braces(before) {
                    Some((length, bounds)) => self.repeat(before, length, repeated, Some(bounds))?,
                    None => self.literal('{', 1),
                },
                '[' => self.class()?,
                '^' | '$' | '.' => {
                    self.advance(1);
                    self.out.push(c);
                    self.done(1);
                }
                '\\' => self.escape()?,
                c => self.literal(c, c.len_utf8()),
            }
        }
        match self.groups.is_empty() {
            true => Ok(()),
            false => Err(error("missing closing )", self.whole)),
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    /// An atom was read, which repeats `factor` times within.
    fn done(&mut self, factor: u64) {
        self.atom = Some(factor);
        self.widest = self.widest.max(factor);
    }

    fn literal(&mut self, c: char, bytes: usize) {
        self.advance(bytes);
        push_literal(&mut self.out, c);
        self.done(1);
    }

    fn repeat(
        &mut self,
        before: &'p str,
        length: usize,
        repeated: Option<&'p str>,
        bounds: Option<(u64, Option<u64>)>,
    ) -> Result<(), RegexpError> {
        let operator = &before[..length];
        self.advance(length);
        if let Some((least, most)) = bounds
            && (least > MAX_REPEAT || most.is_some_and(|most| most > MAX_REPEAT || most < least))
        {
            return Err(error("invalid repeat count", operator));
        }
        let lazy = self.rest.starts_with('?');
        self.advance(usize::from(lazy));
        if let Some(last) = repeated {
            return Err(error("invalid nested repetition operator", &last[..last.len() - self.rest.len()]));
        }
        let Some(factor) = self.atom.take() else {
            return Err(error("missing argument to repetition operator", operator));
        };
        let times = bounds.map_or(1, |(least, most)| most.unwrap_or(least).max(least).max(1));
        if factor.max(1).saturating_mul(times) > MAX_REPEAT {
            return Err(error("invalid repeat count", &before[..before.len() - self.rest.len()]));
        }
        self.out += operator;
        if lazy != self.lazy {
            self.out.push('?');
        }
        self.done(factor.max(1) * times);
        self.repeated = Some(before);
        Ok(())
    }

    fn open(&mut self) -> Result<(), RegexpError> {
        if self.groups.len() >= MAX_DEPTH {
            return Err(error("expression nests too deeply", self.whole));
        }
        if !self.rest.starts_with("(?") {
            self.advance(1);
            self.push_group("(?:");
            return Ok(());
        }
        if let Some(named) = self.rest.strip_prefix("(?P<").or_else(|| self.rest.strip_prefix("(?<")) {
            let Some((name, after)) = named.split_once('>') else {
                return Err(error("invalid named capture", self.rest));
            };
            if name.is_empty() || !name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()) {
                let shown = &self.rest[..self.rest.len() - after.len()];
                return Err(error("invalid named capture", shown));
            }
            self.rest = after;
            self.push_group("(?:");
            return Ok(());
        }
        self.flags()
    }

    fn push_group(&mut self, head: &str) {
        let start = self.out.len();
        self.out += head;
        self.groups.push(Group { lazy: self.lazy, widest: std::mem::take(&mut self.widest), start });
        self.atom = None;
    }

    /// `(?i)` and `(?i:`
    fn flags(&mut self) -> Result<(), RegexpError> {
        let before = self.rest;
        let (mut lazy, mut negative, mut any) = (self.lazy, false, false);
        let mut flags = [String::new(), String::new()];
        for (at, c) in before.char_indices().skip(2) {
            match c {
                'i' | 'm' | 's' => flags[usize::from(negative)].push(c),
                'U' => lazy = !negative,
                '-' if !negative => {
                    negative = true;
                    any = false;
                    continue;
                }
                ':' | ')' if !negative || any => {
                    self.advance(at + 1);
                    let off = if flags[1].is_empty() { String::new() } else { format!("-{}", flags[1]) };
                    let head = format!("(?{}{off}", flags[0]);
                    self.set_flags(c, &head, lazy);
                    return Ok(());
                }
                _ => return Err(error("invalid or unsupported Perl syntax", &before[..at + c.len_utf8()])),
            }
            any = true;
        }
        Err(error("missing closing )", self.whole))
    }

    fn set_flags(&mut self, end: char, head: &str, lazy: bool) {
        if end == ':' {
            self.push_group(&format!("{head}:"));
        } else {
            // `(?U)` alone says nothing to the engine.
            if head.len() > 2 {
                self.out += head;
                self.out.push(')');
            }
            self.atom = None;
        }
        self.lazy = lazy;
    }

    fn close(&mut self) -> Result<(), RegexpError> {
        let Some(group) = self.groups.pop() else { return Err(error("unexpected )", self.whole)) };
        self.advance(1);
        self.out.push(')');
        self.lazy = group.lazy;
        let factor = self.widest.max(1);
        self.widest = group.widest;
        debug_assert!(group.start < self.out.len());
        self.done(factor);
        Ok(())
    }

    fn escape(&mut self) -> Result<(), RegexpError> {
        let before = self.rest;
        let Some(c) = before[1..].chars().next() else {
            return Err(error("trailing backslash at end of expression", ""));
        };
        match c {
            'A' | 'z' => {
                self.advance(2);
                self.out.push('\\');
                self.out.push(c);
            }
            'b' | 'B' => {
                self.advance(2);
                self.out += if c == 'b' { "(?-u:\\b)" } else { "(?-u:\\B)" };
            }
            'C' => return Err(error("invalid escape sequence", "\\C")),
            'Q' => {
                self.quoted();
                return Ok(());
            }
            _ => {
                let item = item_escape(before)?;
                self.advance(item.length);
                match item.what {
                    Item::Char(c) => push_literal(&mut self.out, c),
                    Item::Set(set) => self.out += &set,
                }
            }
        }
        self.done(1);
        Ok(())
    }

    /// `\Q…\E`
    fn quoted(&mut self) {
        let body = &self.rest[2..];
        let (text, rest) = body.split_once("\\E").unwrap_or((body, ""));
        for c in text.chars() {
            push_literal(&mut self.out, c);
            self.done(1);
        }
        self.rest = rest;
    }

    fn class(&mut self) -> Result<(), RegexpError> {
        let before = self.rest;
        let unclosed = || error("missing closing ]", before);
        let mut rest = &before[1..];
        let mut out = String::from("[");
        if let Some(after) = rest.strip_prefix('^') {
            out.push('^');
            rest = after;
        }
        let mut first = true;
        while first || !rest.starts_with(']') {
            if rest.is_empty() {
                return Err(unclosed());
            }
            first = false;
            if let Some((set, after)) = posix(rest)? {
                out += &set;
                rest = after;
                continue;
            }
            let start = rest;
            let (low, after) = match class_item(rest, before)? {
                (Item::Set(set), after) => {
                    out += &set;
                    rest = after;
                    continue;
                }
                (Item::Char(c), after) => (c, after),
            };
            rest = after;
            let high = match rest.strip_prefix('-') {
                Some(after) if !after.is_empty() && !after.starts_with(']') => match class_item(after, before)? {
                    (Item::Char(high), after) => {
                        rest = after;
                        high
                    }
                    (Item::Set(_), after) => {
                        return Err(error("invalid character class range", &start[..start.len() - after.len()]));
                    }
                },
                _ => low,
            };
            if high < low {
                return Err(error("invalid character class range", &start[..start.len() - rest.len()]));
            }
            out += &format!("\\x{{{:x}}}-\\x{{{:x}}}", low as u32, high as u32);
        }
        self.rest = &rest[1..];
        out.push(']');
        self.out += &out;
        self.done(1);
        Ok(())
    }
}

fn push_literal(out: &mut String, c: char) {
    if c.is_ascii() && !c.is_ascii_alphanumeric() {
        out.push_str(&format!("\\x{{{:x}}}", c as u32));
    } else {
        out.push(c);
    }
}

/// `{n}`, `{n,}`, `{n,m}`: how long it is, and its bounds.
fn braces(text: &str) -> Option<(usize, (u64, Option<u64>))> {
    let body = &text[1..text.find('}')?];
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let padded = digits.len() > 1 && digits.starts_with('0');
        // What no machine counts to is too large as well.
        (plain && !padded).then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let bounds = match body.split_once(',') {
        None => {
            let exactly = number(body)?;
            (exactly, Some(exactly))
        }
        Some((least, "")) => (number(least)?, None),
        Some((least, most)) => (number(least)?, Some(number(most)?)),
    };
    Some((body.len() + 2, bounds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_go() {
        for (pattern, text, expect) in [
            ("^[a-z]+$", "abc", Ok(true)),
            ("{", "{", Ok(true)),
            ("a{,2}", "a{,2}", Ok(true)),
            ("^a{2,3}$", "aaaa", Ok(false)),
            (r"[\w-.]", "-", Ok(true)),
            (r"^\Qa.b\E$", "a.b", Ok(true)),
            (r"^\d$", "٣", Ok(false)),
            ("[a&&b]", "&", Ok(true)),
            ("[[a]]", "a]", Ok(true)),
            (r"[\d-z]", "-", Ok(true)),
            ("(?<a>x)(?<a>y)", "xy", Ok(true)),
            (r"\07", "\u{7}", Ok(true)),
            (r"a\b", "a", Ok(true)),
            ("(?i)ABC", "abc", Ok(true)),
            ("(?=a)", "a", Err("invalid or unsupported Perl syntax: `(?=`")),
            ("a**", "a", Err("invalid nested repetition operator: `**`")),
            ("*a", "a", Err("missing argument to repetition operator: `*`")),
            ("a{1001}", "a", Err("invalid repeat count: `{1001}`")),
            ("(a", "a", Err("missing closing ): `(a`")),
            ("a)", "a", Err("unexpected ): `a)`")),
            ("[a", "a", Err("missing closing ]: `[a`")),
            ("[b-a]", "a", Err("invalid character class range: `b-a`")),
            (r"\e", "a", Err(r"invalid escape sequence: `\e`")),
            (r"\", "a", Err("trailing backslash at end of expression: ``")),
        ] {
            let found = compile(pattern, 1 << 20).map(|regex| regex.is_match(text)).map_err(|error| error.to_string());
            assert_eq!(found, expect.map_err(|why| format!("error parsing regexp: {why}")), "{pattern}");
        }
    }
}
