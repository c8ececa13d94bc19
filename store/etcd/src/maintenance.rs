//! Maintenance: status, hashes, snapshots.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use kontiki_proto::etcd::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    HashKvRequest, HashKvResponse, HashRequest, HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest,
    SnapshotResponse, StatusRequest, StatusResponse, maintenance_server::Maintenance,
};
use kontiki_store::{Revision, Role};
use tonic::{Request, Response, Status, async_trait};

use crate::{Api, CLUSTER_VERSION, VERSION, error};

type Snapshots = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

#[async_trait]
impl Maintenance for Api {
    /// Alarms follow the disk: none can be raised or put off by hand.
    async fn alarm(&self, _request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let full = self.store.disk_is_full();
        let alarms = full.then(|| AlarmMember { member_id: self.status().id, alarm: AlarmType::Nospace.into() });
        Ok(Response::new(AlarmResponse { header: Some(self.header_now()), alarms: alarms.into_iter().collect() }))
    }

    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let status = Api::status(self);
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push("etcdserver: no leader".to_owned());
        }
        if self.store.disk_is_full() {
            errors.push(format!("memberID:{} alarm:NOSPACE ", status.id));
        }
        let size = self.store.disk_usage().await.map_err(|error| Status::internal(error.to_string()))?;
        let learner = status.members.iter().any(|member| member.id == status.id && member.role == Role::Learner);
        Ok(Response::new(StatusResponse {
            header: Some(self.header_now()),
            version: VERSION.to_owned(),
            db_size: size.cast_signed(),
            leader: status.leader.unwrap_or_default(),
            raft_index: status.last_log,
            raft_term: status.term.0,
            raft_applied_index: self.store.snapshot().applied(),
            errors,
            db_size_in_use: size.cast_signed(),
            is_learner: learner,
            storage_version: CLUSTER_VERSION.to_owned(),
            db_size_quota: 0,
            downgrade_info: Some(DowngradeInfo::default()),
        }))
    }

    /// Nothing to do: the database has no holes to close.
    async fn defragment(&self, _request: Request<DefragmentRequest>) -> Result<Response<DefragmentResponse>, Status> {
        Ok(Response::new(DefragmentResponse { header: Some(self.header_now()) }))
    }

    async fn hash(&self, _request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let (hash, revision) = self.store.hash(Revision(0)).await.map_err(error::history)?;
        Ok(Response::new(HashResponse { header: Some(self.header(revision)), hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        let wanted = request.into_inner().revision.max(0).unsigned_abs();
        let (hash, revision) = self.store.hash(Revision(wanted)).await.map_err(error::history)?;
        Ok(Response::new(HashKvResponse {
            header: Some(self.header_now()),
            hash,
            compact_revision: self.store.compacted().0.cast_signed(),
            hash_revision: revision.0.cast_signed(),
        }))
    }

    type SnapshotStream = Snapshots;

    async fn snapshot(&self, _request: Request<SnapshotRequest>) -> Result<Response<Snapshots>, Status> {
        let api = self.clone();
        let backup = self.store.backup().await.map_err(|error| Status::internal(error.to_string()))?;
        let pieces = backup.map(move |piece| match piece {
            Ok(blob) => Ok(SnapshotResponse {
                header: Some(api.header_now()),
                remaining_bytes: 0,
                blob,
                version: CLUSTER_VERSION.to_owned(),
            }),
            Err(error) => Err(Status::internal(error.to_string())),
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn move_leader(&self, request: Request<MoveLeaderRequest>) -> Result<Response<MoveLeaderResponse>, Status> {
        let target = request.into_inner().target_id;
        let status = Api::status(self);
        if status.leader != Some(status.id) {
            return Err(Status::failed_precondition("etcdserver: not leader"));
        }
        let able = status.members.iter().any(|member| member.id == target && member.role != Role::Learner);
        if !able {
            return Err(Status::failed_precondition("etcdserver: bad leader transferee"));
        }
        self.store.transfer_leadership(Some(target)).await.map_err(|error| error::moving(&error))?;
        Ok(Response::new(MoveLeaderResponse { header: Some(self.header_now()) }))
    }
}
