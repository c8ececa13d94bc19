//! Real containers on real nodes.

use anyhow::{Context, Result, anyhow, ensure};

use super::{IMAGE, Scratch, has, shows};
use crate::{cluster::Cluster, wait};

/// A pod with one container that runs a shell script.
fn shell_pod(name: &str, script: &str, more: &str) -> String {
    let script = serde_json::Value::from(script);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {IMAGE}\n    \
         command: [/bin/busybox, sh, -c, {script}]\n{more}"
    )
}

async fn ready(s: &Scratch<'_>, pod: &str) -> Result<()> {
    s.kubectl(&format!("wait --for=condition=Ready pod/{pod} --timeout=180s")).await.map(drop)
}

async fn field(s: &Scratch<'_>, object: &str, path: &str) -> Result<String> {
    s.kubectl(&format!("get {object} -o jsonpath={{{path}}}")).await
}

/// Waits until a field of an object has a value that `good` accepts.
async fn becomes(s: &Scratch<'_>, object: &str, path: &str, good: impl Fn(&str) -> bool) -> Result<String> {
    wait::until(&format!("{object} {path}"), wait::PATIENCE, async || {
        let value = field(s, object, path).await?;
        if good(&value) { Ok(value) } else { Err(anyhow!("{value:?}")) }
    })
    .await
}

pub async fn logs_exec_and_attach_reach_the_container(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-logs").await?;
    let script = "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2; exec /bin/busybox sleep 3600";
    s.apply(&shell_pod("talker", script, "")).await?;
    ready(&s, "talker").await?;
    for line in ["line 5", "oops"] {
        shows("what it said", line, async || s.kubectl("logs talker").await).await?;
    }
    ensure!(s.kubectl("logs talker --tail=2").await?.lines().count() == 2);
    has(&s.kubectl("logs talker --timestamps --since=1h").await?, "Z line 1")?;
    let answer = s.kubectl_args(&["exec", "talker", "--", "/bin/busybox", "echo", "from inside"]).await?;
    ensure!(answer == "from inside\n", "{answer:?}");
    let args = ["-n", "story-logs", "exec", "-i", "talker", "--", "/bin/busybox", "cat"];
    let echoed = c.try_kubectl(&args, Some("through stdin\n")).await?;
    ensure!(echoed.out == "through stdin\n", "{:?} {:?}", echoed.out, echoed.err);
    let args = ["-n", "story-logs", "exec", "talker", "--", "/bin/busybox", "sh", "-c", "exit 7"];
    let failed = c.try_kubectl(&args, None).await?;
    has(&failed.err, "exit code 7")?;
    let args = ["-n", "story-logs", "exec", "nobody", "--", "true"];
    has(&c.try_kubectl(&args, None).await?.err, "\"nobody\" not found")?;
    // `script` gives kubectl a terminal.
    let typed = format!(
        "kubectl --kubeconfig {} -n story-logs exec -it talker -- /bin/busybox sh -c 'tty; stty size'",
        c.kubeconfig().display()
    );
    let output = tokio::process::Command::new("script").args(["-qec", &typed, "/dev/null"]).output().await?;
    has(&String::from_utf8_lossy(&output.stdout), "/dev/pts/")?;
    // A container that ends before anyone can attach still shows what it said.
    let run =
        ["-n", "story-logs", "run", "-i", "--rm", "--pod-running-timeout=180s", "--restart=Never", "--image", IMAGE];
    let args = [&run[..], &["brief", "--", "/bin/busybox", "echo", "said at once"]].concat();
    let brief = c.try_kubectl(&args, Some("")).await?;
    ensure!(brief.ok && brief.out.contains("said at once"), "{:?} {:?}", brief.out, brief.err);
    let args = [&run[..], &["reader", "--", "/bin/busybox", "cat"]].concat();
    let reader = c.try_kubectl(&args, Some("read from stdin\n")).await?;
    ensure!(reader.ok && reader.out.contains("read from stdin"), "{:?} {:?}", reader.out, reader.err);
    s.done().await
}

