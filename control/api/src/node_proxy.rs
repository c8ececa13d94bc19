//! The way from the API to a node, without knowing how it is kept open.

use bytes::Bytes;
use futures::future::BoxFuture;
use kontiki_proto::node::Open;
use tokio::sync::mpsc;

/// Opens byte streams to agents (through this master's sessions or a relay to another's).
pub trait NodeProxy: Send + Sync + 'static {
    /// Opens one stream to the node named in `open`.
    fn open(&self, open: Open) -> BoxFuture<'_, Result<NodeStream, NodeProxyError>>;
}

/// One open byte stream to something on a node.
#[derive(Debug)]
pub struct NodeStream {
    /// Bytes to the node. Dropping it half-closes the stream.
    pub tx: mpsc::Sender<Bytes>,
    /// Bytes from the node; an error ends the stream.
    pub rx: mpsc::Receiver<Result<Bytes, NodeProxyError>>,
}

/// Why a stream to a node failed, with the HTTP status that fits.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct NodeProxyError {
    /// HTTP status code; 0 where none fits better than 500.
    pub code: u16,
    /// For a person.
    pub message: String,
}
