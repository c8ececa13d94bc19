//! A token shown to a webhook (`TokenReview`). Upstream: `k8s.io/apiserver/plugin/pkg/authenticator/token/webhook`.
//!
//! Deviation: a call that fails is not made again for the same request.

use std::{sync::Arc, time::Duration};

use kontiki_machinery::{
    access::User,
    admission::Waiting,
    authentication::{Authenticated, Presented, Tokens},
    outcall::{Caller, Patience, Target},
};
use serde_json::{Value, json};

use crate::{
    kept::{self, Kept},
    rows::value::{text, texts},
};

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Tokens that are remembered.
const TOKENS: usize = 8192;

/// A webhook that knows tokens.
pub struct Webhook {
    caller: Arc<dyn Caller>,
    target: Target,
    /// Of the review: `v1` or `v1beta1`.
    version: String,
    /// How long an answer holds.
    time: Duration,
    kept: Kept<Option<Authenticated>>,
}

impl Webhook {
    /// One that is called at `target` and believed for `time`.
    #[must_use]
    pub fn new(caller: Arc<dyn Caller>, target: Target, version: &str, time: Duration) -> Self {
        Self { caller, target, version: version.to_owned(), time, kept: Kept::new(TOKENS) }
    }

    fn question(&self, presented: &Presented<'_>) -> Value {
        json!({
            "kind": "TokenReview",
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "metadata": {"creationTimestamp": null},
            "spec": {"token": presented.token, "audiences": presented.audiences},
            "status": {"user": {}},
        })
    }

    async fn ask(&self, presented: Presented<'_>) -> Result<Option<Authenticated>, String> {
        let audiences = presented.audiences.iter().map(String::as_str);
        let key = kept::key([presented.token].into_iter().chain(audiences));
        if let Some(known) = self.kept.get(&key, presented.now) {
            return Ok(known);
        }
        let document = self.question(&presented).to_string().into_bytes();
        let patience = Patience { timeout: TIMEOUT, deadline: presented.deadline };
        let body = self.caller.post(&self.target, document, patience).await?;
        let answer = answer(&body, &presented)?;
        self.kept.put(key, answer.clone(), presented.now, self.time);
        Ok(answer)
    }
}

/// What an answer means.
///
/// # Errors
/// It is none, or says why the token is no good.
fn answer(body: &[u8], presented: &Presented<'_>) -> Result<Option<Authenticated>, String> {
    let review: Value = serde_json::from_slice(body).map_err(|why| format!("the answer is no review: {why}"))?;
    if text(&review, "kind") != "TokenReview" {
        return Err("the answer is no review".to_owned());
    }
    let status = &review["status"];
    let said = texts(status, "audiences");
    let said: Vec<&str> = match said.is_empty() {
        true => presented.own.iter().map(String::as_str).collect(),
        false => said,
    };
    let audiences: Vec<String> =
        presented.audiences.iter().filter(|wanted| said.contains(&wanted.as_str())).cloned().collect();
    if audiences.is_empty() {
        return Ok(None);
    }
    if status["authenticated"] != true {
        return match text(status, "error") {
            "" => Ok(None),
            why => Err(why.to_owned()),
        };
    }
    let user = &status["user"];
    let owned = |owner: &Value, field: &str| texts(owner, field).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let extra = user["extra"].as_object().into_iter().flatten();
    let user = User {
        name: text(user, "username").to_owned(),
        uid: text(user, "uid").to_owned(),
        groups: owned(user, "groups"),
        extra: extra.map(|(key, _)| (key.clone(), owned(&user["extra"], key))).collect(),
    };
    if user.name.is_empty() {
        Err("the answer names no user".to_owned())
    } else {
        Ok(Some(Authenticated { user, audiences }))
    }
}

impl Tokens for Webhook {
    fn authenticate<'a>(&'a self, presented: Presented<'a>) -> Waiting<'a, Result<Option<Authenticated>, String>> {
        Box::pin(self.ask(presented))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn an_answer_is_a_user_nobody_or_an_error() {
        let (audiences, own) = (["api".to_owned()], ["api".to_owned()]);
        // When nobody waits any more does not matter here.
        let deadline = Instant::now();
        let presented =
            Presented { token: "t", audiences: &audiences, own: &own, now: Timestamp::UNIX_EPOCH, deadline };
        let user = json!({"username": "ann", "uid": "1", "groups": ["g"], "extra": {"a/b": ["x"]}});
        for (status, expect) in [
            (json!({"authenticated": true, "user": user}), Ok("ann 1 [\"g\"] [\"api\"]")),
            (json!({"authenticated": true, "user": user, "audiences": ["api", "x"]}), Ok("ann 1 [\"g\"] [\"api\"]")),
            (json!({"authenticated": true, "user": user, "audiences": ["x"]}), Ok("")),
            (json!({"authenticated": false}), Ok("")),
            (json!({"authenticated": "true", "user": user}), Ok("")),
            (json!({"authenticated": false, "error": "no"}), Err("no")),
            (json!({"authenticated": true, "user": {}}), Err("the answer names no user")),
            (json!({}), Ok("")),
        ] {
            let body = json!({"kind": "TokenReview", "status": status}).to_string();
            let found = answer(body.as_bytes(), &presented).map(|found| {
                found.map_or(String::new(), |it| {
                    format!("{} {} {:?} {:?}", it.user.name, it.user.uid, it.user.groups, it.audiences)
                })
            });
            assert_eq!(found, expect.map(str::to_owned).map_err(str::to_owned), "{status}");
        }
        for body in ["", "[]", "{\"kind\": \"Status\"}"] {
            assert!(answer(body.as_bytes(), &presented).is_err(), "{body}");
        }
    }
}
