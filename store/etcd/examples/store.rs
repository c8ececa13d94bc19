//! `kontiki store` without the rest of `kontiki`: quick to build when only the store is worked on.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
enum Command {
    /// The store alone, in etcd's place
    Store(kontiki_etcd::Flags),
}

fn main() -> ExitCode {
    let Command::Store(flags) = Command::parse();
    match kontiki_etcd::run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("store: {error}");
            ExitCode::FAILURE
        }
    }
}
