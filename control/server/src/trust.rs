//! Files that say whom the API believes and who decides what may be done: read at the start, followed while the server runs.
//!
//! Invariants
//! - A file is used as a whole. One that cannot be used ends a server that starts; one that comes later is left alone, the
//!   log and the metrics say so, and what was before goes on.
//! - What is the cluster's own (certificates, ServiceAccount tokens, Node, RBAC) needs nothing of this.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kontiki_api::{
    Api, Proxies, RemoteHeaders,
    issuers::{Issuers, Pace},
};
use kontiki_kinds::{
    authentication::{self, Webhook},
    authorize::{BuiltIn, Chain, Surroundings},
};
use kontiki_machinery::{
    access::Member,
    authentication::{Anonymous, Tokens},
    outcall::Caller,
};
use kontiki_model::metrics::{Kind, heading, sample};
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{api_options::ApiOptions, kubeconfig, pki::Pki, tls};

/// How often a file is looked at.
const EVERY: Duration = Duration::from_secs(2);
/// How long the keys of new issuers are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whom the API believes, and who decides.
pub(crate) struct Trust {
    pub tokens: Vec<Arc<dyn Tokens>>,
    pub anonymous: Anonymous,
    pub authorizers: Vec<Member>,
    pub followed: Vec<Followed>,
}

/// A file that is followed, and what it is for.
pub(crate) struct Followed {
    path: PathBuf,
    /// What is in force, or was found to be no good.
    text: Vec<u8>,
    stamp: Option<Stamp>,
    what: What,
    figures: Arc<Figures>,
}

/// By which a change of a file is noticed.
type Stamp = (u64, i64, i64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
}

enum What {
    Authentication { issuers: Arc<Issuers>, own: String, anonymous: Option<Anonymous> },
    Authorization { built_in: BuiltIn, caller: Arc<dyn Caller>, before: BTreeSet<&'static str> },
}

/// Puts another chain of authorizers in force.
type Replace<'a> = &'a (dyn Fn(Vec<Member>) + Send + Sync);

/// Why a file is not used.
enum Refused {
    /// It never will be, as it is.
    Wrong(String),
    /// Not now.
    Later(String),
}

/// What the options say. `own`: the issuer of ServiceAccount tokens; `server`: this server's name.
///
/// # Errors
/// The first file that cannot be used, and why; in one line.
pub(crate) fn open(options: &ApiOptions, own: &str, server: &str, caller: &Arc<dyn Caller>) -> anyhow::Result<Trust> {
    let built_in = BuiltIn::default();
    let mut trust = Trust {
        tokens: Vec::new(),
        anonymous: Anonymous::default(),
        authorizers: built_in.chain(),
        followed: Vec::new(),
    };
    if let Some(path) = &options.authentication_config {
        let failed = |why: String| anyhow::anyhow!("api.authentication_config: {}: {why}", path.display());
        let (text, stamp) = read(path).map_err(failed)?;
        let read = authentication::read(&text, &[own]).map_err(failed)?;
        let issuers = Issuers::new(read.issuers, Pace::default()).map_err(failed)?;
        trust.tokens.push(issuers.clone());
        trust.anonymous = read.anonymous.clone().unwrap_or_default();
        let what = What::Authentication { issuers, own: own.to_owned(), anonymous: read.anonymous };
        trust.followed.push(Followed::new(path, (text, stamp), what, "authentication", server));
    }
    if let Some(path) = &options.authentication_token_webhook_config_file {
        let failed = |why: String| anyhow::anyhow!("api.authentication_token_webhook_config_file: {why}");
        let target = kubeconfig::target(path).map_err(failed)?;
        let time = Duration::from_secs(options.authentication_token_webhook_cache_ttl);
        let version = options.authentication_token_webhook_version.as_str();
        trust.tokens.push(Arc::new(Webhook::new(Arc::clone(caller), target, version, time)));
    }
    if let Some(path) = &options.authorization_config {
        let failed = |why: String| anyhow::anyhow!("api.authorization_config: {}: {why}", path.display());
        let (text, stamp) = read(path).map_err(failed)?;
        let chain = chain(&built_in, &text, None, caller).map_err(failed)?;
        trust.authorizers = chain.members;
        let what = What::Authorization { built_in, caller: Arc::clone(caller), before: chain.types };
        trust.followed.push(Followed::new(path, (text, stamp), what, "authorization", server));
    }
    Ok(trust)
}

/// The authorities of proxies in front of the API.
///
/// # Errors
/// Their file cannot be used; in one line.
pub(crate) fn proxy_authorities(options: &ApiOptions, pki: &Pki) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let Some(path) = &options.requestheader_client_ca_file else { return Ok(Vec::new()) };
    let failed = |why: &str| anyhow::anyhow!("api.requestheader_client_ca_file: {}: {why}", path.display());
    let text = fs::read(path).map_err(|why| failed(&why.to_string()))?;
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
    if found.is_empty() {
        return Err(failed("there are no certificates in it"));
    }
    // Else whoever has a certificate of the cluster could ask for anybody.
    if found.contains(pki.ca_der()) {
        return Err(failed("it must not hold the cluster's own CA"));
    }
    Ok(found)
}

