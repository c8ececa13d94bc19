//! Links in HTML, written anew while it passes.
//!
//! Source: upstream rewrites what golang.org/x/net/html takes for attributes of tags (`util/proxy/transport.go`); states are
//! named as in the HTML standard's tokenization.
//!
//! Invariants
//! - All bytes pass as they came, but for values that are links and that the rule wants otherwise.
//! - What is kept is bounded, whatever comes: one value up to [`MAX_VALUE`]; a longer one is no link.
//! - Where pieces are cut makes no difference.

/// Longest link that is written anew.
const MAX_VALUE: usize = 8 << 10;
/// Letters kept of a name: more than any has that means something here.
const MAX_NAME: usize = 16;

/// Attributes that are links, by tag.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Tags whose content is text up to their own end.
const RAW: [&str; 10] =
    ["iframe", "noembed", "noframes", "noscript", "plaintext", "script", "style", "textarea", "title", "xmp"];

#[derive(Clone, Copy)]
enum State {
    Text,
    /// After `<`.
    TagOpen,
    /// After `</`.
    EndTagOpen,
    /// After `<!` and, if it is true, a dash.
    Declaration(bool),
    /// With the dashes seen last, up to two, and whether a `!` came after these.
    Comment(u8, bool),
    /// Up to `>`.
    Bogus,
    TagName,
    BeforeName,
    Name,
    AfterName,
    BeforeValue,
    /// Up to a quote, or to the end of a word.
    Value(Option<u8>),
    Raw,
}

/// Rewrites what is pushed through it. `rule` gives what is to stand in the place of a link, escaped; `None`: it stays.
pub(super) struct Rewriter<F> {
    rule: F,
    state: State,
    /// The tag's name. One that ends an element begins with a slash, or is empty.
    tag: Vec<u8>,
    name: Vec<u8>,
    /// The value of a link, as far as it has come; `None`: what comes is none.
    link: Option<Vec<u8>>,
    raw: Raw,
}

/// What matters of raw text that has passed.
#[derive(Default)]
struct Raw {
    /// Its last bytes, in small letters.
    tail: Vec<u8>,
    /// Within `<!--` of a script.
    escaped: bool,
    /// Within a script within that: its end is not the end of the outer one.
    double: bool,
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b'\x0c')
}

fn keep(name: &mut Vec<u8>, byte: u8) {
    if name.len() < MAX_NAME {
        name.push(byte.to_ascii_lowercase());
    }
}

impl Raw {
    /// Whether the element named `tag` ends with this byte.
    fn ends(&mut self, tag: &[u8], byte: u8) -> bool {
        let after_name = is_space(byte) || matches!(byte, b'/' | b'>');
        let closed = after_name && self.tail.strip_suffix(tag).is_some_and(|before| before.ends_with(b"</"));
        if closed && !self.double {
            return tag != b"plaintext";
        }
        if closed {
            self.double = false;
        } else if after_name && self.escaped && self.tail.ends_with(b"<script") {
            self.double = true;
        } else if byte == b'>' && self.tail.ends_with(b"--") {
            (self.escaped, self.double) = (false, false);
        }
        if self.tail.len() == MAX_NAME {
            self.tail.remove(0);
        }
        self.tail.push(byte.to_ascii_lowercase());
        self.escaped |= tag == b"script" && self.tail.ends_with(b"<!--");
        false
    }
}

impl<F: Fn(&[u8]) -> Option<Vec<u8>>> Rewriter<F> {
    pub fn new(rule: F) -> Self {
        Self { rule, state: State::Text, tag: Vec::new(), name: Vec::new(), link: None, raw: Raw::default() }
    }

