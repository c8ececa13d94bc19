//! Every verb of kubectl, of the release that is installed or that `$KONTIKI_KUBECTL` names.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{IMAGE, Scratch, has};
use crate::cluster::Cluster;

/// What is typed, split at blanks, how it ends, and what is said then. `IMAGE` stands for the image of all nodes.
struct Step(Exit, &'static str, &'static str);

/// How a command ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Exit {
    Good,
    /// With an exit code other than zero.
    Bad,
}
use Exit::{Bad, Good};

/// What the commands read that have `-f -`, by the word behind it.
const FILES: &[(&str, &str)] = &[
    ("map", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '1'}\n"),
    ("changed-map", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '2'}\n"),
    ("typo", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: typo}\ndatum: {a: '2'}\n"),
    (
        "list",
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: first}}\n\
         - {apiVersion: v1, kind: ConfigMap, metadata: {name: second}}\n",
    ),
    (
        "role",
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reconciled, namespace: story-verbs}\n\
         rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n",
    ),
    (
        "requests",
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: story-good}\n\
         spec: {signerName: example.com/story, usages: [client auth], request: CSR}\n---\n\
         apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: story-bad}\n\
         spec: {signerName: example.com/story, usages: [client auth], request: CSR}\n",
    ),
];
/// A request for a certificate of O=people, CN=jane.
const CSR: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIY01JR0NBZ0VBTUNBeER6QU5CZ05WQkFvTUJuQmxiM0JzWlRFTk1Bc0dBMVVFQXd3RWFtRnVaVEJaTUJNRwpCeXFHU000OUFnRUdDQ3FHU000OUF3RUhBMElBQk81OEFGYnpUbW02ZTJXSWwzL2tjM1VsM0xMN3plN3ZoOGFxCi9Pakg4cHBpaDNMNU5WeVNCU05JMFBMUW1zRnpNZ3VCb1cyVW5MUkU5S1ZDNnJSdmZlT2dBREFLQmdncWhrak8KUFFRREFnTkpBREJHQWlFQWtkSkxsS3NPQitmMS94U1N4eEEzUEFpdXJkQzhUY0Z6Y3J6VGJrbHpoS3NDSVFDcworcFVXZ3VaTmxOZWZ2QVVhTGZHU2M5b3VvcUJ3NVNSeHVEVWJrSjFUbGc9PQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

