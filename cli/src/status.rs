//! `kontiki status`: who is there, who leads, how far everybody is, and who writes.
//!
//! Invariants
//! - Every server is asked by itself and at once; one that does not answer is shown as such, so
//!   the command tells what is down even when all are.
//! - The exit code is 0 only if some server answered.
//! - How far servers are, is what one of them knew at one moment: answers of several would be of several moments.
//! - Writes are the sum over the servers, each of which knows its own only; who did not answer is named.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::{Target, client::Client, local::Saved, table};

/// A server that runs but is frozen or cut off must not hold the command up.
const PATIENCE: Duration = Duration::from_secs(3);
const SYSTEM_KUBECONFIG: &str = "/var/lib/kontiki/server/admin.kubeconfig";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Table,
    Json,
}

/// A server as the local files know it.
#[derive(Clone)]
pub struct Known {
    pub name: Option<String>,
    /// `host:port` of its API.
    pub address: String,
}

/// Credentials, and every server that can be asked.
pub fn find(target: &Target) -> Result<(Client, Vec<Known>)> {
    let saved = Saved::load(&target.dir)?;
    let own = target.dir.join("kubeconfig");
    let exported = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let system = Some(PathBuf::from(SYSTEM_KUBECONFIG)).filter(|path| path.exists());
    let path =
        target.kubeconfig.clone().or_else(|| Some(own.clone()).filter(|path| path.exists())).or(exported).or(system);
    let Some(path) = path else {
        bail!(
            "no cluster found: neither {} nor {SYSTEM_KUBECONFIG} exists; start one with `kontiki up`, or name its --kubeconfig",
            own.display()
        );
    };
    let client = Client::from_kubeconfig(&path)?;
    // The servers of the local cluster belong to its own kubeconfig only.
    let local = saved.filter(|_| same_file(&path, &own));
    let mut known: Vec<Known> = local.iter().flat_map(Saved::known_servers).collect();
    if known.is_empty() {
        known = client.servers().iter().map(|address| Known { name: None, address: address.clone() }).collect();
    }
    let addresses = known.iter().map(|k| k.address.clone()).collect();
    Ok((client.with_servers(addresses), known))
}

fn same_file(a: &std::path::Path, b: &std::path::Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

pub async fn run(args: Args) -> Result<ExitCode> {
    let (client, known) = find(&args.target)?;
    let (document, answered) = survey(&client, &known).await;
    match args.output {
        Format::Json => println!("{document:#}"),
        Format::Table => print!("{}", show(&document)),
    }
    if answered {
        return Ok(ExitCode::SUCCESS);
    }
    let tried: Vec<String> = known.iter().map(|k| k.address.clone()).collect();
    bail!("no server answers (asked {})", tried.join(", "))
}

/// Asks every server; the second value is whether any answered.
pub async fn survey(client: &Client, known: &[Known]) -> (Value, bool) {
    let ask = |server: &Known| {
        let client = client.with_servers(vec![server.address.clone()]).with_patience(PATIENCE);
        async move { client.get("/kontiki/v1/status").await }
    };
    let mut known = known.to_vec();
    let mut answers = join_all(known.iter().map(ask)).await;
    // A kubeconfig names one address only; whoever answers names the others.
    let others: Vec<Known> = answers
        .iter()
        .flatten()
        .flat_map(members)
        .filter(|found| !known.iter().any(|k| k.address == found.address))
        .collect();
    let mut fresh: Vec<Known> = Vec::new();
    for other in others {
        if !fresh.iter().any(|k| k.address == other.address) {
            fresh.push(other);
        }
    }
    answers.extend(join_all(fresh.iter().map(ask)).await);
    known.extend(fresh);
    let answered = answers.iter().any(Result::is_ok);
    (merge(&known, answers), answered)
}

/// API addresses of the members in a status document; one that has not told its own is left out.
fn members(document: &Value) -> Vec<Known> {
    let list = document["members"].as_array().into_iter().flatten();
    list.filter_map(|member| {
        let name = member["name"].as_str()?.to_owned();
        Some(Known { name: Some(name), address: member["api"].as_str()?.to_owned() })
    })
    .collect()
}

/// The document of whoever knows most, with what each server said about itself laid over it.
fn merge(known: &[Known], answers: Vec<Result<Value>>) -> Value {
    let said: Vec<(&Known, Result<Value>)> = known.iter().zip(answers).collect();
    let best = said.iter().filter_map(|(_, answer)| answer.as_ref().ok()).max_by_key(|document| rank(document));
    let Some(best) = best else {
        let members: Vec<Value> = said
            .iter()
            .map(|(k, answer)| {
                let why = answer.as_ref().err().map(|e| format!("{e:#}"));
                json!({"name": k.name, "id": null, "role": "unknown", "address": k.address, "reachable": false, "term": null, "applied": null, "lag": null, "error": why})
            })
            .collect();
        return json!({"members": members, "nodes": [], "version": env!("CARGO_PKG_VERSION")});
    };
    let mut document = best.clone();
    document["writes"] = writes(said.iter().filter_map(|(_, answer)| answer.as_ref().ok()));
    for member in document["members"].as_array_mut().into_iter().flatten() {
        let host = member["address"].as_str().and_then(|a| a.rsplit_once(':')).map(|(host, _)| host.to_owned());
        let own = said.iter().find(|(k, _)| {
            k.name.as_deref().is_some_and(|name| member["name"] == name)
                || k.address.rsplit_once(':').map(|(h, _)| h) == host.as_deref()
        });
        let Some((_, answer)) = own else { continue };
        member["reachable"] = json!(answer.is_ok());
        match answer {
            Ok(itself) => tell(member, itself),
            Err(error) => member["error"] = json!(format!("{error:#}")),
        }
    }
    document
}

/// The writes of the cluster: those of all servers that answered together, a second over the last minute.
fn writes<'a>(answers: impl Iterator<Item = &'a Value>) -> Value {
    let (mut servers, mut shares) = (Vec::new(), BTreeMap::<(&str, &str), f64>::new());
    for answer in answers {
        let server = &answer["server"];
        if servers.contains(&server) {
            continue; // it was reached by the virtual address too
        }
        servers.push(server);
        for share in answer["writes"].as_array().into_iter().flatten() {
            let (Some(writer), Some(kind)) = (share["writer"].as_str(), share["kind"].as_str()) else { continue };
            *shares.entry((writer, kind)).or_default() += share["per_second"].as_f64().unwrap_or(0.0);
        }
    }
    let rounded = |number: f64| (number * 100.0).round() / 100.0 + 0.0; // the sum of nothing is -0
    let busiest = shares.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(
        |((writer, kind), per_second)| json!({"writer": writer, "kind": kind, "per_second": rounded(*per_second)}),
    );
    json!({"per_second": rounded(shares.values().sum()), "busiest": busiest, "servers": servers})
}