pub async fn a_failing_probe_keeps_traffic_away(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-probes").await?;
    let probe = "    readinessProbe:\n      exec: {command: [/bin/busybox, test, -e, /tmp/ready]}\n      \
                 periodSeconds: 1\n    startupProbe:\n      exec: {command: [/bin/busybox, 'true']}\n      periodSeconds: 1\n";
    let script = "/bin/busybox mkdir -p /tmp; exec /bin/busybox httpd -f -p 8080 -h /";
    s.apply(&shell_pod("web", script, probe)).await?;
    s.kubectl("expose pod web --port=80 --target-port=8080").await?;
    becomes(&s, "pod/web", ".status.containerStatuses[0].started", |v| v == "true").await?;
    let slices = "endpointslices -l kubernetes.io/service-name=web";
    becomes(&s, slices, ".items[0].endpoints[0].conditions.ready", |v| v == "false").await?;
    s.kubectl("exec web -- /bin/busybox touch /tmp/ready").await?;
    ready(&s, "web").await?;
    becomes(&s, slices, ".items[0].endpoints[0].conditions.ready", |v| v == "true").await?;
    becomes(&s, "endpoints/web", ".subsets[0].addresses[0].ip", |v| v.starts_with("10.244.")).await?;
    s.kubectl("exec web -- /bin/busybox rm /tmp/ready").await?;
    becomes(&s, slices, ".items[0].endpoints[0].conditions.ready", |v| v == "false").await?;
    let live =
        "    livenessProbe:\n      httpGet: {port: 8080, path: /}\n      periodSeconds: 1\n      failureThreshold: 2\n";
    s.apply(&shell_pod("stuck", "exec /bin/busybox sleep 3600", live)).await?;
    becomes(&s, "pod/stuck", ".status.containerStatuses[0].restartCount", |v| v.parse().unwrap_or(0) >= 1).await?;
    shows("why", "Liveness probe failed", async || s.kubectl("describe pod stuck").await).await?;
    s.done().await
}

pub async fn init_containers_run_in_order_and_a_crash_is_restarted(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-init").await?;
    let init = |name: &str| {
        format!(
            "  - name: {name}\n    image: {IMAGE}\n    command: [/bin/busybox, sh, -c, 'echo {name} >> /work/order']\n    \
             volumeMounts: [{{name: work, mountPath: /work}}]\n"
        )
    };
    let more = format!(
        "    volumeMounts: [{{name: work, mountPath: /work}}]\n  volumes: [{{name: work, emptyDir: {{}}}}]\n  initContainers:\n{}{}",
        init("first"),
        init("second")
    );
    s.apply(&shell_pod("ordered", "/bin/busybox cat /work/order; exec /bin/busybox sleep 3600", &more)).await?;
    ready(&s, "ordered").await?;
    let order = shows("both", "second\n", async || s.kubectl("logs ordered").await).await?;
    ensure!(order == "first\nsecond\n", "{order:?}");
    s.apply(&shell_pod("crash", "echo started; exit 3", "")).await?;
    becomes(&s, "pod/crash", ".status.containerStatuses[0].restartCount", |v| v.parse().unwrap_or(0) >= 1).await?;
    becomes(&s, "pod/crash", ".status.containerStatuses[0].lastState.terminated.exitCode", |v| v == "3").await?;
    wait::until("the back-off shows", wait::PATIENCE, async || {
        let table = s.kubectl("get pod crash").await?;
        if table.contains("CrashLoopBackOff") { Ok(()) } else { Err(anyhow!(table)) }
    })
    .await?;
    shows("what the last one said", "started", async || s.kubectl("logs crash -p").await).await?;
    let limit = "    resources: {limits: {memory: 32Mi}}\n  restartPolicy: Never\n";
    s.apply(&shell_pod("hungry", "/bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1", limit)).await?;
    becomes(&s, "pod/hungry", ".status.containerStatuses[0].state.terminated.reason", |v| v == "OOMKilled").await?;
    becomes(&s, "pod/hungry", ".status.phase", |v| v == "Failed").await?;
    s.apply(&shell_pod("once", "exit 0", "  restartPolicy: Never\n")).await?;
    becomes(&s, "pod/once", ".status.phase", |v| v == "Succeeded").await?;
    s.done().await
}

