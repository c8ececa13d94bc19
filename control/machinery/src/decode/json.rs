//! A JSON reader that keeps order and repeats, and takes what Go's decoder takes: lone surrogates
//! and bytes that are not UTF-8 become U+FFFD inside strings.

use std::collections::HashSet;

use serde_json::{Map, Number, Value};

use super::{DecodeError, MAX_DEPTH, MAX_FINDINGS, MAX_PATH, Repeats, clipped, quote};
use crate::schema::{Schema, Type};

/// A document as it was written.
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// Reads one document.
pub(super) fn parse(body: &[u8]) -> Result<Node, DecodeError> {
    let text = String::from_utf8_lossy(body);
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    let node = reader.value(0)?;
    reader.skip_space();
    match reader.peek() {
        None => Ok(node),
        Some(byte) => Err(reader.unexpected(byte, "after top-level value")),
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, byte: u8, place: &str) -> DecodeError {
        DecodeError::new(format!("invalid character {:?} {place} (offset {})", char::from(byte), self.at))
    }

    fn end() -> DecodeError {
        DecodeError::new("unexpected end of JSON input")
    }

    fn expect(&mut self, wanted: u8, place: &str) -> Result<(), DecodeError> {
        self.skip_space();
        match self.peek() {
            Some(byte) if byte == wanted => {
                self.at += 1;
                Ok(())
            }
            Some(byte) => Err(self.unexpected(byte, place)),
            None => Err(Self::end()),
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, DecodeError> {
        self.skip_space();
        match self.peek().ok_or_else(Self::end)? {
            b'{' => self.object(depth + 1),
            b'[' => self.array(depth + 1),
            b'"' => Ok(Node::String(self.string()?)),
            b't' => self.word("true", Node::Bool(true)),
            b'f' => self.word("false", Node::Bool(false)),
            b'n' => self.word("null", Node::Null),
            b'-' | b'0'..=b'9' => self.number(),
            byte => Err(self.unexpected(byte, "looking for beginning of value")),
        }
    }

    fn word(&mut self, word: &str, node: Node) -> Result<Node, DecodeError> {
        if self.text[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(node)
        } else {
            Err(DecodeError::new(format!("invalid literal (expecting {word:?}, offset {})", self.at)))
        }
    }

    fn nest(depth: usize) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH { Err(DecodeError::new("exceeded max depth")) } else { Ok(()) }
    }

    fn array(&mut self, depth: usize) -> Result<Node, DecodeError> {
        Self::nest(depth)?;
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Node::Array(items));
        }
        loop {
            items.push(self.value(depth)?);
            self.skip_space();
            match self.peek().ok_or_else(Self::end)? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(Node::Array(items));
                }
                byte => return Err(self.unexpected(byte, "after array element")),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node, DecodeError> {
        Self::nest(depth)?;
        self.at += 1;
        let mut fields = Vec::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Node::Object(fields));
        }
        loop {
            self.skip_space();
            match self.peek().ok_or_else(Self::end)? {
                b'"' => {}
                byte => return Err(self.unexpected(byte, "looking for beginning of object key string")),
            }
            let key = self.string()?;
            self.expect(b':', "after object key")?;
            fields.push((key, self.value(depth)?));
            self.skip_space();
            match self.peek().ok_or_else(Self::end)? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(Node::Object(fields));
                }
                byte => return Err(self.unexpected(byte, "after object key:value pair")),
            }
        }
    }

    fn string(&mut self) -> Result<String, DecodeError> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let run = self.at;
            while !matches!(self.peek(), None | Some(b'"' | b'\\' | 0..=0x1f)) {
                self.at += 1;
            }
            out.extend_from_slice(&self.text[run..self.at]);
            match self.peek().ok_or_else(Self::end)? {
                b'"' => {
                    self.at += 1;
                    // Only whole characters were copied, so this never replaces anything.
                    return Ok(String::from_utf8(out).unwrap_or_default());
                }
                b'\\' => {
                    let c = self.escape()?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                byte => return Err(self.unexpected(byte, "in string literal")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, DecodeError> {
        let byte = *self.text.get(self.at + 1).ok_or_else(Self::end)?;
        self.at += 2;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode()?,
            _ => return Err(self.unexpected(byte, "in string escape code")),
        })
    }

    fn hex(&self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        digits.iter().try_fold(0, |value, digit| Some(value * 16 + char::from(*digit).to_digit(16)?))
    }

    /// After `\u`. A surrogate without its other half becomes U+FFFD.
    fn unicode(&mut self) -> Result<char, DecodeError> {
        let first = self.hex().ok_or_else(|| DecodeError::new(format!("invalid \\u escape (offset {})", self.at)))?;
        self.at += 4;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with(b"\\u") {
            self.at += 2;
            match self.hex() {
                Some(second @ 0xdc00..0xe000) => {
                    self.at += 4;
                    let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                    return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                _ => self.at -= 2,
            }
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn digits(&mut self) -> Result<(), DecodeError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.peek().map_or_else(Self::end, |byte| self.unexpected(byte, "in numeric literal")));
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Node, DecodeError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        number(text, whole).map(Node::Number).ok_or_else(|| DecodeError::new(format!("number {text} is out of range")))
    }
}

/// A JSON number. `whole`: it has neither fraction nor exponent.
pub(super) fn number(text: &str, whole: bool) -> Option<Number> {
    if whole {
        if let Ok(value) = text.parse::<i64>() {
            return Some(value.into());
        }
        if let Ok(value) = text.parse::<u64>() {
            return Some(value.into());
        }
    }
    Number::from_f64(text.parse().ok()?)
}

impl Node {
    /// The value, the last of repeated keys winning; repeats are reported by path.
    pub(super) fn into_value(self, place: &Place<'_>, duplicates: &mut Repeats) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => value.into(),
            Self::Number(value) => Value::Number(value),
            Self::String(value) => value.into(),
            Self::Array(items) => {
                let value = |(index, item): (usize, Self)| item.into_value(&Place::Index(place, index), duplicates);
                Value::Array(items.into_iter().enumerate().map(value).collect())
            }
            Self::Object(fields) => {
                let mut out = Map::new();
                for (key, node) in fields {
                    let here = Place::Key(place, &key);
                    if out.contains_key(&key) {
                        duplicates.add(|| here.path());
                    }
                    let value = node.into_value(&here, duplicates);
                    out.insert(key, value);
                }
                Value::Object(out)
            }
        }
    }

    /// Repeated and unknown fields in the order of the text.
    pub(super) fn findings(&self, schema: &Schema) -> Vec<String> {
        let mut walk = Walk { path: String::new(), seen: HashSet::new(), out: Vec::new() };
        walk.visit(self, &Type::Struct(schema.clone()));
        walk.out
    }
}