/// What a member says of itself is newer than what others know of it. How far it is, it says where nobody else knows.
fn tell(member: &mut Value, itself: &Value) {
    let own = itself["members"].as_array().into_iter().flatten().find(|m| m["name"] == member["name"]);
    let keys = if member["applied"].is_number() { &["term"][..] } else { &["term", "applied"] };
    for key in keys.iter().copied() {
        if let Some(value) = own.map(|own| &own[key]).filter(|value| value.is_number()) {
            member[key] = value.clone();
        }
    }
}

/// The leader of the latest term knows most, then whoever is furthest.
fn rank(document: &Value) -> (u64, bool, u64) {
    let list = || document["members"].as_array().into_iter().flatten();
    let most = |key: &str| list().filter_map(|m| m[key].as_u64()).max().unwrap_or_default();
    let leads = document["server"].is_string() && document["server"] == document["leader"];
    (most("term"), leads, most("applied"))
}

fn show(document: &Value) -> String {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    };
    let rows = |list: &str, keys: &[&str]| -> Vec<Vec<String>> {
        let entries = document[list].as_array().into_iter().flatten();
        entries.map(|entry| keys.iter().map(|key| text(&entry[*key])).collect()).collect()
    };
    let members = rows("members", &["name", "role", "address", "reachable", "term", "applied", "lag"]);
    let mut out = table::render(&["SERVER", "ROLE", "ADDRESS", "REACHABLE", "TERM", "APPLIED", "LAG"], &members);
    out.extend(show_writes(document));
    let nodes = rows("nodes", &["name", "ready", "schedulable", "address"]);
    if !nodes.is_empty() {
        out.push('\n');
        out.push_str(&table::render(&["NODE", "READY", "SCHEDULABLE", "ADDRESS"], &nodes));
    }
    out
}

/// One line about who writes; nothing if no server answered.
fn show_writes(document: &Value) -> Option<String> {
    let writes = &document["writes"];
    let mut line = format!("\nwrites   {:.1}/s in the last minute", writes["per_second"].as_f64()?);
    let busiest = &writes["busiest"];
    if let (Some(writer), Some(kind)) = (busiest["writer"].as_str(), busiest["kind"].as_str()) {
        let per_second = busiest["per_second"].as_f64().unwrap_or(0.0);
        let _ = write!(line, ", busiest: {writer} ({kind}) {per_second:.1}/s");
    }
    let counted = writes["servers"].as_array().into_iter().flatten().collect::<Vec<_>>();
    let members = document["members"].as_array().into_iter().flatten().map(|member| &member["name"]);
    let missing: Vec<&str> = members.filter(|name| !counted.contains(name)).filter_map(Value::as_str).collect();
    if !missing.is_empty() {
        let _ = write!(line, "; not counted: {}", missing.join(", "));
    }
    line.push('\n');
    Some(line)
}

