//! The wire: hostile input, and equality with a real API server.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Error, Result, ensure};
use futures::{StreamExt, stream};
use http::Request;
use http_body_util::BodyExt;
use kube::client::Body;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::Value;

use super::Scratch;
use crate::{
    cluster::Cluster,
    fuzz,
    ratchet::{self, Seen},
};

/// How many random requests the fuzz sends, and how many at a time.
const FUZZ: usize = 20_000;
const FUZZ_AT_A_TIME: usize = 16;
/// No single answer may take longer, whatever was asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// A controller or an agent that is at work may be in the way of an answer, but not each time.
const RUNS: usize = 3;
const AGAIN: &str = "cargo test --workspace --test cluster -- answers_equal";

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
    let client = c.client().await?;
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
    let client = c.hasty_client(None).await?;
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
    let Some(oracle) = ratchet::recorded(&root).map_err(Error::msg)? else { return Ok(()) };
    let mark = root.join("chaos-tests/oracle-equal.json");
    let mut seen = compare(c, &oracle).await?;
    for run in 1.. {
        let (equal, not) =
            seen.values().fold((0, 0), |(equal, not), file| (equal + file.equal, not + file.differs.len()));
        println!("      {equal} of {} recorded answers equal", equal + not);
        match ratchet::hold(&mark, &seen, AGAIN) {
            Ok(()) => break,
            Err(differs) => ensure!(run < RUNS, "see {}: {differs}", report(c).display()),
        }
        join(&mut seen, &compare(c, &oracle).await?);
    }
    Ok(())
}

/// What was equal once is equal. What was not recorded, and is not answered again either, was never equal.
fn join(seen: &mut BTreeMap<String, Seen>, again: &BTreeMap<String, Seen>) {
    for (file, answers) in seen {
        let Some(again) = again.get(file) else { continue };
        let before = answers.differs.len();
        answers.differs.retain(|step| again.differs.contains(step));
        let now_equal = answers.equal + before - answers.differs.len();
        answers.equal = now_equal.min(again.equal + again.differs.len() - answers.differs.len());
    }
}

fn report(c: &Cluster) -> PathBuf {
    c.dir().join("oracle.txt")
}

async fn compare(c: &Cluster, oracle: &Path) -> Result<BTreeMap<String, Seen>> {
    let script = format!(
        "python3 {0}/oracle.py compare --live --lines 3 --kubeconfig {1} --exceptions {2} {0}/scenarios/a-*.json > {3} 2>&1; true",
        oracle.display(),
        c.kubeconfig().display(),
        crate::checkout().join("chaos-tests/oracle-exceptions.json").display(),
        report(c).display()
    );
    tokio::process::Command::new("sh").args(["-c", &script]).status().await?;
    seen(&std::fs::read_to_string(report(c))?).with_context(|| report(c).display().to_string())
}

/// The comparison's report, by file of scenarios: a line for each answer that differs, and at its end the counts.
fn seen(report: &str) -> Result<BTreeMap<String, Seen>> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut ended = false;
    for line in report.lines() {
        if let Some((file, step)) = line.strip_prefix("FAIL ").and_then(|fail| fail.split_once(':')) {
            seen.entry(file.to_owned()).or_default().differs.insert(step.to_owned());
        }
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [file, equal, "passed", not, "failed"] => {
                let answers = seen.entry(file.to_owned()).or_default();
                answers.equal = equal.parse()?;
                let listed = answers.differs.len();
                ensure!(not.parse::<usize>()? == listed, "{file}: {not} differ and {listed} are listed");
            }
            [_, "passed,", _, "failed", ..] => ended = true,
            _ => {}
        }
    }
    ensure!(ended, "the comparison did not end: {:?}", report.lines().last());
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "FAIL a-pod:updates: MERGE ${pods}/one / more: less\n    /body/a\n      expected 1\n\n\
                          a-list  10 passed  0 failed\na-pod    3 passed  1 failed\n13 passed, 1 failed  (2 s)\n";

    #[test]
    fn a_report_is_read() {
        let seen = seen(REPORT).expect("it is whole");
        let told: Vec<_> = seen.iter().map(|(file, seen)| (file.as_str(), seen.equal, seen.differs.len())).collect();
        assert_eq!(told, [("a-list", 10, 0), ("a-pod", 3, 1)]);
        assert!(seen["a-pod"].differs.contains("updates: MERGE ${pods}/one / more: less"));
    }

    #[test]
    fn what_is_equal_once_is_equal() {
        let differs = |steps: &[&str]| steps.iter().map(|step| (*step).to_owned()).collect();
        let mut all = BTreeMap::from([("a-pod".to_owned(), Seen { equal: 5, differs: differs(&["s: a", "s: b"]) })]);
        join(&mut all, &BTreeMap::from([("a-pod".to_owned(), Seen { equal: 5, differs: differs(&["s: b", "s: c"]) })]));
        assert_eq!((all["a-pod"].equal, &all["a-pod"].differs), (6, &differs(&["s: b"])));
        let mut all = BTreeMap::from([("a-pod".to_owned(), Seen { equal: 5, differs: differs(&["s: unasked"]) })]);
        join(&mut all, &BTreeMap::from([("a-pod".to_owned(), Seen { equal: 5, differs: differs(&[]) })]));
        assert_eq!((all["a-pod"].equal, all["a-pod"].differs.len()), (5, 0));
    }

    #[test]
    fn a_report_that_ends_early_is_none() {
        assert!(seen("FAIL a-pod:updates: x\n").is_err());
        assert!(seen("a-pod  3 passed  1 failed\n4 passed, 0 failed\n").is_err());
    }
}
