//! What an object was, on every server, and how it becomes that again.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::{Scratch, has};
use crate::{
    cluster::{Cluster, Ended},
    wait,
};

/// The command, of objects of the story.
async fn kontiki(c: &Cluster, args: &[&str]) -> Result<Ended> {
    c.kontiki(&[args, &["-n", "story-past"][..]].concat()).await
}

/// Waits until the command says all of `parts`.
async fn tells(c: &Cluster, args: &[&str], parts: &[&str]) -> Result<()> {
    wait::until(&format!("{args:?} tells it"), wait::PATIENCE, async || {
        let told = kontiki(c, args).await?;
        parts.iter().try_for_each(|part| has(&told.out, part)).map_err(|error| anyhow!("{error:#}{}", told.err))
    })
    .await
}

pub async fn a_mistake_is_found_and_undone(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-past").await?;
    s.kubectl("create configmap app --from-literal=colour=blue").await?;
    let made = s.kubectl("get configmap app -o jsonpath={.metadata.resourceVersion}").await?;
    // Each server tells the same: it keeps what it applies, and when it applied it.
    for (name, address) in c.servers().await? {
        let path = format!("/api/v1/namespaces/story-past/configmaps/app?kontiki.dev/as-of={made}");
        let server = format!("https://{address}:6443");
        wait::until("every server has the past", wait::PATIENCE, async || {
            let ended = c.try_kubectl(&["--server", &server, "get", "--raw", &path], None).await?;
            has(&ended.out, "blue").map_err(|error| error.context(format!("{name}: {}", ended.err)))
        })
        .await?;
    }
    let between = jiff::Timestamp::now().to_string();
    tokio::time::sleep(Duration::from_secs(2)).await; // what comes now is of another second
    s.kubectl("patch configmap app --type=merge -p {\"data\":{\"colour\":\"red\"}}").await?;

    tells(c, &["log", "cm", "app"], &["-  colour: blue", "+  colour: red", "by kubectl-patch", "by kubectl-create"])
        .await?;
    tells(c, &["get", "configmap", "app", "--as-of", &made], &["colour: blue"]).await?;
    tells(c, &["get", "configmap", "app", "--as-of", &between], &["colour: blue"]).await?;
    tells(c, &["get", "configmap", "app"], &["colour: red"]).await?;

    let colour = "get configmap app -o jsonpath={.data.colour}";
    tells(c, &["undo", "cm", "app", "--dry-run"], &["+  colour: blue"]).await?;
    ensure!(s.kubectl(colour).await? == "red", "a dry run changed it");
    let undone = kontiki(c, &["undo", "cm", "app"]).await?;
    ensure!(undone.ok && s.kubectl(colour).await? == "blue", "{}{}", undone.out, undone.err);
    s.kubectl("delete configmap app").await?;
    let undone = kontiki(c, &["undo", "cm", "app"]).await?;
    ensure!(undone.ok && s.kubectl(colour).await? == "blue", "{}{}", undone.out, undone.err);
    tells(c, &["log", "cm", "app"], &["deleted"]).await?;

    for (args, expect) in [
        (&["get", "cm", "app", "--as-of", "400d"][..], "is not kept that far back: it begins at revision"),
        (&["get", "cm", "none"], "configmaps \"none\" not found (404)"),
        (&["get", "cm", "app", "--as-of", "soon"], "neither a revision nor a time"),
        (&["log", "cm", "none"], "nothing is known of cm \"none\""),
        (&["undo", "thing", "x"], "the server has no kind \"thing\""),
    ] {
        wait::until(&format!("{args:?} is refused"), wait::PATIENCE, async || {
            let refused = kontiki(c, args).await?;
            ensure!(!refused.ok && refused.err.lines().count() == 1, "{}", refused.err);
            has(&refused.err, expect)
        })
        .await?;
    }
    s.done().await
}