/// Who may ask for others.
///
/// # Errors
/// As [`proxy_authorities`].
pub(crate) fn proxies(options: &ApiOptions, pki: &Pki) -> anyhow::Result<Option<Proxies>> {
    let theirs = proxy_authorities(options, pki)?;
    if theirs.is_empty() {
        return Ok(None);
    }
    let small = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
    let headers = RemoteHeaders {
        user: small(&options.requestheader_username_headers),
        uid: small(&options.requestheader_uid_headers),
        groups: small(&options.requestheader_group_headers),
        extra: small(&options.requestheader_extra_headers_prefix),
    };
    Ok(Some(Proxies {
        own: tls::verifier(std::slice::from_ref(pki.ca_der()))?,
        theirs: tls::verifier(&theirs)?,
        names: options.requestheader_allowed_names.clone(),
        headers,
    }))
}

/// A file, and its stamp from before it was read.
fn read(path: &Path) -> Result<(Vec<u8>, Option<Stamp>), String> {
    let stamp = stamp(path);
    fs::read(path).map(|text| (text, stamp)).map_err(|why| why.to_string())
}

fn chain(
    built_in: &BuiltIn,
    text: &[u8],
    before: Option<&BTreeSet<&'static str>>,
    caller: &Arc<dyn Caller>,
) -> Result<Chain, String> {
    let look = |name: &str| match fs::metadata(name) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err("must be a regular file".to_owned()),
        Err(why) => Err(format!("error loading file: {why}")),
    };
    let target = |name: &str| kubeconfig::target(Path::new(name));
    built_in.configured(text, before, &Surroundings { caller: Arc::clone(caller), look: &look, target: &target })
}

impl What {
    async fn apply(&self, text: &[u8], authorize: Replace<'_>) -> Result<(), Refused> {
        match self {
            Self::Authentication { issuers, own, anonymous } => {
                let read = authentication::read(text, &[own.as_str()]).map_err(Refused::Wrong)?;
                if read.anonymous != *anonymous {
                    let why = "anonymous: Forbidden: changed from initial configuration file";
                    return Err(Refused::Wrong(why.to_owned()));
                }
                issuers.replace(read.issuers, PATIENCE).await.map_err(Refused::Later)
            }
            Self::Authorization { built_in, caller, before } => {
                let chain = chain(built_in, text, Some(before), caller).map_err(Refused::Wrong)?;
                authorize(chain.members);
                Ok(())
            }
        }
    }
}

impl Followed {
    fn new(
        path: &Path,
        (text, stamp): (Vec<u8>, Option<Stamp>),
        what: What,
        subsystem: &'static str,
        server: &str,
    ) -> Self {
        let figures = Arc::new(Figures::new(subsystem, server, &text));
        Self { path: path.to_owned(), text, stamp, what, figures }
    }

    /// Writes the series.
    pub fn metrics(&self) -> kontiki_api::MetricsSource {
        let figures = Arc::clone(&self.figures);
        Arc::new(move |out| figures.write(out))
    }

