//! ServiceAccount tokens: JSON web tokens signed with the cluster's key, as upstream's are.
//!
//! A token is only as good as what it is bound to: the ServiceAccount, and the pod, Secret or node if it
//! is bound to one, must exist with the same uid.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Header, Validation};
use kontiki_machinery::authentication::{Authenticated, Presented};
use kontiki_machinery::status::aggregate;
use kontiki_model::resource::{NODES, PODS, SECRETS, SERVICE_ACCOUNTS};
use kontiki_model::{GroupResource, ObjectKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::auth::identity::{AUTHENTICATED, account_groups, vouched_for};
use crate::deadline::within;
use crate::object::{self, meta_str};
use crate::{Api, Status, User, clock};

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    private: Private,
    nbf: i64,
    sub: String,
}

#[derive(Serialize, Deserialize)]
struct Private {
    namespace: String,
    serviceaccount: Named,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Named>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Named>,
    /// What the token is bound to, or where its pod is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Named>,
    /// When a token that lives longer than was asked for should have been renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    warnafter: Option<i64>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Named {
    pub name: String,
    /// Empty for the node of a pod that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

impl Claims {
    /// Whether the token is good at `now`; the words are the library's.
    fn timely(&self, now: Timestamp) -> Result<(), String> {
        let now = now.as_second();
        if self.exp < now {
            return Err("ExpiredSignature".into());
        }
        if self.nbf > now { Err("ImmatureSignature".into()) } else { Ok(()) }
    }
}

/// What a token is bound to besides its account.
pub(crate) enum Bound {
    Secret(Named),
    /// A pod, and the node it is on.
    Pod(Named, Option<Named>),
    Node(Named),
}

/// A pod's token for so many seconds is what mounted tokens have: it lives for [`EXTENDED`], for programs that do not read
/// it again (upstream's `--service-account-extend-token-expiration`).
const MOUNTED_SECONDS: i64 = 3607;
/// A year.
const EXTENDED: i64 = 365 * 24 * 3600;

impl Api {
    /// Issues a token for the account `object`.
    pub(crate) fn sign_token(
        &self,
        account: &Value,
        bound: Option<Bound>,
        audiences: &[String],
        seconds: i64,
    ) -> Result<(String, Timestamp), Status> {
        let (now, entropy) = (self.now(), self.entropy());
        let audiences = if audiences.is_empty() { vec![self.inner.config.issuer.clone()] } else { audiences.to_vec() };
        let mounted = matches!(bound, Some(Bound::Pod(..))) && audiences.contains(&self.inner.config.issuer);
        let extended = seconds == MOUNTED_SECONDS && mounted;
        let lives = SignedDuration::from_secs(if extended { EXTENDED } else { seconds });
        let ends = now.checked_add(lives).map_err(Status::internal)?;
        let expires = now.checked_add(SignedDuration::from_secs(seconds)).map_err(Status::internal)?;
        let (namespace, name) = (meta_str(account, "namespace"), meta_str(account, "name"));
        let mut private = Private {
            namespace: namespace.to_owned(),
            serviceaccount: Named { name: name.to_owned(), uid: meta_str(account, "uid").to_owned() },
            pod: None,
            secret: None,
            node: None,
            warnafter: extended.then_some(expires.as_second()),
        };
        match bound {
            Some(Bound::Secret(secret)) => private.secret = Some(secret),
            Some(Bound::Node(node)) => private.node = Some(node),
            Some(Bound::Pod(pod, node)) => (private.pod, private.node) = (Some(pod), node),
            None => {}
        }
        let claims = Claims {
            aud: audiences,
            exp: ends.as_second(),
            iat: now.as_second(),
            iss: self.inner.config.issuer.clone(),
            jti: clock::uid(entropy.draw(), entropy.draw()),
            sub: format!("system:serviceaccount:{namespace}:{name}"),
            private,
            nbf: now.as_second(),
        };
        let keys = &self.inner.keys;
        let header = Header { alg: keys.algorithm, kid: Some(keys.id.clone()), typ: None, ..Header::default() };
        let token = jsonwebtoken::encode(&header, &claims, &keys.sign).map_err(Status::internal)?;
        Ok((token, expires))
    }

