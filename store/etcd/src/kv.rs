//! KV: keys.

use kontiki_proto::etcd::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse, kv_server::Kv,
};
use kontiki_store::{Op, ResponseKind, Revision, Txn, TxnResult};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    Api,
    convert::{self, key_value, range_response},
    error, range_stream, txn,
};

/// The largest request. etcd's default.
const MAX_REQUEST: usize = 1536 << 10;

impl Api {
    async fn write(&self, op: Op) -> Result<TxnResult, Status> {
        self.store.txn(Txn::write(vec![op])).await.map_err(error::write)
    }
}

fn fits(request: &impl prost::Message) -> Result<(), Status> {
    if request.encoded_len() > MAX_REQUEST { Err(error::too_large()) } else { Ok(()) }
}

#[async_trait]
impl Kv for Api {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        let linearizable = !request.serializable;
        let mut query = convert::query(request)?;
        // Outside of transactions a negative revision is the present.
        query.revision = query.revision.max(0);
        let (found, revision) = self.store.query(query, linearizable).await.map_err(error::query)?;
        let mut response = range_response(found);
        response.header = Some(self.header(revision));
        Ok(Response::new(response))
    }

    type RangeStreamStream = range_stream::Chunks;

    async fn range_stream(&self, request: Request<RangeRequest>) -> Result<Response<range_stream::Chunks>, Status> {
        range_stream::serve(self, request.into_inner()).await.map(Response::new)
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = request.into_inner();
        fits(&request)?;
        let mut result = self.write(convert::put(request)?).await?;
        let prev_kv = match result.responses.pop().map(|response| response.kind) {
            Some(ResponseKind::Put(prev)) => prev.map(|entry| key_value(&entry)),
            _ => None,
        };
        Ok(Response::new(PutResponse { header: Some(self.header(result.revision)), prev_kv }))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let mut result = self.write(convert::delete(request.into_inner())?).await?;
        let (deleted, prev) = match result.responses.pop().map(|response| response.kind) {
            Some(ResponseKind::Delete(deleted, prev)) => (deleted, prev),
            _ => (0, Vec::new()),
        };
        Ok(Response::new(DeleteRangeResponse {
            header: Some(self.header(result.revision)),
            deleted: deleted.cast_signed(),
            prev_kvs: prev.iter().map(|entry| key_value(entry)).collect(),
        }))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let request = request.into_inner();
        let serializable = txn::is_serializable(&request);
        let too_large = fits(&request);
        let txn = txn::txn(request)?;
        let result = if txn::only_reads(&txn) {
            self.store.read_txn(&txn, !serializable).await
        } else {
            too_large?;
            self.store.txn(txn).await
        };
        let result = result.map_err(error::write)?;
        let header = self.header(result.revision);
        let mut response = txn::response(result);
        response.header = Some(header);
        Ok(Response::new(response))
    }

    async fn compact(&self, request: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        let wanted = request.into_inner().revision;
        // Below everything: compacted before anything was.
        let upto = u64::try_from(wanted).map_err(|_| error::compacted())?;
        let revision = self.store.compact(Revision(upto)).await.map_err(error::write)?;
        Ok(Response::new(CompactionResponse { header: Some(self.header(revision)) }))
    }
}
