//! A tunnel and a TCP connection, joined.

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::session::tunnels::{TunnelReceiver, TunnelSender};

/// Room for one read.
const CHUNK: usize = 32 * 1024;

/// Copies both ways until `stream` has said everything or the tunnel is over. An end of the master's direction is passed
/// on, and the other goes on.
pub(crate) async fn copy(stream: TcpStream, tx: &TunnelSender, mut rx: TunnelReceiver) {
    let (mut read, mut write) = stream.into_split();
    let upstream = async {
        while let Some(data) = rx.next().await {
            if write.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let downstream = async {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        loop {
            buffer.reserve(CHUNK);
            match read.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    if !tx.send(buffer.split().freeze()).await {
                        return;
                    }
                }
            }
        }
    };
    tokio::pin!(upstream, downstream);
    let mut writing = true;
    loop {
        tokio::select! {
            // Whoever closes reads no more of what is still sent.
            () = &mut downstream => return,
            () = &mut upstream, if writing => writing = false,
        }
    }
}
