//! Walking JSON text where it lies, without making values of it.
//!
//! Invariants
//! - Never panics, whatever the bytes are; what is not JSON where it matters is an [`EncodeError`].
//! - Passing over a value takes no stack.

use super::EncodeError;

/// A place in a text.
pub(super) struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A string as it stands in the text, without its quotes.
pub(super) struct Raw<'a> {
    pub bytes: &'a [u8],
    /// Whether there are escapes in it.
    pub escaped: bool,
}

impl<'a> Text<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next byte that is not white space.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    /// Passes over `wanted` if it is next.
    pub fn eat(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    pub fn expect(&mut self, wanted: u8) -> Result<(), EncodeError> {
        if self.eat(wanted) { Ok(()) } else { Err(EncodeError::NotJson(self.at)) }
    }

    /// After an item: whether another one follows. `close` ends the list or object.
    pub fn another(&mut self, close: u8) -> Result<bool, EncodeError> {
        if self.eat(b',') {
            return Ok(true);
        }
        self.expect(close).map(|()| false)
    }

    /// A key and its colon.
    pub fn key(&mut self) -> Result<Raw<'a>, EncodeError> {
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    pub fn string(&mut self) -> Result<Raw<'a>, EncodeError> {
        self.expect(b'"')?;
        let (start, mut escaped) = (self.at, false);
        loop {
            match self.bytes.get(self.at) {
                None => return Err(EncodeError::NotJson(self.at)),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(_) => self.at += 1,
            }
        }
        let bytes = &self.bytes[start..self.at];
        self.at += 1;
        Ok(Raw { bytes, escaped })
    }

    /// A number, `true`, `false` or `null`.
    pub fn word(&mut self) -> &'a [u8] {
        self.peek();
        let start = self.at;
        while self
            .bytes
            .get(self.at)
            .is_some_and(|byte| !matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'))
        {
            self.at += 1;
        }
        &self.bytes[start..self.at]
    }

    /// Passes over `null` if it is next.
    pub fn null(&mut self) -> bool {
        let found = self.peek() == Some(b'n');
        if found {
            self.word();
        }
        found
    }

    /// Passes over a value and gives its text.
    pub fn value(&mut self) -> Result<&'a [u8], EncodeError> {
        self.peek();
        let (start, mut depth) = (self.at, 0usize);
        loop {
            match self.peek().ok_or(EncodeError::NotJson(self.at))? {
                b'"' => {
                    self.string()?;
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1).ok_or(EncodeError::NotJson(self.at))?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                b',' | b':' => return Err(EncodeError::NotJson(self.at)),
                _ => drop(self.word()),
            }
            if depth == 0 {
                return Ok(&self.bytes[start..self.at]);
            }
        }
    }
}

impl Raw<'_> {
    /// Appends what the string means.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if !self.escaped {
            out.extend_from_slice(self.bytes);
            return Ok(());
        }
        let mut rest = self.bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
            out.extend_from_slice(&rest[..at]);
            let (c, used) = escape(&rest[at + 1..]).ok_or(EncodeError::Escape)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[at + 1 + used..];
        }
        out.extend_from_slice(rest);
        Ok(())
    }

    /// What the string means.
    pub fn text(&self) -> Result<String, EncodeError> {
        let mut out = Vec::with_capacity(self.bytes.len());
        self.write(&mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

/// What stands behind a backslash, and how many bytes that takes. Half a surrogate pair is U+FFFD.
fn escape(rest: &[u8]) -> Option<(char, usize)> {
    let c = match rest.first()? {
        b'u' => {
            let first = hex(rest.get(1..5)?)?;
            let low = || rest.get(5..7).filter(|next| *next == b"\\u").and_then(|_| hex(rest.get(7..11)?));
            if (0xd800..0xdc00).contains(&first)
                && let Some(second @ 0xdc00..0xe000) = low()
            {
                let c = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))?;
                return Some((c, 11));
            }
            return Some((char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 5));
        }
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        byte @ (b'"' | b'\\' | b'/') => char::from(*byte),
        _ => return None,
    };
    Some((c, 1))
}

fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, digit| Some(value * 16 + char::from(*digit).to_digit(16)?))
}