/// In an order in which each finds what it needs.
const STEPS: &[Step] = &[
    // What there is.
    Step(Good, "version -o json", "\"serverVersion\""),
    Step(Good, "cluster-info", "is running at"),
    Step(Good, "cluster-info dump --namespaces story-verbs", "NodeList"),
    Step(Good, "api-versions", "flowcontrol.apiserver.k8s.io/v1"),
    Step(Good, "api-resources --verbs=list -o name", "componentstatuses"),
    Step(Good, "api-resources --namespaced=false --api-group=storage.k8s.io", "storageclasses"),
    Step(Good, "get componentstatuses", "etcd-0"),
    Step(Good, "get cs scheduler -o jsonpath={.conditions[0].status}", "True"),
    Step(Good, "get --raw /readyz?verbose", "readyz check passed"),
    Step(Bad, "get --raw /nowhere", "NotFound"),
    Step(Good, "explain pods --recursive", "ephemeralContainers"),
    Step(Good, "explain hpa.spec --api-version=autoscaling/v1", "targetCPUUtilizationPercentage"),
    Step(Bad, "explain pods.nothing", "field \"nothing\" does not exist"),
    Step(Bad, "get rafts", "doesn't have a resource type \"rafts\""),
    Step(Bad, "get pods nobody", "pods \"nobody\" not found"),
    Step(Good, "get pods nobody --ignore-not-found", ""),
    Step(Good, "config view", "clusters:"),
    // Making things.
    Step(Good, "create configmap made --from-literal=a=1", "created"),
    Step(Bad, "create configmap made", "already exists"),
    Step(Good, "create secret generic made --from-literal=a=1", "created"),
    Step(
        Good,
        "create secret docker-registry pull --docker-server=x --docker-username=u --docker-password=p",
        "created",
    ),
    Step(Good, "create serviceaccount robot", "created"),
    Step(Good, "create token robot --duration=10m", "."),
    Step(Bad, "create token nobody", "\"nobody\" not found"),
    Step(Good, "create role reader --verb=get,list --resource=pods,configmaps", "created"),
    Step(Good, "create rolebinding readers --role=reader --serviceaccount=story-verbs:robot", "created"),
    Step(Good, "create clusterrole story-verbs --verb=get --non-resource-url=/metrics", "created"),
    Step(Good, "create clusterrolebinding story-verbs --clusterrole=story-verbs --user=jane", "created"),
    Step(Good, "create quota many --hard=pods=50", "created"),
    Step(Good, "create poddisruptionbudget one --selector=app=web --min-available=1", "created"),
    Step(Good, "create priorityclass story-verbs --value=10", "created"),
    Step(Good, "create ingress front --rule=a.test/x*=web:80", "created"),
    Step(Good, "create service clusterip inside --tcp=80", "created"),
    Step(Good, "create service nodeport outside --tcp=80", "created"),
    Step(Good, "create service externalname elsewhere --external-name=a.test", "created"),
    Step(Good, "create namespace story-verbs-too --dry-run=server", "created (server dry run)"),
    Step(Good, "create deployment web --image=IMAGE --replicas=1 --port=80 -- /bin/busybox sleep 3600", "created"),
    Step(Good, "create cronjob tick --image=IMAGE --schedule=@yearly -- /bin/busybox true", "created"),
    Step(Good, "create job once --from=cronjob/tick", "created"),
    Step(
        Good,
        "run lone --image=IMAGE --overrides={\"spec\":{\"nodeName\":\"a1\"}} -- \
         /bin/busybox sh -c while+true;do+echo+tick;/bin/busybox+sleep+1;done",
        "created",
    ),
    Step(Bad, "run Lone --image=IMAGE", "Invalid value"),
    // Changing them.
    Step(Good, "apply -f - map", "created"),
    Step(Good, "apply -f - map", "unchanged"),
    Step(Good, "diff -f - map", ""),
    Step(Bad, "diff -f - changed-map", "+  a: \"2\""),
    Step(Good, "apply -f - changed-map", "configured"),
    Step(Good, "apply -f - list", "configmap/second created"),
    Step(Bad, "apply -f - typo", "unknown field \"datum\""),
    Step(Good, "apply view-last-applied configmap/applied", "a: \"2\""),
    Step(Good, "apply set-last-applied --create-annotation=true -f - map", "configured"),
    Step(Good, "apply --server-side --force-conflicts -f - map", "serverside-applied"),
    Step(Bad, "apply --server-side --field-manager=other -f - changed-map", "conflict with \"kubectl\""),
    Step(Good, "apply --server-side --field-manager=other --force-conflicts -f - changed-map", "serverside-applied"),
    Step(Good, "replace -f - map", "replaced"),
    Step(Good, "replace --force -f - map", "replaced"),
    Step(Good, "label configmap applied tier=web", "labeled"),
    Step(Bad, "label configmap applied tier=back", "already has a value"),
    Step(Good, "label configmap applied tier-", "unlabeled"),
    Step(Good, "annotate configmap applied note=hello", "annotated"),
    Step(Good, "patch configmap applied -p {\"data\":{\"b\":\"3\"}}", "patched"),
    Step(Good, "patch configmap applied --type=merge -p {\"data\":{\"b\":null}} --dry-run=server", "patched"),
    Step(Good, "patch configmap applied --type=json -p [{\"op\":\"remove\",\"path\":\"/data/b\"}]", "patched"),
    Step(
        Bad,
        "patch configmap applied --type=json -p [{\"op\":\"remove\",\"path\":\"/data/b\"}]",
        "rejected our request",
    ),
    Step(Good, "patch deployment web --subresource=scale -p {\"spec\":{\"replicas\":2}}", "patched"),
    Step(Good, "scale deployment web --current-replicas=2 --replicas=1", "scaled"),
    Step(Bad, "scale deployment web --current-replicas=9 --replicas=1", "Expected replicas"),
    Step(Good, "autoscale deployment web --min=1 --max=2", "autoscaled"),
    Step(Good, "delete hpa web", "deleted"),
    Step(Good, "expose deployment web --port=80", "exposed"),
    Step(Good, "rollout status deployment/web --timeout=90s", "successfully rolled out"),
    Step(Good, "set env deployment/web A=1", "env updated"),
    Step(Good, "set resources deployment/web --requests=cpu=1m", "resource requirements updated"),
    Step(Good, "set serviceaccount deployment/web robot", "serviceaccount updated"),
    Step(Good, "set image deployment/web *=IMAGE", ""),
    Step(Good, "set selector service/inside app=web", "selector updated"),
    Step(Good, "set subject rolebinding readers --user=jane", "subjects updated"),
    Step(Good, "rollout history deployment/web", "REVISION"),
    Step(Good, "rollout pause deployment/web", "paused"),
    Step(Bad, "rollout pause deployment/web", "already paused"),
    Step(Good, "rollout resume deployment/web", "resumed"),
    Step(Good, "rollout restart deployment/web", "restarted"),
    Step(Good, "rollout undo deployment/web", "rolled back"),
    Step(Good, "rollout status deployment/web --timeout=90s", "successfully rolled out"),
    // Looking inside.
    Step(Good, "wait --for=condition=Ready pod/lone --timeout=60s", "condition met"),
    Step(Bad, "wait --for=delete pod/lone --timeout=1s", "timed out"),
    Step(Good, "wait --for=condition=Complete job/once --timeout=60s", "condition met"),
    Step(Good, "get pods -o wide --show-labels", "run=lone"),
    Step(Good, "get all", "deployment.apps/web"),
    Step(Good, "get pods --sort-by=.metadata.name -o custom-columns=N:.metadata.name", "lone"),
    Step(Good, "get pods --chunk-size=1 -o name", "pod/lone"),
    Step(Good, "describe pod lone", "Started"),
    Step(Good, "describe deployment web", "ScalingReplicaSet"),
    Step(Good, "describe quota many", "50"),
    Step(Bad, "describe pod nobody", "not found"),
    Step(Good, "logs lone --tail=1", "tick"),
    Step(Good, "logs -l run=lone --limit-bytes=4", "tick"),
    Step(Bad, "logs nobody", "not found"),
    Step(Good, "exec lone -- /bin/busybox echo inside", "inside"),
    Step(Bad, "exec lone -- /bin/busybox false", "exit code 1"),
    Step(Good, "events", "Started"),
    Step(Good, "events --for pod/lone", "Created"),
    Step(Good, "debug lone --image=IMAGE -c looks --profile=general -- /bin/busybox true", ""),
    Step(Good, "get pod lone -o jsonpath={.spec.ephemeralContainers[0].name}", "looks"),
    Step(Good, "debug node/a1 --image=IMAGE --profile=general -- /bin/busybox true", "Creating debugging pod"),
    Step(Good, "top node", "MEMORY"),
    Step(Good, "top pod lone", "lone"),
    // Access.
    Step(Good, "auth whoami", "system:masters"),
    Step(Good, "auth can-i --list", "selfsubjectreviews.authentication.k8s.io"),
    Step(Good, "auth can-i get pods --as=jane", "yes"),
    Step(Bad, "auth can-i delete pods --as=jane", "no"),
    Step(Bad, "get secrets --as=jane", "cannot list resource \"secrets\""),
    Step(Good, "auth reconcile -f - role", "reconciled"),
    Step(Good, "apply -f - requests", "created"),
    Step(Good, "certificate approve story-good", "approved"),
    Step(Good, "certificate deny story-bad", "denied"),
    Step(Good, "get csr story-good story-bad", "Denied"),
    // Nodes.
    Step(Good, "cordon a2", "cordoned"),
    Step(Good, "uncordon a2", "uncordoned"),
    Step(Good, "taint node a2 story=verbs:PreferNoSchedule", "tainted"),
    Step(Good, "taint node a2 story-", "untainted"),
    Step(Bad, "drain a1 --dry-run=server", "cannot delete"),
    // It would have to wait for that.
    Step(Good, "delete poddisruptionbudget one", "deleted"),
    Step(Good, "drain a1 --dry-run=server --force --ignore-daemonsets --delete-emptydir-data", "drained"),
    // And away with it.
    Step(Good, "delete pod lone --grace-period=0 --force", "force deleted"),
    Step(Good, "delete deployment,service --all", "deleted"),
    Step(Bad, "delete configmap nobody", "not found"),
    Step(Good, "delete csr story-good story-bad", "deleted"),
    Step(Good, "delete clusterrole,clusterrolebinding,priorityclass story-verbs", "deleted"),
];

