//! Create: everything a new object goes through before its compare-and-put.

use std::time::Duration;

use bytes::Bytes;
use kontiki_cache::Snapshot;
use kontiki_store::{Compare, Op};
use serde_json::Value;

use crate::Status;
use crate::call::{Answer, Call, Input, Object};
use crate::clock::between;
use crate::codec;
use crate::convert::Form;
use crate::ledger::{Commit, Handed};
use crate::object::{deleting, meta_str};
use crate::pipeline::{self, Draft, Memo};
use crate::state::{Extra, as_read, object_key, put, stored};

/// How many random names are tried for a `generateName`.
const NAME_ATTEMPTS: u32 = 8;
/// How often admission is repeated because what it saw had changed.
const ATTEMPTS: u32 = 100;
/// From this attempt on the loop pauses, so that many writers get their turn.
const PAUSE_AFTER: u32 = 3;

impl Call {
    /// Creates an object in the collection that this call names.
    pub async fn create(&mut self, input: Input) -> Result<Answer, Status> {
        const OPTIONS: &str = "CreateOptions";
        let dry_run = self.params.dry_run(OPTIONS)?;
        let validation = self.params.field_validation(OPTIONS)?;
        self.params.check_field_manager(OPTIONS)?;
        let mut object = codec::decode_object(self, input, validation)?;
        self.fit_namespace(&mut object)?;
        let object = self.track(None, object, self.api.now()).await?;
        self.create_object(object, dry_run).await
    }

    /// Creates `object`, decoded and in the right namespace, with who owns what of it.
    pub async fn create_object(&mut self, object: Value, dry_run: bool) -> Result<Answer, Status> {
        let generated = meta_str(&object, "name").is_empty() && !meta_str(&object, "generateName").is_empty();
        let mut names_left = if generated { NAME_ATTEMPTS } else { 1 };
        let mut memo = Memo::new(self.api.now());
        let mut state = self.api.backend().snapshot();
        let mut fresh = false;
        for attempt in 0..ATTEMPTS {
            let (inserted, warnings) = self.attempt(&object, dry_run, &mut memo, &mut state, fresh).await?;
            match inserted {
                Inserted::Done(object) => {
                    self.warnings.extend(warnings);
                    return Ok(Answer::Object { code: 201, object });
                }
                Inserted::Exists { name, going } => {
                    names_left -= 1;
                    if names_left == 0 {
                        self.warnings.extend(warnings);
                        return Err(self.exists(&name, going, generated));
                    }
                    memo.redraw();
                }
                Inserted::Moved => {
                    if attempt >= PAUSE_AFTER {
                        tokio::time::sleep(Duration::from_millis(between(self.api.entropy(), 1..20))).await;
                    }
                    state = self.api.fresh().await?;
                    fresh = true;
                }
            }
        }
        Err(Status::server_timeout(self.def.group_resource(), "create", 1))
    }

    /// Decides on `state`, and hands what comes of it to the store. A refusal is believed if the state is fresh.
    async fn attempt(
        &self,
        object: &Value,
        dry_run: bool,
        memo: &mut Memo,
        state: &mut Snapshot,
        fresh: bool,
    ) -> Result<(Inserted, Vec<String>), Status> {
        let mut draft = Draft::create(self, state.clone(), object.clone(), dry_run, memo);
        let (mut form, mut bytes) = (None, Bytes::new());
        let started = match pipeline::run(&mut draft, &pipeline::CREATE).await {
            Ok(()) => {
                form = self.api.form(&self.def, &draft.object, self.deadline).await?;
                self.hand_over(&mut draft, form.as_ref(), &mut bytes)
            }
            Err(status) => Err(status),
        };
        let Draft { object: made, warnings, .. } = draft;
        let inserted = match started {
            Ok(started) => self.inserted((made, form, bytes), started, state).await?,
            Err(status) if fresh => return Err(status),
            Err(_) => Inserted::Moved,
        };
        Ok((inserted, warnings))
    }

