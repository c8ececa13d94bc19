//! Leases that one client keeps alive, all on one stream.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kontiki_proto::etcd as pb;
use tokio::time::timeout;

use super::{driver::Pool, figures::Column};
use crate::{client::Clients, group::Group};

pub const TITLE: &str = "lease renewal on one stream";
const LEASES: i64 = 1_000;
const RENEWALS: i64 = 10_000;
const TTL: i64 = 3_600;
/// No leader is this slow.
const LIMIT: Duration = Duration::from_secs(120);

pub async fn measure(group: &Group, column: &mut Column<'_>) -> Result<()> {
    let leader = group.leader().await?;
    grant(&mut Pool::connect(group, leader, 1).await?.clients(0)).await?;
    for (place, offset) in [("leader", 0), ("follower", 1)] {
        let member = (leader + offset) % group.members().len();
        let mut clients = Pool::connect(group, member, 1).await?.clients(0);
        // The first few open the connections that the rest use.
        renew(&mut clients, 10).await?;
        let (start, before) = (Instant::now(), group.cpu()?);
        renew(&mut clients, RENEWALS).await?;
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), group.cpu()? - before);
        #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
        let renewals = RENEWALS as f64;
        let title = format!("{TITLE}, {RENEWALS} at the {place}");
        column.add(&title, "renewals/s", renewals / seconds);
        column.add(&title, "server CPU s per 100k", cpu / renewals * 1e5);
    }
    Ok(())
}

/// Makes the leases that there are not.
async fn grant(clients: &mut Clients) -> Result<()> {
    for id in 1..=LEASES {
        match clients.lease.lease_grant(pb::LeaseGrantRequest { ttl: TTL, id }).await {
            Err(status) if status.code() != tonic::Code::FailedPrecondition => return Err(status.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Sends requests as fast as they are taken, and waits for all answers.
async fn renew(clients: &mut Clients, count: i64) -> Result<()> {
    let id = |number: i64| 1 + number % LEASES;
    let requests = (0..count).map(move |number| pb::LeaseKeepAliveRequest { id: id(number) });
    let all = async {
        let mut answers = clients.lease.lease_keep_alive(futures::stream::iter(requests)).await?.into_inner();
        for number in 0..count {
            let answer = answers.message().await?.context("the stream has ended")?;
            ensure!(answer.id == id(number) && answer.ttl == TTL, "{answer:?} to renewal {number}");
        }
        Ok(())
    };
    timeout(LIMIT, all).await.context("renewals are not answered in time")?
}