    /// Lets a piece pass; what can be said of it goes to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        out.reserve(piece.len());
        for byte in piece {
            self.step(*byte, out);
        }
    }

    /// Nothing more comes.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend(self.link.take().unwrap_or_default());
    }

    fn step(&mut self, byte: u8, out: &mut Vec<u8>) {
        let state = self.state;
        self.state = match state {
            State::Value(end) => return self.value(end, byte, out),
            State::BeforeValue => return self.before_value(byte, out),
            State::Text if byte == b'<' => State::TagOpen,
            State::Text => State::Text,
            State::TagOpen => self.tag_open(byte),
            State::EndTagOpen => self.end_tag_open(byte),
            State::Declaration(dash) => declaration(dash, byte),
            State::Comment(dashes, bang) => comment(dashes, bang, byte),
            State::Bogus if byte == b'>' => State::Text,
            State::Bogus => State::Bogus,
            State::TagName => self.tag_name(byte),
            State::BeforeName => self.before_name(byte),
            State::Name => self.attribute_name(byte),
            State::AfterName if byte == b'=' => State::BeforeValue,
            State::AfterName if is_space(byte) => State::AfterName,
            State::AfterName => self.before_name(byte),
            State::Raw if !self.raw.ends(&self.tag, byte) => State::Raw,
            State::Raw => {
                self.tag.clear();
                self.before_name(byte)
            }
        };
        out.push(byte);
    }

    fn tag_open(&mut self, byte: u8) -> State {
        match byte {
            b'!' => State::Declaration(false),
            b'/' => State::EndTagOpen,
            b'?' => State::Bogus,
            b'<' => State::TagOpen,
            _ if byte.is_ascii_alphabetic() => {
                self.tag.clear();
                keep(&mut self.tag, byte);
                State::TagName
            }
            _ => State::Text,
        }
    }

    fn end_tag_open(&mut self, byte: u8) -> State {
        match byte {
            b'>' => State::Text,
            _ if byte.is_ascii_alphabetic() => {
                // No name begins so: what it may have of attributes is no link.
                self.tag = vec![b'/'];
                State::TagName
            }
            _ => State::Bogus,
        }
    }

    fn tag_name(&mut self, byte: u8) -> State {
        if is_space(byte) || matches!(byte, b'/' | b'>') {
            return self.before_name(byte);
        }
        keep(&mut self.tag, byte);
        State::TagName
    }

    fn before_name(&mut self, byte: u8) -> State {
        match byte {
            b'>' => self.tag_closed(),
            b'/' => State::BeforeName,
            _ if is_space(byte) => State::BeforeName,
            _ => {
                self.name.clear();
                keep(&mut self.name, byte);
                State::Name
            }
        }
    }

    fn attribute_name(&mut self, byte: u8) -> State {
        match byte {
            b'=' => State::BeforeValue,
            b'>' | b'/' => self.before_name(byte),
            _ if is_space(byte) => State::AfterName,
            _ => {
                keep(&mut self.name, byte);
                State::Name
            }
        }
    }

    fn tag_closed(&mut self) -> State {
        if !RAW.iter().any(|raw| raw.as_bytes() == self.tag) {
            return State::Text;
        }
        self.raw = Raw::default();
        State::Raw
    }

    fn before_value(&mut self, byte: u8, out: &mut Vec<u8>) {
        let quote = matches!(byte, b'"' | b'\'').then_some(byte);
        if is_space(byte) || byte == b'>' {
            self.state = if byte == b'>' { self.tag_closed() } else { State::BeforeValue };
            return out.push(byte);
        }
        self.state = State::Value(quote);
        self.link = self.is_link().then(Vec::new);
        match quote {
            Some(_) => out.push(byte),
            None => self.value(None, byte, out),
        }
    }

    fn is_link(&self) -> bool {
        let of_tag = LINKS.iter().find(|(tag, _)| tag.as_bytes() == self.tag).map_or(&[][..], |(_, names)| *names);
        of_tag.iter().any(|name| name.as_bytes() == self.name)
    }

    fn value(&mut self, end: Option<u8>, byte: u8, out: &mut Vec<u8>) {
        let over = end.map_or(is_space(byte) || byte == b'>', |quote| byte == quote);
        if !over && let Some(link) = &mut self.link {
            link.push(byte);
            if link.len() > MAX_VALUE {
                out.extend(self.link.take().unwrap_or_default());
            }
            return;
        }
        if over {
            if let Some(link) = self.link.take() {
                out.extend((self.rule)(&link).unwrap_or(link));
            }
            self.state = if byte == b'>' && end.is_none() { self.tag_closed() } else { State::BeforeName };
        }
        out.push(byte);
    }
}

fn declaration(dash: bool, byte: u8) -> State {
    match byte {
        b'>' => State::Text,
        b'-' if dash => State::Comment(2, false),
        b'-' => State::Declaration(true),
        _ => State::Bogus,
    }
}