pub async fn configuration_reaches_the_container_and_follows_changes(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-config").await?;
    s.kubectl("create configmap app --from-literal=colour=blue").await?;
    s.kubectl("create secret generic key --from-literal=pin=1234").await?;
    let more = "    env:\n    - {name: PLAIN, value: 'p-$(POD)'}\n    \
                - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n    \
                - {name: COLOUR, valueFrom: {configMapKeyRef: {name: app, key: colour}}}\n    \
                - {name: PIN, valueFrom: {secretKeyRef: {name: key, key: pin}}}\n    \
                envFrom: [{prefix: C_, configMapRef: {name: app}}]\n    \
                volumeMounts:\n    - {name: app, mountPath: /etc/app}\n    - {name: key, mountPath: /etc/key}\n    \
                - {name: up, mountPath: /etc/up}\n  volumes:\n  - {name: app, configMap: {name: app}}\n  \
                - {name: key, secret: {secretName: key}}\n  \
                - {name: up, projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 3600}}]}}\n";
    s.apply(&shell_pod("reader", "/bin/busybox env; exec /bin/busybox sleep 3600", more)).await?;
    ready(&s, "reader").await?;
    for line in ["POD=reader", "COLOUR=blue", "PIN=1234", "C_colour=blue", "KUBERNETES_SERVICE_PORT=443"] {
        shows("its environment", line, async || s.kubectl("logs reader").await).await?;
    }
    ensure!(s.kubectl("exec reader -- /bin/busybox cat /etc/key/pin").await? == "1234");
    let token = s.kubectl("exec reader -- /bin/busybox cat /etc/up/token").await?;
    ensure!(token.split('.').count() == 3, "a signed token: {token}");
    s.kubectl_args(&["patch", "configmap", "app", "-p", r#"{"data":{"colour":"green"}}"#]).await?;
    wait::until("the mounted file follows", wait::PATIENCE, async || {
        let seen = s.kubectl("exec reader -- /bin/busybox cat /etc/app/colour").await?;
        if seen == "green" { Ok(()) } else { Err(anyhow!(seen)) }
    })
    .await?;
    s.done().await
}

pub async fn a_secret_reaches_only_the_node_that_needs_it(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-secret").await?;
    let mark = "c0ffee-only-here-c0ffee";
    s.kubectl(&format!("create secret generic mark --from-literal=value={mark}")).await?;
    let more = "    volumeMounts: [{name: mark, mountPath: /mark}]\n  volumes: [{name: mark, secret: {secretName: mark}}]\n  \
                nodeName: a1\n";
    s.apply(&shell_pod("holder", "exec /bin/busybox sleep 3600", more)).await?;
    ready(&s, "holder").await?;
    ensure!(s.kubectl("exec holder -- /bin/busybox cat /mark/value").await? == mark);
    let kind = s.kubectl("exec holder -- /bin/busybox stat -f -c %T /mark").await?;
    ensure!(kind.trim() == "tmpfs", "the secret lies in {kind}");
    for agent in ["a1", "a2"] {
        let dir = c.dir().join("agents").join(agent);
        // -xdev: what is on disk, not what is mounted as tmpfs below it.
        let found = tokio::process::Command::new("grep")
            .args(["-rlF", "--devices=skip", "--exclude-dir=containerd", mark])
            .arg(&dir)
            .output()
            .await?;
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        for path in found.lines() {
            let kind = tokio::process::Command::new("stat").args(["-f", "-c", "%T", path]).output().await?;
            let kind = String::from_utf8_lossy(&kind.stdout).trim().to_owned();
            ensure!(kind == "tmpfs", "{path} is on {kind}");
            ensure!(agent == "a1", "{agent} has no pod that names it, yet holds {path}");
        }
        let pid = c.pid("agents", agent)?;
        let held = memory_holds(pid.as_raw(), mark.as_bytes()).with_context(|| format!("memory of {agent}"))?;
        ensure!(agent == "a1" || !held, "the memory of {agent} holds the secret");
    }
    s.done().await
}

/// Whether any readable private memory of a process holds `needle`, plain or in base64.
fn memory_holds(pid: i32, needle: &[u8]) -> Result<bool> {
    use std::{fs, os::unix::fs::FileExt};
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    for line in maps.lines().filter(|line| line.contains("rw-p")) {
        let (from, to) = line.split_whitespace().next().and_then(|r| r.split_once('-')).context("a maps line")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        let Ok(read) = memory.read_at(&mut bytes, from) else { continue };
        if bytes[..read].windows(needle.len()).any(|window| window == needle) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub async fn services_answer_from_pods_and_hosts(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-service").await?;
    let serve =
        "/bin/busybox mkdir -p /www; echo $HOSTNAME > /www/index.html; exec /bin/busybox httpd -f -p 8080 -h /www";
    for node in ["a1", "a2"] {
        let pod = shell_pod(&format!("web-{node}"), serve, &format!("  nodeName: {node}\n"));
        s.apply(&pod.replace(&format!("app: web-{node}"), "app: web")).await?;
        s.apply(&shell_pod(
            &format!("client-{node}"),
            "exec /bin/busybox sleep 3600",
            &format!("  nodeName: {node}\n"),
        ))
        .await?;
    }
    for pod in ["web-a1", "web-a2", "client-a1", "client-a2"] {
        ready(&s, pod).await?;
    }
    s.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, selector: {app: web}, \
         ports: [{port: 80, targetPort: 8080}]}\n",
    )
    .await?;
    let ip = field(&s, "service/web", ".spec.clusterIP").await?;
    let port = field(&s, "service/web", ".spec.ports[0].nodePort").await?;
    let both = |answers: &str| answers.contains("web-a1") && answers.contains("web-a2");
    for client in ["client-a1", "client-a2"] {
        let script = format!(
            "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do /bin/busybox timeout 3 /bin/busybox wget -qO- http://{ip}/; done"
        );
        wait::until("both pods answer a pod", wait::PATIENCE, async || {
            let seen = s.kubectl_args(&["exec", client, "--", "/bin/busybox", "sh", "-c", &script]).await?;
            if both(&seen) { Ok(()) } else { Err(anyhow!(seen)) }
        })
        .await?;
        let peer = if client == "client-a1" { "web-a2" } else { "web-a1" };
        let peer_ip = field(&s, &format!("pod/{peer}"), ".status.podIP").await?;
        let direct = format!("/bin/busybox timeout 3 /bin/busybox wget -qO- http://{peer_ip}:8080/");
        let args = ["exec", client, "--", "/bin/busybox", "sh", "-c", &direct];
        shows("the other pod", peer, async || s.kubectl_args(&args).await).await?;
    }
    for node in ["a1", "a2"] {
        let host = c.kubectl(&format!("get node {node} -o jsonpath={{.status.addresses[0].address}}")).await?;
        wait::until("both pods answer the node port", wait::PATIENCE, async || {
            let mut seen = String::new();
            for _ in 0..12 {
                let url = format!("http://{host}:{port}/");
                let mut wget = tokio::process::Command::new("busybox");
                let answer = wget.args(["timeout", "3", "busybox", "wget", "-qO-", &url]).output().await?;
                seen += &String::from_utf8_lossy(&answer.stdout);
            }
            if both(&seen) { Ok(()) } else { Err(anyhow!(seen)) }
        })
        .await?;
        let (url, wget) = (format!("http://{ip}/"), ["busybox", "timeout", "3", "busybox", "wget", "-qO-"]);
        let wget = [&wget[..], &[&*url]].concat();
        shows("a pod answers the node", "web-", async || c.inside(node, &wget).await).await?;
    }
    s.done().await
}

pub async fn owners_take_their_dependents_along(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-owners").await?;
    for (cascade, rest) in [("background", 0), ("foreground", 0), ("orphan", 1)] {
        s.sleepers("web", 1).await?;
        s.kubectl(&format!("delete deployment web --cascade={cascade} --timeout=180s")).await?;
        wait::until(&format!("{cascade} deletion ends"), wait::PATIENCE, async || {
            let sets = s.kubectl("get replicasets -o name").await?;
            let pods = s.kubectl("get pods -o name").await?;
            if sets.lines().count() == rest && pods.lines().count() == rest {
                Ok(())
            } else {
                Err(anyhow!("{sets}{pods}"))
            }
        })
        .await?;
    }
    s.done().await
}