    /// What the series are about.
    pub fn name(&self) -> &'static str {
        self.figures.subsystem
    }

    /// Uses the file whenever it changes, until `stop`.
    pub async fn follow(mut self, api: Api, stop: CancellationToken) {
        let authorize = |members: Vec<Member>| api.replace_authorizers(members);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // A dropped timer loses nothing: the file is looked at anew each time.
                () = tokio::time::sleep(EVERY) => {}
            }
            let seen = stamp(&self.path);
            if seen.is_some() && seen == self.stamp {
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                // Dropped, it has changed nothing, or all.
                () = self.look(&authorize) => {}
            }
        }
    }

    async fn look(&mut self, authorize: Replace<'_>) {
        let subsystem = self.figures.subsystem;
        let (text, stamp) = match read(&self.path) {
            Ok(read) => read,
            Err(error) => return self.failed(&error),
        };
        if text == self.text {
            self.stamp = stamp;
            return;
        }
        match self.what.apply(&text, authorize).await {
            Ok(()) => {
                info!(file = %self.path.display(), "reloaded {subsystem} config");
                self.figures.succeeded(&text);
                (self.text, self.stamp) = (text, stamp);
            }
            Err(Refused::Wrong(why)) => {
                self.failed(&why);
                (self.text, self.stamp) = (text, stamp);
            }
            Err(Refused::Later(why)) => self.failed(&why),
        }
    }

    fn failed(&self, error: &str) {
        let subsystem = self.figures.subsystem;
        error!(file = %self.path.display(), error, "failed to reload {subsystem} config; what was before goes on");
        self.figures.failed();
    }
}

/// How reloading went, under upstream's names.
struct Figures {
    subsystem: &'static str,
    server: String,
    counted: Mutex<Counted>,
}

#[derive(Default)]
struct Counted {
    /// How often, and when last: of success, of failure.
    ends: [(u64, Option<Timestamp>); 2],
    /// Of the file that is in force.
    hash: String,
}

fn hash(data: &[u8]) -> String {
    let digest: String = Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digest}")
}

impl Figures {
    fn new(subsystem: &'static str, server: &str, text: &[u8]) -> Self {
        let counted = Mutex::new(Counted { hash: hash(text), ..Counted::default() });
        Self { subsystem, server: hash(server.as_bytes()), counted }
    }

    fn succeeded(&self, text: &[u8]) {
        let mut counted = self.counted.lock();
        counted.ends[0] = (counted.ends[0].0 + 1, Some(Timestamp::now()));
        counted.hash = hash(text);
    }

    fn failed(&self) {
        let mut counted = self.counted.lock();
        counted.ends[1] = (counted.ends[1].0 + 1, Some(Timestamp::now()));
    }