/// The first error that says why nothing works, for commands that need one server only.
pub fn need(found: Option<&Value>, what: &str) -> Result<Value> {
    found.cloned().with_context(|| format!("the servers' answer lacks {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(role: &str, term: u64) -> Value {
        json!({"members": [
            {"name": "s1", "id": 1, "role": role, "address": "10.0.0.11:2380", "reachable": true, "term": term, "applied": 9, "lag": 0},
            {"name": "s2", "id": 2, "role": "follower", "address": "10.0.0.12:2380", "reachable": true, "term": term, "applied": 9, "lag": 0},
        ], "nodes": [{"name": "a1", "ready": true, "schedulable": true, "address": "10.0.0.21"}], "version": "0.1.0"})
    }

    fn known() -> [Known; 2] {
        ["s1", "s2"].map(|name| Known { name: Some(name.into()), address: format!("10.0.0.1{}:6443", &name[1..]) })
    }

    #[test]
    fn who_does_not_answer_is_not_reachable() {
        let merged = merge(&known(), vec![Ok(document("leader", 3)), Err(anyhow::anyhow!("gone"))]);
        assert_eq!(merged["members"][0]["reachable"], true);
        assert_eq!(merged["members"][1]["reachable"], false);
        assert_eq!(merged["members"][1]["error"], "gone");
        let none = merge(&known(), vec![Err(anyhow::anyhow!("a")), Err(anyhow::anyhow!("b"))]);
        assert_eq!(none["members"].as_array().map(Vec::len), Some(2));
        assert_eq!(none["members"][1]["name"], "s2");
    }

    #[test]
    fn the_latest_term_is_believed() {
        let merged = merge(&known(), vec![Ok(document("leader", 3)), Ok(document("follower", 5))]);
        assert_eq!(merged["members"][0]["role"], "follower", "a deposed leader does not know yet");
        assert_eq!(merged["members"][0]["term"], 3, "and says so");
        assert_eq!(merged["members"][1]["term"], 5);
    }

    #[test]
    fn how_far_members_are_is_of_one_moment() {
        let with = |role: &str, members: [(Option<u64>, Option<u64>); 2]| {
            let mut document = document(role, 3);
            for (at, (applied, lag)) in members.into_iter().enumerate() {
                document["members"][at]["applied"] = json!(applied);
                document["members"][at]["lag"] = json!(lag);
            }
            document
        };
        // The leader's answer is a moment older than the other's.
        let mut one = with("leader", [(Some(20), Some(0)), (Some(19), Some(1))]);
        (one["server"], one["leader"]) = (json!("s1"), json!("s1"));
        let two = with("follower", [(Some(20), Some(0)), (Some(90), Some(0))]);
        let merged = merge(&known(), vec![Ok(one), Ok(two)]);
        assert_eq!((&merged["members"][1]["applied"], &merged["members"][1]["lag"]), (&json!(19), &json!(1)));
        let alone = with("follower", [(Some(20), None), (None, None)]);
        let other = with("follower", [(None, None), (Some(12), None)]);
        let merged = merge(&known(), vec![Ok(alone), Ok(other)]);
        assert_eq!((&merged["members"][1]["applied"], &merged["members"][1]["lag"]), (&json!(12), &json!(null)));
    }

    #[test]
    fn writes_are_those_of_all_servers_that_answer() {
        let says = |name: &str, shares: &[(&str, &str, f64)]| {
            let mut document = document("leader", 3);
            document["server"] = json!(name);
            let share =
                |(writer, kind, rate): &(&str, &str, f64)| json!({"writer": writer, "kind": kind, "per_second": rate});
            document["writes"] = shares.iter().map(share).collect();
            Ok(document)
        };
        let one = [("node-gateway", "leases", 0.33), ("podgc", "pods", 0.4)];
        let two = [("node-gateway", "leases", 0.33)];
        for (answers, rate, line) in [
            (
                vec![says("s1", &one), says("s2", &two)],
                1.06,
                "1.1/s in the last minute, busiest: node-gateway (leases) 0.7/s",
            ),
            (
                vec![says("s1", &one), Err(anyhow::anyhow!("gone"))],
                0.73,
                "0.7/s in the last minute, busiest: podgc (pods) 0.4/s; not counted: s2",
            ),
            (vec![says("s1", &[]), says("s2", &[])], 0.0, "0.0/s in the last minute"),
            (
                vec![says("s2", &two), says("s2", &two)],
                0.33,
                "0.3/s in the last minute, busiest: node-gateway (leases) 0.3/s; not counted: s1",
            ),
        ] {
            let merged = merge(&known(), answers);
            assert_eq!(merged["writes"]["per_second"], rate);
            let shown = show(&merged);
            assert!(shown.contains(&format!("\nwrites   {line}\n\nNODE")), "{shown}");
        }
    }

    #[test]
    fn tables_are_for_people() {
        let shown = show(&document("leader", 3));
        assert_eq!(
            shown,
            "SERVER  ROLE      ADDRESS         REACHABLE  TERM  APPLIED  LAG
s1      leader    10.0.0.11:2380  yes        3     9        0
s2      follower  10.0.0.12:2380  yes        3     9        0

NODE  READY  SCHEDULABLE  ADDRESS
a1    yes    yes          10.0.0.21
"
        );
    }
}
