//! Runs the stories on one real cluster: `cargo test --test cluster [WORD…]` runs those whose name
//! holds a word, and fails when a word is in no name. The closing lines name those that failed, and count them.

use std::{process::ExitCode, time::Instant};

use kontiki_chaos_tests::{cluster::Cluster, stories};

/// How much of each error is said again in the end: that may be all that somebody gets to see.
const LAST_WORDS: usize = 300;

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let told = match stories::wanted(&words) {
        Ok(wanted) => run(&wanted).await,
        Err(error) => Err(error),
    };
    match told {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error:#}\n0 passed, 1 failed");
            ExitCode::FAILURE
        }
    }
}

/// How many failed.
async fn run(wanted: &[&stories::Story]) -> anyhow::Result<usize> {
    let cluster = Cluster::new("ktest", "10.217.0.0/24")?;
    let started = Instant::now();
    let up = cluster.up(&[]).await;
    println!("{}", up.as_deref().unwrap_or_default());
    let (mut passed, mut failed) = (0, Vec::new());
    if let Err(error) = up {
        println!("story up ... FAILED\n{error:#}\n{}", cluster.tails(20));
        failed.push(last_words("up", &error));
    } else {
        println!("story up ... ok ({:.1} s)", started.elapsed().as_secs_f32());
        for story in wanted {
            match tell(&cluster, story).await {
                Ok(()) => passed += 1,
                Err(error) => failed.push(last_words(story.name, &error)),
            }
        }
    }
    if std::env::var_os("KONTIKI_KEEP").is_some() {
        println!("kept: {}", cluster.dir().display());
    } else if let Err(error) = cluster.down().await {
        failed.push(last_words("down", &error));
    } else if failed.is_empty() {
        std::fs::remove_dir_all(cluster.dir())?;
    }
    for words in &failed {
        println!("{words}");
    }
    println!("{passed} passed, {} failed", failed.len());
    Ok(failed.len())
}

/// A line about what failed, and how its error begins.
fn last_words(name: &str, error: &anyhow::Error) -> String {
    let error: String = format!("{error:#}").chars().take(LAST_WORDS).collect();
    format!("FAILED {name}: {}", error.replace('\n', " "))
}

async fn tell(cluster: &Cluster, story: &stories::Story) -> anyhow::Result<()> {
    let started = Instant::now();
    let outcome = match (story.tell)(cluster).await {
        Ok(()) => cluster.healthy().await,
        Err(error) => Err(error),
    };
    let seconds = started.elapsed().as_secs_f32();
    match &outcome {
        Ok(()) => println!("story {} ... ok ({seconds:.1} s)", story.name),
        Err(error) => {
            println!("story {} ... FAILED ({seconds:.1} s)\n{error:#}\n{}", story.name, cluster.tails(12))
        }
    }
    outcome
}