    /// Charges a draft that is ready and hands its transaction to the store. `bytes` becomes what is written.
    fn hand_over<'s>(
        &'s self,
        draft: &mut Draft<'_>,
        form: Option<&Form>,
        bytes: &mut Bytes,
    ) -> Result<Started<'s>, Status> {
        pipeline::charge::run(draft, None)?;
        if draft.dry_run {
            return Ok(Started::Dry);
        }
        if !meta_str(&draft.object, "resourceVersion").is_empty() {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        *bytes = form.map_or_else(|| stored(&self.def, &draft.object), |form| form.stored.clone());
        let namespace = self.namespace().filter(|_| !draft.extra.along.is_empty());
        let Some(namespace) = namespace else {
            return Ok(Started::Alone(self.put_new(&draft.object, bytes.clone()), std::mem::take(&mut draft.extra)));
        };
        let turn = self.api.inner.ledger.lock(namespace);
        if pipeline::charge::run(draft, Some(turn.tips())).is_err() {
            // There is enough as far as is known, and not if all that is under way succeeds: that decides.
            return Ok(Started::Behind);
        }
        let (guard, put) = self.put_new(&draft.object, bytes.clone());
        let along = draft.extra.along.clone();
        let extra = std::mem::take(&mut draft.extra);
        let commit: Commit<'s> = Box::pin(self.commit(guard, put, extra));
        Ok(Started::Chained(turn.hand_over(commit, &along, draft.state.revision())))
    }

    fn put_new(&self, object: &Value, bytes: Bytes) -> (Compare, Op) {
        let key = object_key(&self.def, self.namespace(), meta_str(object, "name"));
        let put = put(&self.def, key.clone(), bytes, self.api.now());
        (Compare::absent(key), put)
    }

    fn exists(&self, name: &str, going: bool, generated: bool) -> Status {
        let resource = self.def.group_resource();
        let mut status = if generated {
            Status::generated_name_exists(resource, name)
        } else {
            Status::already_exists(resource, name)
        };
        if going {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }

    /// What became of an object that was handed to the store.
    async fn inserted(
        &self,
        (object, form, bytes): (Value, Option<Form>, Bytes),
        started: Started<'_>,
        state: &mut Snapshot,
    ) -> Result<Inserted, Status> {
        let name = meta_str(&object, "name").to_owned();
        let result = match started {
            Started::Dry => {
                *state = self.api.fresh().await?;
                return Ok(match state.get(&object_key(&self.def, self.namespace(), &name)) {
                    Some(entry) => Inserted::exists(name, &entry.value),
                    None => Inserted::Done(Object::Built(form.map_or(object, |form| form.read))),
                });
            }
            Started::Alone((guard, put), extra) => self.commit(guard, put, extra).await?,
            Started::Behind => return Ok(Inserted::Moved),
            Started::Chained(Handed::Full) => {
                // Other masters' turn, whose writes fit in where nothing of ours is under way.
                tokio::time::sleep(Duration::from_millis(between(self.api.entropy(), 2..6))).await;
                return Ok(Inserted::Moved);
            }
            Started::Chained(Handed::Over(commit, link)) => {
                let result = commit.await?;
                link.settle(&result);
                result
            }
        };
        if result.succeeded {
            let object = form.map_or_else(|| as_read(&self.def, object), |form| form.read);
            return Ok(Inserted::Done(Object::of_write(&self.def, Some(bytes), object, result.revision)));
        }
        Ok(match result.current(0) {
            Some(entry) => Inserted::exists(name, &entry.value),
            None => Inserted::Moved,
        })
    }
}

/// A write that is ready.
#[allow(clippy::large_enum_variant, reason = "one for each request, moved once")]
enum Started<'a> {
    /// Nothing is to be written.
    Dry,
    /// It changes no object that others change at the same time.
    Alone((Compare, Op), Extra),
    /// It changes one that others change, and is behind them.
    Chained(Handed<'a>),
    /// Whether it may be written depends on what becomes of those.
    Behind,
}

enum Inserted {
    Done(Object),
    Exists {
        name: String,
        going: bool,
    },
    /// Something that admission relied on has changed.
    Moved,
}

impl Inserted {
    fn exists(name: String, stored: &[u8]) -> Self {
        let going = serde_json::from_slice::<Value>(stored).is_ok_and(|object| deleting(&object));
        Self::Exists { name, going }
    }
}