pub async fn every_verb_of_kubectl_ends_as_expected(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-verbs").await?;
    let mut wrong = Vec::new();
    for Step(exit, typed, says) in STEPS {
        let mut words: Vec<String> = typed.split_whitespace().map(|word| word.replace("IMAGE", IMAGE)).collect();
        // What a shell would be given as one word.
        let script = words.iter_mut().filter(|word| word.starts_with("while+"));
        script.for_each(|word| *word = word.replace('+', " "));
        let read = words.iter().any(|word| word == "-f").then(|| words.pop()).flatten();
        let file = read.map(|name| file(&name)).transpose()?;
        let args: Vec<&str> = ["-n", s.name].into_iter().chain(words.iter().map(String::as_str)).collect();
        let ended = c.try_kubectl(&args, file.as_deref()).await.context(*typed)?;
        let said = format!("{}{}", ended.out, ended.err);
        if ended.ok != (*exit == Good) || !said.contains(says) {
            wrong.push(format!("kubectl {typed}: {exit:?} and {says:?} expected:\n{said}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let untouched = c.edit("-n story-verbs configmap applied", "true").await?;
    ensure!(untouched.is_empty(), "nothing was edited: {untouched}");
    println!("      {} commands; {}", STEPS.len(), c.kubectl("version").await?.lines().next().unwrap_or_default());
    s.done().await
}

fn file(name: &str) -> Result<String> {
    let found = FILES.iter().find(|(known, _)| *known == name);
    Ok(found.with_context(|| format!("no file {name}"))?.1.replace("CSR", CSR))
}

pub async fn proxies_and_forwarded_ports_carry_requests(c: &Cluster) -> Result<()> {
    let s = Scratch::new(c, "story-proxies").await?;
    let serve = "/bin/busybox mkdir -p /tmp/www; echo hello >/tmp/www/index.html; exec /bin/busybox httpd -f -p 8080 -h /tmp/www";
    s.kubectl_args(&["run", "web", "--image", IMAGE, "--port=8080", "--", "/bin/busybox", "sh", "-c", serve]).await?;
    s.kubectl("wait --for=condition=Ready pod/web --timeout=60s").await?;
    let mut proxy = c.follow("proxy --port=0")?;
    let line = proxy.line_with("Starting to serve on ").await?;
    let address = line.rsplit(' ').next().context("an address")?.trim();
    has(&get(address, "/version").await?, "gitVersion")?;
    has(&get(address, "/api/v1/namespaces/story-proxies/pods/web:8080/proxy/").await?, "hello")?;
    let mut forward = c.follow("-n story-proxies port-forward pod/web :8080")?;
    let line = forward.line_with("Forwarding from 127.0.0.1:").await?;
    let port = line.split([':', ' ']).nth(3).context("a port")?;
    has(&get(&format!("127.0.0.1:{port}"), "/").await?, "hello")?;
    s.done().await
}

/// The answer to a GET, head included.
async fn get(address: &str, path: &str) -> Result<String> {
    let whole = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    timeout(Duration::from_secs(20), whole).await.with_context(|| format!("GET {address}{path}"))?
}
