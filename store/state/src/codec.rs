//! The compact binary encoding of everything the store keeps on disk or sends to peers.
//!
//! Numbers are LEB128 varints, byte strings carry their length, sums begin with a tag byte.
//! Decoding takes slices of the input (`Bytes`), never panics, and refuses what it does not know.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{EntryId, Term};

/// The bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

/// Appends values to a buffer.
#[derive(Default)]
pub struct Writer(BytesMut);

impl Writer {
    pub fn with_capacity(capacity: usize) -> Self {
        Self(BytesMut::with_capacity(capacity))
    }

    pub fn u8(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    pub fn bool(&mut self, value: bool) {
        self.0.put_u8(u8::from(value));
    }

    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.put_u8((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.put_u8(value as u8);
    }

    /// A number that may be negative; small ones of either sign stay small (zigzag).
    pub fn signed(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.0.put_slice(value);
    }

    /// The rest of the message; read back by [`Reader::rest`].
    pub fn raw(&mut self, value: &[u8]) {
        self.0.put_slice(value);
    }

    pub fn option(&mut self, value: Option<u64>) {
        // Zero is "none"; all else is shifted by one, which u64::MAX would not survive.
        self.varint(value.map_or(0, |value| value.saturating_add(1)));
    }

    pub fn entry_id(&mut self, value: Option<EntryId>) {
        self.bool(value.is_some());
        if let Some(id) = value {
            self.varint(id.term.0);
            self.varint(id.index);
        }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Takes values from the front of a buffer.
pub struct Reader(Bytes);

impl Reader {
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        if self.0.is_empty() {
            return Err(Malformed("too short"));
        }
        Ok(self.0.get_u8())
    }

    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("not a boolean")),
        }
    }

    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("number too long"))
    }

    pub fn signed(&mut self) -> Result<i64, Malformed> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let len = self.varint()?;
        match usize::try_from(len) {
            Ok(len) if len <= self.0.len() => Ok(self.0.split_to(len)),
            _ => Err(Malformed("length beyond the end")),
        }
    }

    /// A count of things that take at least one byte each, so it cannot make us allocate more
    /// than the message holds.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::try_from(self.varint()?).map_err(|_| Malformed("count"))?;
        if count > self.0.len() {
            return Err(Malformed("count beyond the end"));
        }
        Ok(count)
    }

    pub fn option(&mut self) -> Result<Option<u64>, Malformed> {
        Ok(self.varint()?.checked_sub(1))
    }

    pub fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed("not UTF-8"))
    }

    pub fn entry_id(&mut self) -> Result<Option<EntryId>, Malformed> {
        Ok(if self.bool()? { Some(EntryId { term: Term(self.varint()?), index: self.varint()? }) } else { None })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn rest(self) -> Bytes {
        self.0
    }

    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("trailing bytes")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_read_back(n in any::<u64>(), s in any::<i64>(), o in proptest::option::of(0..u64::MAX), b in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Writer::default();
            out.varint(n);
            out.signed(s);
            out.option(o);
            out.bytes(&b);
            let mut input = Reader::new(out.finish());
            prop_assert_eq!(input.varint(), Ok(n));
            prop_assert_eq!(input.signed(), Ok(s));
            prop_assert_eq!(input.option(), Ok(o));
            prop_assert_eq!(input.bytes(), Ok(Bytes::from(b)));
            prop_assert_eq!(input.end(), Ok(()));
        }
    }
}
