//! What the command line refuses, before anything is started.

use std::process::Command;

#[test]
fn what_does_not_exist_is_refused_with_what_does() {
    let cases: &[(&[&str], &str)] = &[
        (&["compare", "--only", "delete"], "no name holds \"delete\"; there are LIST of all Pods, 1 client, "),
        (&["compare", "--only", "GET", "--only", "delete"], "no name holds \"delete\""),
        (&["compare", "--stores", "etcd"], "known are kube-apiserver, kontiki (three masters"),
        (&["controllers", "--only", "Pots"], "no name holds \"Pots\"; there are Deployment of 10000 Pods, "),
        (&["controllers", "--quick", "--only", "Pots"], "there are Deployment of 1000 Pods, 100 Jobs of 10 Pods, "),
    ];
    for (args, reason) in cases {
        let mut command = Command::new(env!("CARGO_BIN_EXE_api-load"));
        let ended = command.args(*args).output().expect("the program starts");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && said.contains(reason), "{args:?}: {said}");
    }
}