    fn write(&self, out: &mut String) {
        let counted = self.counted.lock();
        let prefix = format!("apiserver_{}_config_controller", self.subsystem);
        let ends = || ["success", "failure"].into_iter().zip(&counted.ends).filter(|(_, (count, _))| *count > 0);
        let name = format!("{prefix}_automatic_reloads_total");
        heading(out, &name, Kind::Counter, "Reloads of the configuration file by how they ended.");
        for (status, (count, _)) in ends() {
            sample(out, &name, &[("status", status), ("apiserver_id_hash", &self.server)], count);
        }
        let name = format!("{prefix}_automatic_reload_last_timestamp_seconds");
        heading(out, &name, Kind::Gauge, "When the configuration file was reloaded last, by how that ended.");
        for (status, (_, last)) in ends() {
            let second = last.unwrap_or_default().as_second();
            sample(out, &name, &[("status", status), ("apiserver_id_hash", &self.server)], second);
        }
        let name = format!("{prefix}_last_config_info");
        heading(out, &name, Kind::Gauge, "The configuration file that is in force.");
        sample(out, &name, &[("apiserver_id_hash", &self.server), ("hash", &counted.hash)], 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kontiki_machinery::{
        admission::Waiting,
        outcall::{Patience, Target},
    };

    use super::*;

    /// Calls nobody.
    struct Nobody;

    impl Caller for Nobody {
        fn post<'a>(&'a self, _: &'a Target, _: Vec<u8>, _: Patience) -> Waiting<'a, Result<Vec<u8>, String>> {
            Box::pin(std::future::ready(Err("nobody is called".to_owned())))
        }

        fn uid(&self) -> String {
            String::new()
        }
    }

    /// Changes the file and looks at it: how many authorizers are put in force, and how often all went well and did not.
    async fn changed(file: &mut Followed, text: &str) -> (Option<usize>, [u64; 2]) {
        fs::write(&file.path, text).expect("written");
        let count = AtomicUsize::new(usize::MAX);
        file.look(&|members| count.store(members.len(), Ordering::Relaxed)).await;
        let ends = file.figures.counted.lock().ends;
        let count = count.into_inner();
        (Some(count).filter(|count| *count != usize::MAX), ends.map(|(count, _)| count))
    }

    #[tokio::test]
    async fn a_bad_file_ends_a_start_and_changes_nothing_later() {
        let dir = tempfile::tempdir().expect("a directory");
        let (tokens, permissions) = (dir.path().join("authentication.yaml"), dir.path().join("authorization.yaml"));
        let head = |kind: &str| format!("apiVersion: apiserver.config.k8s.io/v1\nkind: {kind}\n");
        let said = |rest: &str| format!("{}{rest}\n", head("AuthenticationConfiguration"));
        let asked = |rest: &str| format!("{}authorizers: {rest}\n", head("AuthorizationConfiguration"));
        let caller: Arc<dyn Caller> = Arc::new(Nobody);
        let options = ApiOptions {
            authentication_config: Some(tokens.clone()),
            authorization_config: Some(permissions.clone()),
            ..ApiOptions::default()
        };
        let open = || open(&options, "https://own", "s1", &caller);
        let both = "[{type: Node, name: node}, {type: RBAC, name: rbac}]";
        fs::write(&permissions, asked(both)).expect("written");
        for (text, expect) in [
            (None, "authentication.yaml: No such file"),
            (Some(said("jwt: [{}]")), "jwt[0].issuer.url: Required value, jwt[0].issuer.audiences: Required value"),
            (Some(said("jwt: [{issuer: {url: 'https://own', audiences: [a]}}]")), "disallowed issuers: [https://own]"),
        ] {
            text.iter().for_each(|text| fs::write(&tokens, text).expect("written"));
            let why = open().err().map(|why| format!("{why:#}")).unwrap_or_default();
            assert!(why.starts_with("api.authentication_config: ") && why.contains(expect), "{why}");
            assert!(!why.contains('\n'), "{why}");
        }
        fs::write(&tokens, said("anonymous: {enabled: true, conditions: [{path: /livez}]}")).expect("written");
        let mut trust = open().expect("good files");
        assert_eq!((trust.tokens.len(), trust.authorizers.len()), (1, 2));
        assert!(!trust.anonymous.admits("/api"));
        let mut permissions = trust.followed.pop().expect("two files");
        let mut tokens = trust.followed.pop().expect("two files");
        assert_eq!((tokens.name(), permissions.name()), ("authentication", "authorization"));
        let anonymous = "anonymous: {enabled: true, conditions: [{path: /livez}]}";
        for (text, ends) in [
            (said(anonymous), [0, 0]),
            (said(&format!("{anonymous}\njwt: [{{}}]")), [0, 1]),
            (said(&format!("{anonymous}\njwt: []")), [1, 1]),
            (said("anonymous: {enabled: false}"), [1, 2]),
        ] {
            assert_eq!(changed(&mut tokens, &text).await, (None, ends), "{text}");
        }
        let always = "{type: AlwaysAllow, name: alwaysallow}";
        for (text, count, ends) in [
            (asked(both), None, [0, 0]),
            (asked(&both.replace(']', &format!(", {always}]"))), Some(3), [1, 0]),
            (asked(&format!("[{always}]")), None, [1, 1]),
            (asked("[{type: RBAC, name: rbac}, {type: Node, name: node}]"), Some(2), [2, 1]),
        ] {
            assert_eq!(changed(&mut permissions, &text).await, (count, ends), "{text}");
        }
        // Gone for a moment.
        fs::remove_file(&permissions.path).expect("removed");
        permissions.look(&|_| {}).await;
        assert_eq!(permissions.figures.counted.lock().ends[1].0, 2);
    }

    #[test]
    fn reloads_are_counted_under_upstreams_names() {
        let figures = Figures::new("authentication", "s1", b"a");
        figures.failed();
        let mut out = String::new();
        figures.write(&mut out);
        let (server, hash) = (hash(b"s1"), hash(b"a"));
        let prefix = "apiserver_authentication_config_controller";
        for line in [
            format!("{prefix}_automatic_reloads_total{{status=\"failure\",apiserver_id_hash=\"{server}\"}} 1"),
            format!("{prefix}_last_config_info{{apiserver_id_hash=\"{server}\",hash=\"{hash}\"}} 1"),
        ] {
            assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
        }
        assert!(!out.contains("status=\"success\""), "{out}");
    }
}
