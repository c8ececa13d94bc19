//! Get and list: which state they show, and in what portions.
//!
//! A list holds an O(1) snapshot, so its pages and counts are of one revision. Later pages come
//! from a remembered snapshot of that revision where this master still has it, else from history.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use kontiki_cache::{Filter, Snapshot};
use kontiki_machinery::FieldError;
use kontiki_store::{Entry, HistoryError, Revision};
use serde::{Deserialize, Serialize};

use crate::call::{Answer, Call, List, Object};
use crate::corrupt::Corrupt;
use crate::params::options_error;
use crate::state::{collection_prefix, history_error, too_large_version};
use crate::{Api, Status};

pub(crate) const OPTIONS: &str = "ListOptions";
const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// `resourceVersion` and its match, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Everything acknowledged so far.
    Latest,
    /// Whatever this master has.
    Any,
    /// At least this.
    NotOlder(u64),
    /// Exactly this.
    Exact(u64),
}

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

/// A resourceVersion in a query.
pub(crate) fn parse_version(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|_| {
        let why = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
        Status::bad_request(format!("invalid resource version: resourceVersion: Invalid value: \"{text}\": {why}"))
    })
}

impl Api {
    /// A snapshot no older than asked for.
    pub(crate) async fn snapshot_for(&self, version: Version) -> Result<Snapshot, Status> {
        let local = self.backend().snapshot();
        match version {
            Version::Any => Ok(local),
            Version::NotOlder(wanted) | Version::Exact(wanted) if local.revision().0 >= wanted => Ok(local),
            Version::NotOlder(wanted) | Version::Exact(wanted) => {
                let fresh = self.fresh().await?;
                if fresh.revision().0 >= wanted {
                    Ok(fresh)
                } else {
                    Err(too_large_version(wanted, fresh.revision().0))
                }
            }
            Version::Latest => self.fresh().await,
        }
    }
}

impl Call {
    /// Reads the object that this call names.
    pub async fn get(&mut self) -> Result<Answer, Status> {
        if let Some(answer) = self.past().await? {
            return Ok(answer);
        }
        if let Some(measured) = &self.def.measured {
            return self.measure_one(measured).await;
        }
        let version = match self.params.get("resourceVersion") {
            None => Version::Latest,
            Some("0") => Version::Any,
            Some(text) => Version::NotOlder(parse_version(text)?),
        };
        let state = self.api.snapshot_for(version).await?;
        let entry = state.get(&self.key()).ok_or_else(|| self.not_found())?;
        let entry = self.api.one_in_version(&self.def, entry, self.deadline).await?;
        Ok(Answer::Object { code: 200, object: Object::of_entry(&self.def, &entry)? })
    }

    /// Lists the collection that this call names.
    pub async fn list(&mut self) -> Result<Answer, Status> {
        if let Some(measured) = &self.def.measured {
            return self.measure_all(measured).await;
        }
        Ok(Answer::List(self.collect().await?))
    }

    /// The list that this call asks for.
    pub async fn collect(&mut self) -> Result<List, Status> {
        self.params.int("timeoutSeconds")?;
        let filter = self.filter.clone()?;
        let limit = self.params.int("limit")?.filter(|limit| *limit > 0);
        let version = self.list_version()?;
        match self.params.get("continue") {
            Some(token) => self.next_page(token, limit, &filter).await,
            None => {
                let limit = limit.filter(|_| version != Version::Any);
                self.first_page(version, limit, &filter).await
            }
        }
    }

