//! Connections to where a master may have no way of its own: through the session of a node, as if the node dialled.
//!
//! Invariants
//! - A [`Connection`] stands: whoever is at the other end has accepted it.
//! - What belongs to a node is dialled by that node alone. An address of the pod network means nothing outside it, and
//!   may be somebody else's there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, TryStreamExt as _, stream};
use kontiki_proto::node::{self, Open, open::What};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};
use tokio_util::sync::PollSender;

use crate::node_proxy::{NodeProxy, NodeProxyError, NodeStream};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// An open connection.
pub type Connection = Pin<Box<dyn Io>>;

/// What bytes are read from and written to.
pub trait Io: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// Where a connection goes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Destination {
    /// The node that dials; `None`: this machine does.
    pub node: Option<String>,
    /// The address.
    pub address: IpAddr,
    /// The TCP port.
    pub port: u16,
}

/// Opens a connection to `to`.
///
/// # Errors
/// Nobody accepts it, or there is no way to the node: [`NodeProxyError::code`] is 502, 503 or 504, or 403 where the node
/// does not dial such addresses.
///
/// # Cancel safety
/// Dropped, it leaves nothing open.
pub async fn dial(nodes: &dyn NodeProxy, to: &Destination) -> Result<Connection, NodeProxyError> {
    let opened = async {
        match &to.node {
            None => direct(SocketAddr::new(to.address, to.port)).await,
            Some(node) => through(nodes, node, to).await,
        }
    };
    let address = SocketAddr::new(to.address, to.port);
    let late = |_| NodeProxyError { code: 504, message: format!("dial tcp {address}: i/o timeout") };
    timeout(CONNECT, opened).await.map_err(late)?
}

/// Opens a connection from this machine.
///
/// # Errors
/// As [`dial`].
pub(crate) async fn dial_directly(address: IpAddr, port: u16) -> Result<Connection, NodeProxyError> {
    let address = SocketAddr::new(address, port);
    let late = |_| NodeProxyError { code: 504, message: format!("dial tcp {address}: i/o timeout") };
    timeout(CONNECT, direct(address)).await.map_err(late)?
}

async fn direct(address: SocketAddr) -> Result<Connection, NodeProxyError> {
    let refused = |error: io::Error| NodeProxyError {
        code: 502,
        message: format!("dial tcp {address}: connect: {}", reason(&error)),
    };
    let stream = TcpStream::connect(address).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    Ok(Box::pin(stream))
}

/// The system's own words, without the number that Rust adds.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

async fn through(nodes: &dyn NodeProxy, node: &str, to: &Destination) -> Result<Connection, NodeProxyError> {
    let what = node::Dial { address: to.address.to_string(), port: u32::from(to.port) };
    let open = Open { node: node.to_owned(), what: Some(What::Dial(what)) };
    let mut stream = nodes.open(open).await?;
    let lost = || NodeProxyError { code: 502, message: format!("node {node} closed the stream") };
    let mut first = loop {
        let piece = stream.rx.recv().await.ok_or_else(lost)??;
        if !piece.is_empty() {
            break piece;
        }
    };
    if first.split_to(1)[..] != [1] {
        return Err(NodeProxyError { code: 502, message: format!("node {node} did not say that it is connected") });
    }
    Ok(joined(first, stream))
}

/// A tunnel as a connection; `first` came before everything else. Shutting it down ends the direction to the node.
fn joined(first: Bytes, stream: NodeStream) -> Connection {
    let NodeStream { tx, rx } = stream;
    let broken = |error: NodeProxyError| io::Error::new(io::ErrorKind::ConnectionReset, error);
    let pieces = stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) }).map_err(broken);
    let read = StreamReader::new(Box::pin(futures::StreamExt::chain(stream::iter([Ok(first)]), pieces)));
    let sink = PollSender::new(tx).sink_map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
    Box::pin(tokio::io::join(read, SinkWriter::new(CopyToBytes::new(sink))))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt as _;
    use futures::future::BoxFuture;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;

    use super::*;

    type Pieces = Vec<Result<Bytes, NodeProxyError>>;

    /// A node that says these pieces, and keeps what it is sent.
    struct Node {
        says: Mutex<Option<Pieces>>,
        heard: Mutex<Option<mpsc::Receiver<Bytes>>>,
    }

    impl Node {
        fn new(says: Pieces) -> Self {
            Self { says: Mutex::new(Some(says)), heard: Mutex::default() }
        }
    }

    impl NodeProxy for Node {
        fn open(&self, open: Open) -> BoxFuture<'_, Result<NodeStream, NodeProxyError>> {
            async move {
                let what = Some(What::Dial(node::Dial { address: "10.2.0.7".into(), port: 8443 }));
                assert_eq!(open, Open { node: "a1".into(), what });
                let (tx, heard) = mpsc::channel(8);
                let (says, rx) = mpsc::channel(8);
                *self.heard.lock().expect("lock") = Some(heard);
                let pieces = self.says.lock().expect("lock").take().expect("opened once");
                for piece in pieces {
                    says.send(piece).await.expect("room");
                }
                Ok(NodeStream { tx, rx })
            }
            .boxed()
        }
    }

    fn pod() -> Destination {
        Destination { node: Some("a1".into()), address: "10.2.0.7".parse().expect("address"), port: 8443 }
    }

    #[tokio::test]
    async fn a_node_dials_and_both_ends_hear_each_other() {
        let node = Node::new(vec![Ok(Bytes::from_static(b"\x01he")), Ok(Bytes::from_static(b"llo"))]);
        let mut connection = dial(&node, &pod()).await.expect("connected");
        let mut said = String::new();
        connection.read_to_string(&mut said).await.expect("text");
        assert_eq!(said, "hello");
        connection.write_all(b"good bye").await.expect("sent");
        connection.shutdown().await.expect("shut down");
        let mut heard = node.heard.lock().expect("lock").take().expect("opened");
        assert_eq!(heard.recv().await.expect("bytes"), "good bye");
        assert_eq!(heard.recv().await, None, "half closed");
    }

    #[tokio::test]
    async fn a_connection_that_does_not_stand_is_an_error() {
        let refused = || NodeProxyError { code: 502, message: "refused".into() };
        for (what, says, expect) in [
            ("an old agent's error", vec![Err(refused())], "refused"),
            ("nothing", vec![], "node a1 closed the stream"),
            ("another protocol", vec![Ok(Bytes::from_static(b"SSH"))], "node a1 did not say that it is connected"),
        ] {
            let error = dial(&Node::new(says), &pod()).await.err().expect(what);
            assert_eq!((error.code, error.message.as_str()), (502, expect), "{what}");
        }
    }

    #[tokio::test]
    async fn what_has_no_node_is_dialled_from_here() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let to = Destination { node: None, address: address.ip(), port: address.port() };
        let node = Node::new(Vec::new());
        let (connection, accepted) = tokio::join!(dial(&node, &to), listener.accept());
        connection.expect("connected").write_all(b"x").await.expect("sent");
        assert_eq!(accepted.expect("accepted").0.read_u8().await.expect("a byte"), b'x');
        drop(listener);
        let error = dial(&node, &to).await.err().expect("nobody listens");
        assert_eq!(error.message, format!("dial tcp {address}: connect: connection refused"));
    }
}
