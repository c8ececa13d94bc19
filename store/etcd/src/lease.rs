//! Lease: keys that live as long as somebody keeps their lease alive.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use kontiki_proto::etcd::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, lease_server::Lease,
};
use kontiki_store::{Refusal, WriteError};
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{Api, error};

/// Seconds. A lease shorter than that could end before its holder hears that it has it.
const MIN_TTL: i64 = 2;
const MAX_TTL: i64 = 9_000_000_000;

/// Renewals that the leader is asked for at once, and questions to it of one stream at a time.
const RENEWALS: usize = 512;
const UNDER_WAY: usize = 4;

type Renewal = Result<LeaseKeepAliveRequest, Status>;
type Renewed = Result<LeaseKeepAliveResponse, Status>;
type KeepAlives = Pin<Box<dyn Stream<Item = Renewed> + Send>>;

#[async_trait]
impl Lease for Api {
    async fn lease_grant(&self, request: Request<LeaseGrantRequest>) -> Result<Response<LeaseGrantResponse>, Status> {
        let request = request.into_inner();
        if request.ttl > MAX_TTL {
            return Err(error::lease_ttl_too_large());
        }
        let ttl = request.ttl.max(MIN_TTL);
        loop {
            let id = if request.id == 0 { random_id() } else { request.id };
            match self.store.grant(id, ttl).await {
                Ok(revision) => {
                    let header = Some(self.header(revision));
                    return Ok(Response::new(LeaseGrantResponse { header, id, ttl, error: String::new() }));
                }
                Err(WriteError::Refused(Refusal::LeaseExists)) if request.id == 0 => {}
                Err(other) => return Err(error::write(other)),
            }
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let revision = self.store.revoke(request.into_inner().id).await.map_err(error::write)?;
        Ok(Response::new(LeaseRevokeResponse { header: Some(self.header(revision)) }))
    }

    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        let api = self.clone();
        // What has come while others are under way travels together; answers are in the order of requests.
        let batches = request.into_inner().ready_chunks(RENEWALS);
        let answers = batches.map(move |batch| renew(api.clone(), batch)).buffered(UNDER_WAY).flat_map(stream::iter);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let left = self.store.leases_left(Some(id)).await.map_err(error::read)?;
        self.store.barrier().await.map_err(error::read)?;
        let snapshot = self.store.snapshot();
        let mut response = LeaseTimeToLiveResponse {
            header: Some(self.header(snapshot.revision())),
            id,
            ttl: -1,
            ..Default::default()
        };
        if let (Some((_, left)), Some(lease)) = (left.first(), snapshot.leases().get(&id)) {
            response.ttl = (left / 1000).cast_signed();
            response.granted_ttl = lease.ttl;
            if keys {
                response.keys = lease.keys.iter().cloned().collect();
            }
        }
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let mut left = self.store.leases_left(None).await.map_err(error::read)?;
        left.sort_by_key(|(_, left)| *left);
        let leases = left.into_iter().map(|(id, _)| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: Some(self.header_now()), leases }))
    }
}

/// Answers renewals, up to the first that cannot be read.
async fn renew(api: Api, batch: Vec<Renewal>) -> Vec<Renewed> {
    // Never later than the renewal: whoever sees a lease renewed at a revision had it then.
    let header = Some(api.header_now());
    let ids: Vec<i64> = batch.iter().map_while(|request| request.as_ref().ok()).map(|request| request.id).collect();
    let answer = |(id, ttl): (i64, Option<u64>)| {
        Ok(LeaseKeepAliveResponse { header, id, ttl: ttl.unwrap_or_default().cast_signed() })
    };
    let mut answers = match api.store.keep_alive_all(&ids).await {
        Ok(ttls) => ids.into_iter().zip(ttls).map(answer).collect(),
        Err(error) => vec![Err(error::read(error))],
    };
    answers.extend(batch.into_iter().find_map(Result::err).map(Err));
    answers
}

/// Positive, as etcd's own are.
fn random_id() -> i64 {
    let id = uuid::Uuid::new_v4().as_u64_pair().1 >> 1;
    id.max(1).cast_signed()
}