/// Where in a document something stands. It becomes text only where that is told.
pub(super) enum Place<'a> {
    Root,
    Key(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl Place<'_> {
    /// As findings show it: `a.b[0].c`, no longer than they show.
    fn path(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out.truncate(clipped(&out).len());
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Root => {}
            Self::Key(parent, key) => {
                parent.write(out);
                if out.len() <= MAX_PATH {
                    push_key(out, clipped(key));
                }
            }
            Self::Index(parent, index) => {
                parent.write(out);
                push_index(out, *index);
            }
        }
    }
}

fn push_key(path: &mut String, key: &str) -> usize {
    let keep = path.len();
    if keep > 0 {
        path.push('.');
    }
    path.push_str(key);
    keep
}

fn push_index(path: &mut String, index: usize) -> usize {
    let keep = path.len();
    path.push_str(&format!("[{index}]"));
    keep
}

struct Walk {
    path: String,
    seen: HashSet<String>,
    out: Vec<String>,
}

impl Walk {
    fn report(&mut self, what: &str) {
        if self.out.len() == MAX_FINDINGS {
            return;
        }
        let text = format!("{what} field {}", quote(clipped(&self.path)));
        if self.seen.insert(text.clone()) {
            self.out.push(text);
        }
    }

    fn visit(&mut self, node: &Node, ty: &Type) {
        match (node, ty) {
            (Node::Array(items), Type::List(item)) => {
                for (index, node) in items.iter().enumerate() {
                    let keep = push_index(&mut self.path, index);
                    self.visit(node, item);
                    self.path.truncate(keep);
                }
            }
            (Node::Object(fields), Type::Struct(_) | Type::Map(_) | Type::Any) => self.object(fields, ty),
            _ => {}
        }
    }

    fn object(&mut self, fields: &[(String, Node)], ty: &Type) {
        let mut keys = HashSet::new();
        for (key, node) in fields {
            let keep = push_key(&mut self.path, key);
            let field = match ty {
                Type::Struct(schema) => schema.field(key).map(|field| &field.ty),
                Type::Map(item) => Some(&**item),
                _ => Some(&Type::Any),
            };
            match field {
                None => self.report("unknown"),
                Some(field) => {
                    if !keys.insert(key.as_str()) {
                        self.report("duplicate");
                    }
                    self.visit(node, field);
                }
            }
            self.path.truncate(keep);
        }
    }
}
