//! Create: everything a new object goes through before its compare-and-put.

use kontiki_machinery::{meta, validate_create};
use kontiki_store::{Compare, Snapshot, Txn};
use serde_json::Value;

use crate::Status;
use crate::admission;
use crate::call::{Answer, Call, Input, Object};
use crate::codec;
use crate::object::{deleting, meta_str, metadata_mut, set_resource_version};
use crate::state::{Extra, object_key, put, stored};

/// How many random names are tried for a `generateName`.
const NAME_ATTEMPTS: u32 = 8;
/// How often admission is repeated because what it saw had changed.
const ATTEMPTS: u32 = 20;

impl Call {
    /// Creates an object in the collection that this call names.
    pub async fn create(&mut self, input: Input) -> Result<Answer, Status> {
        const OPTIONS: &str = "CreateOptions";
        let dry_run = self.params.dry_run(OPTIONS)?;
        let validation = self.params.field_validation(OPTIONS)?;
        self.params.check_field_manager(OPTIONS)?;
        let mut object = codec::decode_object(self, input, validation)?;
        self.fit_namespace(&mut object)?;
        self.create_object(object, dry_run).await
    }

    /// Creates `object`, decoded and in the right namespace.
    pub async fn create_object(&mut self, object: Value, dry_run: bool) -> Result<Answer, Status> {
        let generated = meta_str(&object, "name").is_empty() && !meta_str(&object, "generateName").is_empty();
        let mut names_left = if generated { NAME_ATTEMPTS } else { 1 };
        let mut state = self.api.store().snapshot();
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            let (ready, extra, warnings) = match self.prepare(&state, object.clone()) {
                Ok(prepared) => prepared,
                Err(_) if !fresh => {
                    state = self.api.fresh().await?;
                    fresh = true;
                    continue;
                }
                Err(status) => return Err(status),
            };
            match self.insert(ready, extra, dry_run, &mut state).await? {
                Inserted::Done(object) => {
                    self.warnings.extend(warnings);
                    return Ok(Answer::Object { code: 201, object });
                }
                Inserted::Exists { name, going } => {
                    names_left -= 1;
                    if names_left == 0 {
                        return Err(self.exists(&name, going, generated));
                    }
                }
                Inserted::Moved => {
                    state = self.api.fresh().await?;
                    fresh = true;
                }
            }
        }
        Err(Status::server_timeout(self.def.group_resource(), "create", 1))
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

    /// The namespace of the request goes into the object; another one there is an error.
    pub fn fit_namespace(&self, object: &mut Value) -> Result<(), Status> {
        let own = meta_str(object, "namespace").to_owned();
        let metadata = metadata_mut(object);
        match self.namespace() {
            None => {
                metadata.remove("namespace");
            }
            Some(namespace) if own.is_empty() || own == namespace => {
                metadata.insert("namespace".into(), namespace.into());
            }
            Some(_) => {
                let text = "the namespace of the provided object does not match the namespace sent on the request";
                return Err(Status::bad_request(text));
            }
        }
        Ok(())
    }

    /// Default, admit, fill in, validate, allocate.
    fn prepare(&self, state: &Snapshot, mut object: Value) -> Result<(Value, Extra, Vec<String>), Status> {
        let mut warnings: Vec<String> = meta::dedup_owners(&mut object).into_iter().collect();
        let mut extra = admission::admit(self, state, None, &mut object)?;
        // Only now, as upstream: a refusal names the stem, so that repeated ones are alike.
        generate_name(&mut object);
        meta::fill_system_fields(&mut object, &uuid::Uuid::new_v4().to_string(), &now());
        self.def.strategy.prepare_create(&mut object);
        let errors = validate_create(&self.def, &object);
        if !errors.is_empty() {
            return Err(self.invalid(meta_str(&object, "name"), &errors));
        }
        extra.append(admission::allocate(self, state, None, &mut object)?);
        warnings.extend(self.def.strategy.warnings(&object, None));
        Ok((object, extra, warnings))
    }

    async fn insert(
        &self,
        mut object: Value,
        extra: Extra,
        dry_run: bool,
        state: &mut Snapshot,
    ) -> Result<Inserted, Status> {
        let name = meta_str(&object, "name").to_owned();
        let key = object_key(&self.def, self.namespace(), &name);
        if dry_run {
            *state = self.api.fresh().await?;
            return Ok(match state.get(&key) {
                Some(entry) => Inserted::exists(name, &entry.value),
                None => Inserted::Done(Object::Built(object)),
            });
        }
        if !meta_str(&object, "resourceVersion").is_empty() {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let bytes = stored(&self.def, &object);
        let mut txn =
            Txn::guarded(vec![Compare::absent(key.clone())], vec![put(&self.def, key, bytes)]).fenced(self.fence);
        txn.compares.extend(extra.compares);
        txn.success.extend(extra.ops);
        let result = self.api.propose(txn).await?;
        if result.succeeded {
            self.committed();
            set_resource_version(&mut object, Some(result.revision));
            return Ok(Inserted::Done(Object::Built(object)));
        }
        Ok(match result.current(0) {
            Some(entry) => Inserted::exists(name, &entry.value),
            None => Inserted::Moved,
        })
    }
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

fn generate_name(object: &mut Value) {
    let stem = meta_str(object, "generateName");
    if meta_str(object, "name").is_empty() && !stem.is_empty() {
        let name = meta::generate_name(stem, rand::random());
        metadata_mut(object).insert("name".into(), name.into());
    }
}

/// The time, as `metav1.Time` writes it: whole seconds.
pub(crate) fn now() -> String {
    format_time(jiff::Timestamp::now())
}

pub(crate) fn format_time(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