/// `<!-->` and `<!--->` are whole comments.
fn comment(dashes: u8, bang: bool, byte: u8) -> State {
    match byte {
        b'>' if dashes == 2 => State::Text,
        b'-' if bang => State::Comment(1, false),
        b'-' => State::Comment((dashes + 1).min(2), false),
        b'!' if dashes == 2 && !bang => State::Comment(2, true),
        _ => State::Comment(0, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/…` becomes `P/…`, in pieces of `size` bytes.
    fn rewritten(page: &[u8], size: usize) -> String {
        let rule = |link: &[u8]| link.starts_with(b"/").then(|| [&b"P"[..], link].concat());
        let (mut rewriter, mut out) = (Rewriter::new(rule), Vec::new());
        page.chunks(size).for_each(|piece| rewriter.push(piece, &mut out));
        rewriter.finish(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn links_of_tags_are_written_anew_and_nothing_else() {
        for (page, expect) in [
            (r#"<a href="/x">/y</a>"#, r#"<a href="P/x">/y</a>"#),
            (r#"<A class=/c HREF='/x' id="/i">"#, r#"<A class=/c HREF='P/x' id="/i">"#),
            ("<img src=/x/><p>", "<img src=P/x/><p>"),
            ("<img\n src\t=\n/x>", "<img\n src\t=\nP/x>"),
            (r#"<img src="/x"usemap="/y">"#, r#"<img src="P/x"usemap="P/y">"#),
            (r#"<img/src="/x"/>"#, r#"<img/src="P/x"/>"#),
            (
                "<link href=x><link href=><link href><link =href=/x>",
                "<link href=x><link href=><link href><link =href=/x>",
            ),
            (r#"<video poster="/p" src="/s"><p href="/x">"#, r#"<video poster="P/p" src="P/s"><p href="/x">"#),
            ("<aa href=/x><a:b href=/x></a href=/x>", "<aa href=/x><a:b href=/x></a href=/x>"),
            // Quotes elsewhere than around a value do not hide the end of a tag.
            (r#"<a "x>y" href="/z">"#, r#"<a "x>y" href="/z">"#),
            (r#"<a title="x>y" href="/z">"#, r#"<a title="x>y" href="P/z">"#),
            (r#"</a="><a href="/x">"#, r#"</a="><a href="P/x">"#),
            (r#"</a title="x>y" href="/z"><a href=/x>"#, r#"</a title="x>y" href="/z"><a href=P/x>"#),
            // Comments, declarations and what only looks like a tag.
            ("<!-- <a href=/x> --><a href=/y>", "<!-- <a href=/x> --><a href=P/y>"),
            ("<!--><a href=/x>", "<!--><a href=P/x>"),
            ("<!---><a href=/x>", "<!---><a href=P/x>"),
            ("<!-- --!><a href=/x>", "<!-- --!><a href=P/x>"),
            ("<!-- --!-><a href=/x>", "<!-- --!-><a href=/x>"),
            ("<!-- - -><a href=/x>-->", "<!-- - -><a href=/x>-->"),
            ("<!DOCTYPE html><a href=/x>", "<!DOCTYPE html><a href=P/x>"),
            ("<!-x><a href=/x>", "<!-x><a href=P/x>"),
            ("<?php <a href=/x>", "<?php <a href=/x>"),
            ("1 < 2 <<a href=/x></><a href=/y></ <a href=/z>", "1 < 2 <<a href=P/x></><a href=P/y></ <a href=/z>"),
            // Text up to the end of the element.
            ("<script src=/s>'<a href=/x>'</script><a href=/y>", "<script src=P/s>'<a href=/x>'</script><a href=P/y>"),
            ("<script/><a href=/x></SCRIPT ><a href=/y>", "<script/><a href=/x></SCRIPT ><a href=P/y>"),
            ("<title></titles><a href=/x></title/><a href=/y>", "<title></titles><a href=/x></title/><a href=P/y>"),
            ("<plaintext></plaintext><a href=/x>", "<plaintext></plaintext><a href=/x>"),
            (
                "<script><!--<script></script><a href=/x>--></script><a href=/y>",
                "<script><!--<script></script><a href=/x>--></script><a href=P/y>",
            ),
            ("<style><!--</style><a href=/x>", "<style><!--</style><a href=P/x>"),
            // What ends too early.
            ("<a href=/x", "<a href=/x"),
            ("<a href=\"/x", "<a href=\"/x"),
            ("<", "<"),
            ("<a\0b href=/x><a href=/\0\u{e9}>", "<a\0b href=/x><a href=P/\0\u{e9}>"),
        ] {
            for size in [1, 2, 3, 7, 1000] {
                assert_eq!(rewritten(page.as_bytes(), size), expect, "{page} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let long = format!("<a href=/{}><a href=/y>", "x".repeat(MAX_VALUE));
        let fits = format!("<a href=/{}>", "x".repeat(MAX_VALUE - 1));
        assert_eq!(rewritten(long.as_bytes(), 64), long.replace("=/y", "=P/y"));
        assert_eq!(rewritten(fits.as_bytes(), 64), fits.replace("=/", "=P/"));
        let name = "a".repeat(1 << 16);
        let page = format!("<{name} href=/x><a {name}=/x href=/y><title>{name}</title><a href=/z>");
        let rule = |_: &[u8]| None;
        let (mut rewriter, mut out) = (Rewriter::new(rule), Vec::new());
        rewriter.push(page.as_bytes(), &mut out);
        assert_eq!(out, page.as_bytes());
        let kept = [&rewriter.tag, &rewriter.name, &rewriter.raw.tail].map(Vec::len);
        assert!(kept.iter().all(|length| *length <= MAX_NAME), "{kept:?}");
    }

    #[test]
    fn any_bytes_pass_unchanged_without_a_rule() {
        const BYTES: &[u8] = b"<>/!-?=\"' aAhrefscipt\0\xff\n";
        let mut seed = 7_u64;
        for _ in 0..200 {
            let page: Vec<u8> = (0..400)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    BYTES[usize::try_from(seed >> 33).expect("31 bits") % BYTES.len()]
                })
                .collect();
            let (mut rewriter, mut out) = (Rewriter::new(|_: &[u8]| None), Vec::new());
            page.chunks(13).for_each(|piece| rewriter.push(piece, &mut out));
            rewriter.finish(&mut out);
            assert_eq!(out, page);
        }
    }
}
