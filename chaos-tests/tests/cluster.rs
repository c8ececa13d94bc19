//! Runs the stories on one real cluster: `cargo test --test cluster [WORD…]` runs those whose name
//! holds a word, and fails when a word is in no name. The closing line counts them.

use std::{process::ExitCode, time::Instant};

use kontiki_chaos_tests::{cluster::Cluster, stories};

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

async fn run(wanted: &[&stories::Story]) -> anyhow::Result<usize> {
    let cluster = Cluster::new("ktest", "10.217.0.0/24")?;
    let started = Instant::now();
    let up = cluster.up(&[]).await;
    println!("{}", up.as_deref().unwrap_or_default());
    let mut failed = 0;
    if let Err(error) = up {
        println!("story up ... FAILED\n{error:#}\n{}", cluster.tails(20));
        failed = wanted.len();
    } else {
        println!("story up ... ok ({:.1} s)", started.elapsed().as_secs_f32());
        for story in wanted {
            failed += usize::from(!tell(&cluster, story).await);
        }
    }
    if std::env::var_os("KONTIKI_KEEP").is_some() {
        println!("kept: {}", cluster.dir().display());
    } else {
        cluster.down().await?;
        if failed == 0 {
            std::fs::remove_dir_all(cluster.dir())?;
        }
    }
    println!("{} passed, {failed} failed", wanted.len() - failed);
    Ok(failed)
}

async fn tell(cluster: &Cluster, story: &stories::Story) -> bool {
    let started = Instant::now();
    let outcome = match (story.tell)(cluster).await {
        Ok(()) => cluster.healthy().await,
        Err(error) => Err(error),
    };
    let seconds = started.elapsed().as_secs_f32();
    match outcome {
        Ok(()) => println!("story {} ... ok ({seconds:.1} s)", story.name),
        Err(ref error) => {
            println!("story {} ... FAILED ({seconds:.1} s)\n{error:#}\n{}", story.name, cluster.tails(12))
        }
    }
    outcome.is_ok()
}
