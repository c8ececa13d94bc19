//! The wire: hostile input, and equality with a real API server.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, stream};
use http::Request;
use http_body_util::BodyExt;
use kube::client::Body;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::Value;

use super::Scratch;
use crate::{cluster::Cluster, fuzz};

/// How many random requests the fuzz sends, and how many at a time.
const FUZZ: usize = 20_000;
const FUZZ_AT_A_TIME: usize = 16;
/// No single answer may take longer, whatever was asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The share of recorded answers that must be equal.
const ORACLE_SHARE: f64 = 0.90;

struct Answer {
    status: u16,
    body: Value,
}

async fn send(client: &kube::Client, request: Request<Body>) -> Result<Answer> {
    let answer = client.send(request).await?;
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect().await?.to_bytes();
    Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
}

pub async fn bad_input_gets_a_clear_status(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-bad").await?;
    s.kubectl("create configmap one --from-literal=a=1").await?;
    let client = c.client(None).await?;
    let maps = "/api/v1/namespaces/story-bad/configmaps";
    let good = r#"{"metadata":{"name":"two"}}"#;
    let stale = r#"{"metadata":{"name":"one","resourceVersion":"1"}}"#;
    let typo = r#"{"metadata":{"name":"two"},"datum":{}}"#;
    let big = format!(r#"{{"metadata":{{"name":"two"}},"data":{{"a":"{}"}}}}"#, "x".repeat(4 << 20));
    let json = "application/json";
    let strict = format!("{maps}?fieldValidation=Strict");
    let cases: &[(&str, &str, &str, &str, &str, u16, &str)] = &[
        ("malformed", "POST", maps, json, "{", 400, "BadRequest"),
        ("wrong type", "POST", maps, json, r#"{"metadata":{"name":7}}"#, 400, "BadRequest"),
        ("no body", "POST", maps, json, "", 400, "BadRequest"),
        ("bad name", "POST", maps, json, r#"{"metadata":{"name":"No_Good"}}"#, 422, "Invalid"),
        ("unknown field, strict", "POST", &strict, json, typo, 400, "BadRequest"),
        ("too large", "POST", maps, json, &big, 413, "RequestEntityTooLarge"),
        ("wrong content type", "POST", maps, "text/csv", good, 415, "UnsupportedMediaType"),
        ("exists", "POST", maps, json, r#"{"metadata":{"name":"one"}}"#, 409, "AlreadyExists"),
        ("stale", "PUT", &format!("{maps}/one"), json, stale, 409, "Conflict"),
        ("unknown kind", "GET", "/api/v1/namespaces/story-bad/rafts", json, "", 404, "NotFound"),
        ("unknown object", "GET", &format!("{maps}/none"), json, "", 404, "NotFound"),
    ];
    for (name, verb, path, kind, body, status, reason) in cases {
        let request = Request::builder().method(*verb).uri(*path).header("content-type", *kind);
        let request = request.body(Body::from(body.as_bytes().to_vec()))?;
        let answer = send(&client, request).await.with_context(|| name.to_string());
        // A server may close the connection while a body that is too large is still being sent.
        let Ok(answer) = answer else {
            ensure!(*status == 413, "{name}: {:#}", answer.err().context("an error")?);
            continue;
        };
        ensure!(answer.status == *status, "{name}: {} instead of {status}: {}", answer.status, answer.body);
        ensure!(answer.body["kind"] == "Status" && answer.body["reason"] == *reason, "{name}: {}", answer.body);
    }
    ensure!(
        s.kubectl("get configmaps -o name").await?.lines().all(|line| !line.ends_with("/two")),
        "nothing was stored"
    );
    s.done().await
}

pub async fn random_requests_never_break_the_server(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-fuzz").await?;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let client = c.client(None).await?;
    let before = c.pid("servers", "s1")?;
    let mut rng = StdRng::seed_from_u64(seed);
    let requests = std::iter::repeat_with(|| fuzz::request(&mut rng, s.name)).flatten().take(FUZZ).collect::<Vec<_>>();
    let answers = stream::iter(requests.into_iter().enumerate().map(|(number, request)| {
        let client = client.clone();
        async move {
            let shown = format!("request {number} (SEED={seed}): {} {}", request.method(), request.uri());
            let answer = tokio::time::timeout(ANSWER_LIMIT, client.send(request)).await;
            let status = answer.with_context(|| format!("{shown}: no answer"))?.map(|answer| answer.status().as_u16());
            match status {
                Ok(status) if status >= 500 => anyhow::bail!("{shown}: {status}"),
                _ => Ok(status.ok()),
            }
        }
    }))
    .buffer_unordered(FUZZ_AT_A_TIME)
    .collect::<Vec<Result<Option<u16>>>>()
    .await;
    let (mut answered, mut broken, mut bad) = (0, 0, Vec::new());
    for answer in answers {
        match answer {
            Ok(Some(_)) => answered += 1,
            Ok(None) => broken += 1,
            Err(error) => bad.push(format!("{error:#}")),
        }
    }
    println!("      {answered} answers below 500, {broken} connections closed by the server, {} bad", bad.len());
    ensure!(bad.is_empty(), "{} bad answers, e.g. {:#?}", bad.len(), bad.iter().take(20).collect::<Vec<_>>());
    ensure!(broken < FUZZ / 100, "{broken} requests were not answered at all");
    ensure!(c.pid("servers", "s1")? == before, "the server was restarted");
    s.done().await
}

pub async fn answers_equal_those_of_a_real_api_server(c: &Cluster) -> Result<()> {
    let root = crate::checkout();
    let oracle = std::env::var_os("KONTIKI_ORACLE").map_or_else(|| root.join("../shared/oracle"), PathBuf::from);
    if !oracle.join("oracle.py").exists() {
        println!("      skipped: no recorded answers at {} (set KONTIKI_ORACLE)", oracle.display());
        return Ok(());
    }
    let report = c.dir().join("oracle.txt");
    let script = format!(
        "python3 {0}/oracle.py compare --live --lines 3 --kubeconfig {1} --exceptions {2} {0}/scenarios/a-*.json > {3} 2>&1; true",
        oracle.display(),
        c.kubeconfig().display(),
        root.join("chaos-tests/oracle-exceptions.json").display(),
        report.display()
    );
    tokio::process::Command::new("sh").args(["-c", &script]).status().await?;
    let text = std::fs::read_to_string(&report)?;
    let last = text.lines().last().unwrap_or_default().to_owned();
    let numbers: Vec<f64> = last.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [passed, failed, ..] = numbers[..] else {
        anyhow::bail!("the comparison did not end: {last:?}; see {}", report.display());
    };
    let share = passed / (passed + failed);
    println!("      {passed} of {} recorded answers equal ({:.1} %)", passed + failed, share * 100.0);
    ensure!(share >= ORACLE_SHARE, "only {:.1} % equal; see {}", share * 100.0, report.display());
    Ok(())
}
