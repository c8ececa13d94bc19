//! `log`: the text of a container, streamed from its node.

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::Response;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use kontiki_machinery::FieldError;
use kontiki_machinery::subresource::OnNode;
use kontiki_proto::node::{Logs, Open, open::What};
use serde_json::Value;

use crate::Status;
use crate::call::{Answer, Call};
use crate::node_proxy::{NodeProxyError, NodeStream};
use crate::object::meta_str;
use crate::params::Params;
use crate::state::served;
use crate::sub::channels::{self, Plain};
use crate::verbs::list::Version;
use crate::websocket;

/// How long the status line waits for the first bytes of a log.
const FIRST_PIECE: std::time::Duration = std::time::Duration::from_secs(1);

impl Call {
    /// The object that this call names, read linearizably.
    pub async fn latest(&self) -> Result<Value, Status> {
        let state = self.api.snapshot_for(Version::Latest).await?;
        let entry = state.get(&self.key()).ok_or_else(|| self.not_found())?;
        served(&self.def, &entry)
    }

    /// The log of one container.
    pub async fn log(&mut self, on: &dyn OnNode, request: &mut Parts) -> Result<Answer, Status> {
        let mut logs = options(&self.params, self.name())?;
        let pod = self.latest().await?;
        logs.container = on.container(&pod, &logs.container)?;
        logs.namespace = self.namespace().unwrap_or_default().to_owned();
        logs.pod = self.name().to_owned();
        logs.uid = meta_str(&pod, "uid").to_owned();
        let node = on.node(&pod);
        if node.is_empty() {
            let empty = Response::builder().status(204).body(Body::empty());
            return Ok(Answer::Raw(empty.map_err(Status::internal)?));
        }
        let open = Open { node: node.to_owned(), what: Some(What::Logs(logs)) };
        let mut opened = self.api.inner.config.node_proxy.open(open).await.map_err(node_error)?;
        // An early error still gets a proper status; a silent container gets its headers anyway.
        let first = match tokio::time::timeout(FIRST_PIECE, opened.rx.recv()).await {
            Ok(Some(Err(error))) => return Err(node_error(error)),
            Ok(Some(Ok(bytes))) => bytes,
            Ok(None) | Err(_) => Bytes::new(),
        };
        if websocket::asked(request) {
            let accepted = websocket::accept(request, channels::TEXT, |protocol| protocol.name)?;
            let protocol = accepted.protocol;
            let (up, down) = (Plain { protocol, up: false }, Plain { protocol, up: false });
            self.upgraded(accepted.client, |client| websocket::join(client, opened, first, up, down));
            return Ok(Answer::Raw(accepted.response));
        }
        let body = Body::from_stream(stream::unfold((Some(first), opened), next_piece));
        let response = Response::builder().header(CONTENT_TYPE, "text/plain").body(body);
        Ok(Answer::Raw(response.map_err(Status::internal)?))
    }
}

type Piece = Result<Bytes, NodeProxyError>;

async fn next_piece((first, mut stream): (Option<Bytes>, NodeStream)) -> Option<(Piece, (Option<Bytes>, NodeStream))> {
    if let Some(first) = first {
        return Some((Ok(first), (None, stream)));
    }
    let piece = stream.rx.recv().await?;
    Some((piece, (None, stream)))
}

/// A node's refusal, with the status that it names.
pub(crate) fn node_error(error: NodeProxyError) -> Status {
    match error.code {
        400 => Status::bad_request(error.message),
        404 => Status::failure(404, "NotFound", error.message),
        503 => Status::service_unavailable(error.message),
        504 => Status::timeout(error.message, 1),
        _ => Status::internal(error.message),
    }
}

/// PodLogOptions, checked.
fn options(params: &Params, pod: &str) -> Result<Logs, Status> {
    let mut errors = Vec::new();
    let (tail, limit) = (params.int("tailLines")?, params.int("limitBytes")?);
    let (since_seconds, since_time) = (params.int("sinceSeconds")?, params.get("sinceTime").unwrap_or_default());
    if let Some(lines) = tail.filter(|n| *n < 0) {
        errors.push(FieldError::invalid("tailLines", lines, "must be greater than or equal to 0"));
    }
    if let Some(bytes) = limit.filter(|n| *n < 1) {
        errors.push(FieldError::invalid("limitBytes", bytes, "must be greater than 0"));
    }
    if since_seconds.is_some() && !since_time.is_empty() {
        errors.push(FieldError::forbidden("[]", "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    } else if let Some(seconds) = since_seconds.filter(|n| *n < 1) {
        errors.push(FieldError::invalid("sinceSeconds", seconds, "must be greater than 0"));
    }
    let stream = params.get("stream").unwrap_or_default();
    if !matches!(stream, "" | "All" | "Stdout" | "Stderr") {
        errors.push(FieldError::not_supported("stream", stream, &["All", "Stderr", "Stdout"]));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", pod, &errors));
    }
    if !since_time.is_empty() && since_time.parse::<jiff::Timestamp>().is_err() {
        return Err(Status::bad_request(format!("parsing time \"{since_time}\": it is not RFC 3339")));
    }
    let flag = |name: &str| params.flag(name).unwrap_or(false);
    Ok(Logs {
        container: params.get("container").unwrap_or_default().to_owned(),
        follow: flag("follow"),
        previous: flag("previous"),
        timestamps: flag("timestamps"),
        since_seconds,
        since_time: since_time.to_owned(),
        tail_lines: tail,
        limit_bytes: limit,
        stream: stream.to_owned(),
        ..Logs::default()
    })
}