    /// Whose token it is: a ServiceAccount's, else that of one whom others know. `audiences` empty: it must be meant for
    /// this API.
    pub(crate) async fn token_user(
        &self,
        token: &str,
        audiences: &[String],
        deadline: Instant,
    ) -> Result<Authenticated, String> {
        let own = std::slice::from_ref(&self.inner.config.issuer);
        let wrong = match self.account_user(token, audiences).await {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        let mut reasons = Vec::new();
        let audiences = if audiences.is_empty() { own } else { audiences };
        for tokens in &self.inner.config.tokens {
            let presented = Presented { token, audiences, own, now: self.now(), deadline };
            match within(deadline, tokens.authenticate(presented)).await.map_err(|late| late.message)? {
                Ok(Some(found)) => return Ok(Authenticated { user: vouched_for(found.user), ..found }),
                Ok(None) => {}
                Err(why) => reasons.push(why),
            }
        }
        Err(aggregate(reasons).unwrap_or(wrong))
    }

    /// Checks a ServiceAccount's token.
    async fn account_user(&self, token: &str, audiences: &[String]) -> Result<Authenticated, String> {
        let claims = self.claims(token, audiences)?;
        let namespace = claims.private.namespace.as_str();
        let account = &claims.private.serviceaccount;
        if claims.sub != format!("system:serviceaccount:{namespace}:{}", account.name) {
            return Err("the subject does not match the claims".into());
        }
        self.must_exist(SERVICE_ACCOUNTS, Some(namespace), account).await?;
        let mut user = User {
            name: claims.sub.clone(),
            uid: account.uid.clone(),
            groups: account_groups(namespace).into_iter().chain([AUTHENTICATED.to_owned()]).collect(),
            ..User::default()
        };
        let mut extra = |key: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        extra("credential-id", &format!("JTI={}", claims.jti));
        if let Some(pod) = &claims.private.pod {
            self.must_exist(PODS, Some(namespace), pod).await?;
            extra("pod-name", &pod.name);
            extra("pod-uid", &pod.uid);
        }
        if let Some(secret) = &claims.private.secret {
            self.must_exist(SECRETS, Some(namespace), secret).await?;
        }
        if let Some(node) = &claims.private.node {
            // Where a pod is, is told by the pod, which is there.
            if claims.private.pod.is_none() {
                self.must_exist(NODES, None, node).await?;
            }
            extra("node-name", &node.name);
            if !node.uid.is_empty() {
                extra("node-uid", &node.uid);
            }
        }
        let wanted = if audiences.is_empty() { std::slice::from_ref(&self.inner.config.issuer) } else { audiences };
        let audiences = claims.aud.into_iter().filter(|a| wanted.contains(a)).collect();
        Ok(Authenticated { user, audiences })
    }

    fn claims(&self, token: &str, audiences: &[String]) -> Result<Claims, String> {
        let keys = &self.inner.keys;
        let mut rules = Validation::new(keys.algorithm);
        // The library would ask the machine's clock.
        rules.validate_exp = false;
        rules.set_issuer(&[&self.inner.config.issuer]);
        if audiences.is_empty() {
            rules.set_audience(&[&self.inner.config.issuer]);
        } else {
            rules.set_audience(audiences);
        }
        let checked = jsonwebtoken::decode::<Claims>(token, &keys.verify, &rules);
        let checked = checked.map(|data| data.claims).map_err(|e| e.to_string());
        let timely = checked.and_then(|claims| claims.timely(self.now()).map(|()| claims));
        timely.map_err(|why| format!("invalid bearer token: {why}"))
    }

    /// What a token is bound to must be there. A local miss is asked again after a barrier.
    async fn must_exist(
        &self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        bound: &Named,
    ) -> Result<(), String> {
        let key = ObjectKey::new(resource, namespace, &bound.name).encode();
        let exists = || {
            let entry = self.backend().snapshot().get(&key)?;
            let found = object::decode(&entry).ok()?;
            (meta_str(&found, "uid") == bound.uid).then_some(())
        };
        if exists().is_some() {
            return Ok(());
        }
        self.store().barrier().await.map_err(|e| e.to_string())?;
        exists().ok_or_else(|| format!("{resource} \"{}\" of this token is gone", bound.name))
    }
}
