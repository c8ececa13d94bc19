//! A message that goes out as bytes it was encoded to before.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType},
};

/// A `WatchResponse` as two runs of encoded fields: what one watcher alone gets (header, watch id)
/// and what all watchers of the same events share. Protobuf lets fields be joined by appending.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct EncodedWatchResponse {
    /// Encoded fields of this watcher.
    pub own: Bytes,
    /// Encoded fields shared with others.
    pub shared: Bytes,
}

impl Message for EncodedWatchResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.own);
        buf.put_slice(&self.shared);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        // Only ever sent; whoever receives one decodes a `WatchResponse`.
        prost::encoding::skip_field(wire_type, tag, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.own.len() + self.shared.len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}