    fn list_version(&self) -> Result<Version, Status> {
        let version = self.params.get("resourceVersion");
        let rule = self.params.get("resourceVersionMatch");
        let mut errors = Vec::new();
        if self.params.flag("sendInitialEvents").is_some() {
            errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        if let Some(rule) = rule {
            const FIELD: &str = "resourceVersionMatch";
            if version.is_none() {
                errors.push(FieldError::forbidden(
                    FIELD,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if self.params.get("continue").is_some() {
                errors
                    .push(FieldError::forbidden(FIELD, "resourceVersionMatch is forbidden when continue is provided"));
            }
            if !matches!(rule, "Exact" | "NotOlderThan") {
                errors.push(FieldError::not_supported(FIELD, rule, &["Exact", "NotOlderThan", ""]));
            }
            if rule == "Exact" && version == Some("0") {
                let text = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.push(FieldError::forbidden(FIELD, text));
            }
        }
        if !errors.is_empty() {
            return Err(options_error(OPTIONS, &errors));
        }
        if self.params.get("continue").is_some() && version.is_some_and(|v| v != "0") {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        // A limit with a version and no match means exactly that version, as upstream has it.
        let exact =
            rule == Some("Exact") || (rule.is_none() && self.params.int("limit")?.is_some_and(|limit| limit > 0));
        Ok(match version {
            None => Version::Latest,
            Some("0") => Version::Any,
            Some(text) if exact => Version::Exact(parse_version(text)?),
            Some(text) => Version::NotOlder(parse_version(text)?),
        })
    }

    /// The list as of a version, up to a limit.
    pub async fn first_page(&self, version: Version, limit: Option<i64>, filter: &Filter) -> Result<List, Status> {
        let state = self.api.snapshot_for(version).await?;
        if !matches!(version, Version::Exact(_))
            && let Some(list) = self.select(state.revision(), limit, filter).await?
        {
            return self.in_own_version(list).await;
        }
        match version {
            Version::Exact(wanted) if state.revision().0 != wanted => {
                self.past_page(Revision(wanted), limit, filter, None).await
            }
            _ => self.page(&state, limit, filter, None).await,
        }
    }

    /// Whether objects have to be converted before a filter can judge them.
    fn converts_first(&self, filter: &Filter) -> bool {
        !filter.is_told_by_key() && self.def.strategy.conversion().is_some()
    }

    async fn in_own_version(&self, mut list: List) -> Result<List, Status> {
        list.items = self.api.in_version(&self.def, list.items, self.deadline).await?;
        Ok(list)
    }

    /// The list as the cache's indexes have it, no older than `revision`; `None` if it has to be walked: nothing is
    /// selected, one object is, or more than one page.
    async fn select(&self, revision: Revision, limit: Option<i64>, filter: &Filter) -> Result<Option<List>, Status> {
        if filter.is_empty() || self.only_key(filter).is_some() || self.converts_first(filter) {
            return Ok(None);
        }
        let cache = self.api.cache();
        let collection = cache.collection(&collection_prefix(&self.def, None));
        cache.wait_for(revision).await;
        let prefix = collection_prefix(&self.def, self.namespace());
        // No index has these.
        Corrupt::among(&collection.unreadable(&prefix)).judge(self.def.group_resource())?;
        let (seen, found) = collection.select(&self.def, &prefix, filter);
        let is_one_page = limit.is_none_or(|limit| usize::try_from(limit).is_ok_and(|limit| found.len() <= limit));
        Ok(is_one_page.then(|| List {
            items: found.iter().map(|object| Arc::clone(object.entry())).collect(),
            revision: seen.max(revision),
            continue_token: String::new(),
            remaining: None,
        }))
    }

    async fn next_page(&self, token: &str, limit: Option<i64>, filter: &Filter) -> Result<List, Status> {
        let (revision, start) = read_token(token)?;
        let Some(revision) = revision else {
            let state = self.api.fresh().await?;
            return self.page(&state, limit, filter, Some(start)).await;
        };
        if let Some(state) = self.api.inner.pages.at(revision) {
            return self.page(&state, limit, filter, Some(start)).await;
        }
        match self.past_page(revision, limit, filter, Some(start.clone())).await {
            Err(status) if status.code == 410 => Err(self.token_expired(&start)),
            page => page,
        }
    }

    /// 410 with a token that goes on from the same place in the present.
    fn token_expired(&self, start: &str) -> Status {
        let text = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                    without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
                    results. Continuing with the provided token results in an inconsistent list - objects that were created, \
                    modified, or deleted between the time the first chunk was returned and now may show up in the list.";
        let mut status = Status::expired(text);
        status.metadata.continue_token = make_token(-1, start);
        status
    }

    async fn page(
        &self,
        state: &Snapshot,
        limit: Option<i64>,
        filter: &Filter,
        start: Option<String>,
    ) -> Result<List, Status> {
        let prefix = collection_prefix(&self.def, self.namespace());
        let list = if self.converts_first(filter) {
            let entries = self.entries(state, &prefix, filter, start).collect();
            self.fill_converted(entries, state.revision(), limit, filter, &prefix).await?
        } else {
            let entries = self.entries(state, &prefix, filter, start);
            let list = self.fill(entries, state.revision(), limit, filter, &prefix)?;
            self.in_own_version(list).await?
        };
        if !list.continue_token.is_empty() {
            self.api.inner.pages.remember(state);
        }
        Ok(list)
    }

    /// The entries that may pass the filter, from a place on.
    fn entries<'s>(
        &self,
        state: &'s Snapshot,
        prefix: &[u8],
        filter: &Filter,
        start: Option<String>,
    ) -> Box<dyn Iterator<Item = Arc<Entry>> + 's> {
        let after = start.map(|start| [prefix, start.as_bytes()].concat());
        match (after, self.only_key(filter)) {
            (None, Some(key)) => Box::new(state.get(&key).into_iter()),
            (Some(after), _) => Box::new(state.range_from(prefix, before(&after))),
            (None, None) => Box::new(state.range(prefix)),
        }
    }

    async fn fill_converted(
        &self,
        entries: Vec<Arc<Entry>>,
        revision: Revision,
        limit: Option<i64>,
        filter: &Filter,
        prefix: &[u8],
    ) -> Result<List, Status> {
        Corrupt::among(&entries).judge(self.def.group_resource())?;
        let entries = self.api.in_version(&self.def, entries, self.deadline).await?;
        self.fill(entries.into_iter(), revision, limit, filter, prefix)
    }

    /// The only key that can pass the filter, if it says so.
    fn only_key(&self, filter: &Filter) -> Option<Bytes> {
        let namespace = match (self.namespace(), self.def.namespaced()) {
            (Some(namespace), _) => Some(namespace),
            (None, true) => Some(filter.namespace()?),
            (None, false) => None,
        };
        filter.name().map(|name| crate::state::object_key(&self.def, namespace, name))
    }

    async fn past_page(
        &self,
        revision: Revision,
        limit: Option<i64>,
        filter: &Filter,
        start: Option<String>,
    ) -> Result<List, Status> {
        let prefix = collection_prefix(&self.def, self.namespace());
        let past = self.api.backend().range_at(&prefix, revision).await;
        let mut entries: Vec<Arc<Entry>> = past.map_err(|e| match e {
            HistoryError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
            other => history_error(other, revision.0),
        })?;
        if let Some(start) = start {
            let from = [prefix.as_ref(), start.as_bytes()].concat();
            entries.retain(|entry| entry.key.as_ref() >= from.as_slice());
        }
        if self.converts_first(filter) {
            return self.fill_converted(entries, revision, limit, filter, &prefix).await;
        }
        self.in_own_version(self.fill(entries.into_iter(), revision, limit, filter, &prefix)?).await
    }

    fn fill(
        &self,
        mut entries: impl Iterator<Item = Arc<Entry>>,
        revision: Revision,
        limit: Option<i64>,
        filter: &Filter,
        prefix: &[u8],
    ) -> Result<List, Status> {
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let mut list = List { items: Vec::new(), revision, continue_token: String::new(), remaining: None };
        let mut corrupt = Corrupt::default();
        while let Some(entry) = entries.next() {
            if list.items.len() == limit {
                let start = String::from_utf8_lossy(&list.items[limit - 1].key[prefix.len()..]).into_owned();
                list.continue_token = make_token(i64::try_from(revision.0).unwrap_or(i64::MAX), &format!("{start}\0"));
                list.remaining = filter.is_empty().then(|| 1 + i64::try_from(entries.count()).unwrap_or(i64::MAX));
                break;
            }
            if !corrupt.admits(&entry) {
                if corrupt.is_full() {
                    break;
                }
            } else if filter.passes_entry(&self.def, &entry) {
                list.items.push(entry);
            }
        }
        corrupt.judge(self.def.group_resource())?;
        Ok(list)
    }
}

/// Greatest key before `from`, for a range that starts after a key. `from` ends with the zero
/// byte that a token's start carries; any other start is a key of its own and is left out by one.
fn before(from: &[u8]) -> &[u8] {
    from.strip_suffix(b"\0").unwrap_or(from)
}

fn make_token(rv: i64, start: &str) -> String {
    let token = Token { v: TOKEN_VERSION.to_owned(), rv, start: start.to_owned() };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("plain data"))
}

/// Where a token goes on: revision (`None`: the present) and the key's end it starts at.
fn read_token(text: &str) -> Result<(Option<Revision>, String), Status> {
    let bad = |why: &dyn std::fmt::Display| {
        Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
    };
    let raw = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| bad(&e))?;
    let token: Token = serde_json::from_slice(&raw).map_err(|e| bad(&e))?;
    if token.v != TOKEN_VERSION {
        return Err(bad(&format!("server does not recognize this encoded version \"{}\"", token.v)));
    }
    if token.start.is_empty() || token.start.split('/').any(|part| part == ".." || part == ".") {
        return Err(bad(&"it starts nowhere in this list"));
    }
    match token.rv {
        -1 => Ok((None, token.start)),
        rv => Ok((Some(Revision(u64::try_from(rv).map_err(|e| bad(&e))?)), token.start)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_token_is_answered(text in "[A-Za-z0-9_=-]{0,60}|\\PC{0,20}", rv in any::<i64>(), start in "\\PC{0,20}") {
            let _ = read_token(&text).is_ok();
            let made = read_token(&make_token(rv, &start));
            prop_assert!(made.is_err_and(|status| status.code == 400) || (rv >= -1 && !start.is_empty()));
        }
    }
}
