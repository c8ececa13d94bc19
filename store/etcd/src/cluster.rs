//! Cluster: members.

use kontiki_proto::etcd::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
    cluster_server::Cluster,
};
use kontiki_store::Role;
use tonic::{Request, Response, Status, async_trait};

use crate::{Api, error, standalone::peer_address};

impl Api {
    fn members(&self) -> Vec<Member> {
        let members = self.status().members.into_iter();
        members
            .map(|member| Member {
                id: member.id,
                name: member.name,
                peer_ur_ls: vec![format!("https://{}", member.address)],
                client_ur_ls: member.client_urls,
                is_learner: member.role == Role::Learner,
            })
            .collect()
    }

    /// The members once a change is seen here.
    async fn members_when(&self, seen: impl Fn(&[Member]) -> bool) -> Vec<Member> {
        let mut status = self.store.status();
        let shows = async { while !seen(&self.members()) && status.changed().await.is_ok() {} };
        // What is shown later is still what was done.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), shows).await;
        self.members()
    }
}

fn address(urls: &[String]) -> Result<String, Status> {
    let [url] = urls else {
        return Err(Status::invalid_argument("etcdserver: given member URLs are invalid: exactly one is needed"));
    };
    peer_address(url)
        .map_err(|why| Status::invalid_argument(format!("etcdserver: given member URLs are invalid: {why}")))
}

#[async_trait]
impl Cluster for Api {
    async fn member_add(&self, request: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        let request = request.into_inner();
        let address = address(&request.peer_ur_ls)?;
        if self.status().members.iter().any(|member| member.address == address) {
            return Err(Status::failed_precondition("etcdserver: Peer URLs already exists"));
        }
        // Never used again: a random number, as large as JSON's readers take exactly.
        let id = (uuid::Uuid::new_v4().as_u64_pair().1 >> 11).max(1);
        self.store.add_learner(id, &address, !request.is_learner).await.map_err(|error| error::member(&error))?;
        let members = self.members_when(|members| members.iter().any(|member| member.id == id)).await;
        let member = Member { id, peer_ur_ls: request.peer_ur_ls, is_learner: request.is_learner, ..Member::default() };
        Ok(Response::new(MemberAddResponse { header: Some(self.header_now()), member: Some(member), members }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let id = request.into_inner().id;
        self.store.remove_member(id).await.map_err(|error| error::member(&error))?;
        let members = self.members_when(|members| members.iter().all(|member| member.id != id)).await;
        Ok(Response::new(MemberRemoveResponse { header: Some(self.header_now()), members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let address = address(&peer_ur_ls)?;
        let status = self.status();
        let known = status.members.iter().find(|member| member.id == id);
        let known = known.ok_or_else(|| error::member(&kontiki_store::MemberError::NotFound(id)))?;
        let updated = self.store.update_member(id, &known.name, &address, known.client_urls.clone()).await;
        updated.map_err(|error| error::member(&error))?;
        let url = format!("https://{address}");
        let shows = |members: &[Member]| members.iter().any(|member| member.id == id && member.peer_ur_ls[0] == url);
        let members = self.members_when(shows).await;
        Ok(Response::new(MemberUpdateResponse { header: Some(self.header_now()), members }))
    }

    async fn member_list(&self, request: Request<MemberListRequest>) -> Result<Response<MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.store.barrier().await.map_err(error::read)?;
        }
        Ok(Response::new(MemberListResponse { header: Some(self.header_now()), members: self.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let id = request.into_inner().id;
        if self.status().members.iter().any(|member| member.id == id && member.role != Role::Learner) {
            return Err(Status::failed_precondition("etcdserver: can only promote a learner member"));
        }
        self.store.promote_member(id).await.map_err(|error| error::member(&error))?;
        let votes = |members: &[Member]| members.iter().any(|member| member.id == id && !member.is_learner);
        let members = self.members_when(votes).await;
        Ok(Response::new(MemberPromoteResponse { header: Some(self.header_now()), members }))
    }
}
