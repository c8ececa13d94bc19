//! What an object was, on every server, and how it becomes that again.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Scratch, has};
use crate::{cluster::Cluster, wait};

pub async fn a_mistake_is_found_and_undone(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-past").await?;
    let kontiki = async |args: &[&str]| {
        let ended = c.kontiki(&[args, &["-n", "story-past"][..]].concat()).await?;
        anyhow::Ok(ended)
    };
    s.kubectl("create configmap app --from-literal=colour=blue").await?;
    let made = s.kubectl("get configmap app -o jsonpath={.metadata.resourceVersion}").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let between = jiff::Timestamp::now().to_string();
    tokio::time::sleep(Duration::from_secs(2)).await;
    s.kubectl("patch configmap app --type=merge -p {\"data\":{\"colour\":\"red\"}}").await?;

    let told = kontiki(&["log", "cm", "app"]).await?;
    for line in ["-  colour: blue", "+  colour: red", "by kubectl-patch", "by kubectl-create"] {
        has(&told.out, line)?;
    }
    has(&kontiki(&["get", "configmap", "app", "--as-of", &made]).await?.out, "colour: blue")?;
    has(&kontiki(&["get", "configmap", "app", "--as-of", &between]).await?.out, "colour: blue")?;
    has(&kontiki(&["get", "configmap", "app"]).await?.out, "colour: red")?;
    // Each server tells the same: it keeps what it applies.
    for (name, address) in c.servers().await? {
        let path = format!("/api/v1/namespaces/story-past/configmaps/app?kontiki.dev/as-of={made}");
        let server = format!("https://{address}:6443");
        wait::until("every server has the past", Duration::from_secs(10), async || {
            let ended = c.try_kubectl(&["--server", &server, "get", "--raw", &path], None).await?;
            has(&ended.out, "blue").map_err(|error| error.context(format!("{name}: {}", ended.err)))
        })
        .await?;
    }

    let colour = "get configmap app -o jsonpath={.data.colour}";
    has(&kontiki(&["undo", "cm", "app", "--dry-run"]).await?.out, "+  colour: blue")?;
    ensure!(s.kubectl(colour).await? == "red", "a dry run changed it");
    let undone = kontiki(&["undo", "cm", "app"]).await?;
    ensure!(undone.ok && s.kubectl(colour).await? == "blue", "{}{}", undone.out, undone.err);
    s.kubectl("delete configmap app").await?;
    let undone = kontiki(&["undo", "cm", "app"]).await?;
    ensure!(undone.ok && s.kubectl(colour).await? == "blue", "{}{}", undone.out, undone.err);
    has(&kontiki(&["log", "cm", "app"]).await?.out, "deleted")?;

    for (args, expect) in [
        (&["get", "cm", "app", "--as-of", "400d"][..], "is not kept that far back: it begins at revision"),
        (&["get", "cm", "none"], "configmaps \"none\" not found (404)"),
        (&["get", "cm", "app", "--as-of", "soon"], "neither a revision nor a time"),
        (&["log", "cm", "none"], "nothing is known of cm \"none\""),
        (&["undo", "thing", "x"], "the server has no kind \"thing\""),
    ] {
        let refused = kontiki(args).await?;
        ensure!(!refused.ok && refused.err.lines().count() == 1, "{args:?}: {}", refused.err);
        has(&refused.err, expect)?;
    }
    Ok(())
}
