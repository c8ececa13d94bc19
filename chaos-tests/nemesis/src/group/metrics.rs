//! What members tell under `/metrics`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use tonic::body::Body;
use tower::ServiceExt as _;

use super::{ANSWER, Group, name};

/// The figures of one member at one moment, by name. Those with labels or fractions are left out.
#[derive(Clone, Debug, Default)]
pub struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    /// A figure; `None` where the program does not know it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.split_once(' '));
        Self(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect())
    }
}

impl Group {
    /// A member's figures.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self, slot: usize) -> Result<Metrics> {
        let asked = async {
            let request = http::Request::get("/metrics").body(Body::empty())?;
            let response = self.doors.channel(slot).oneshot(request).await?;
            ensure!(response.status().is_success(), "{}", response.status());
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok(Metrics::parse(&String::from_utf8_lossy(&body)))
        };
        let answer = timeout(ANSWER, asked).await.context("no answer in time").flatten();
        answer.with_context(|| format!("the figures of {}", name(slot)))
    }
}
