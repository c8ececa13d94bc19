//! Subresources that are more than another way to write the object: binding, eviction, scale,
//! token, and the streams to a node. One table says which handler serves which.

pub(crate) mod binding;
pub(crate) mod eviction;
pub(crate) mod log;
pub(crate) mod scale;
pub(crate) mod stream;
pub(crate) mod token;

use futures::future::BoxFuture;

use crate::Status;
use crate::call::{Answer, Call, Input};

type Create = for<'a> fn(&'a mut Call, Input) -> BoxFuture<'a, Result<Answer, Status>>;

/// Subresources that are created, not updated.
const CREATES: &[(&str, &str, Create)] = &[
    ("pods", "binding", |call, input| Box::pin(binding::create(call, input))),
    ("pods", "eviction", |call, input| Box::pin(eviction::create(call, input))),
    ("serviceaccounts", "token", |call, input| Box::pin(token::create(call, input))),
];

/// The handler of a POST to this call's subresource.
pub(crate) fn creator(call: &Call) -> Option<Create> {
    let sub = call.sub_name()?;
    CREATES.iter().find(|(plural, name, _)| *plural == call.def.plural && *name == sub).map(|(_, _, create)| *create)
}

/// `201` with no more than a Success, as binding and eviction answer.
pub(crate) fn created() -> Answer {
    let status = Status { code: 201, ..Status::success(None) };
    Answer::Status { code: 201, status }
}

/// `proxy`: only what the node's session can carry, which is its statistics summary.
pub(crate) async fn proxy(call: &mut Call, rest: &str) -> Result<Answer, Status> {
    use kontiki_proto::node::{Open, Stats, open::What};
    if call.def.plural != "nodes" || rest != "stats/summary" {
        return Err(Status::failure(
            501,
            "NotImplemented",
            "this cluster does not proxy to pods, services or other node paths",
        ));
    }
    call.read_object().await?; // 404 for a node that is not there
    let open = Open { node: call.name().to_owned(), what: Some(What::Stats(Stats {})) };
    let mut tunnel = call.api.inner.config.node_proxy.open(open).await.map_err(log::node_error)?;
    let mut text = Vec::new();
    while let Some(piece) = tunnel.rx.recv().await {
        text.extend_from_slice(&piece.map_err(log::node_error)?);
    }
    Ok(Answer::Raw(crate::encode::json_bytes(crate::negotiate::JSON, text.into())))
}
