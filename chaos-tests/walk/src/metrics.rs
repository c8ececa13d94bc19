//! What pods of these nodes serve: each is a Prometheus server whose answer is in the question. `ok` is 0, anything else 1.

use bytes::Bytes;
use futures::future::BoxFuture;
use kontiki_api::{NodeProxy, NodeProxyError, NodeStream};
use kontiki_proto::node::{Open, open::What};
use tokio::sync::mpsc;

/// Pieces on their way.
const PIECES: usize = 8;

pub struct Nodes;

impl NodeProxy for Nodes {
    fn open(&self, open: Open) -> BoxFuture<'_, Result<NodeStream, NodeProxyError>> {
        Box::pin(async move {
            let Some(What::Dial(_)) = open.what else {
                return Err(NodeProxyError { code: 503, message: "these nodes only pretend".into() });
            };
            let ((tx, asked), (answer, rx)) = (mpsc::channel(PIECES), mpsc::channel(PIECES));
            tokio::spawn(serve(asked, answer));
            Ok(NodeStream { tx, rx })
        })
    }
}

/// One connection, one answer.
async fn serve(mut asked: mpsc::Receiver<Bytes>, answer: mpsc::Sender<Result<Bytes, NodeProxyError>>) {
    // It stands.
    if answer.send(Ok(Bytes::from_static(&[1]))).await.is_err() {
        return;
    }
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match asked.recv().await {
            Some(piece) => head.extend_from_slice(&piece),
            None => return,
        }
    }
    let value = i32::from(!String::from_utf8_lossy(&head).contains("/api/v1/query?query=ok "));
    let body = format!(
        "{{\"status\":\"success\",\"data\":{{\"resultType\":\"vector\",\"result\":[{{\"metric\":{{}},\"value\":[1,\"{value}\"]}}]}}}}"
    );
    let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let _ = answer.send(Ok(text.into())).await;
}
