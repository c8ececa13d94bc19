//! Create: everything a new object goes through before its compare-and-put.

use kontiki_store::{Compare, Snapshot};
use serde_json::Value;

use crate::Status;
use crate::call::{Answer, Call, Input, Object};
use crate::codec;
use crate::object::{deleting, meta_str, set_resource_version};
use crate::pipeline::{self, Draft, Memo};
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
        let mut memo = Memo::new(self.api.now());
        let mut state = self.api.store().snapshot();
        let mut fresh = false;
        for _ in 0..ATTEMPTS {
            let mut draft = Draft::create(self, state.clone(), object.clone(), dry_run, &mut memo);
            let ready = pipeline::run(&mut draft, &pipeline::WRITE).await;
            let Draft { object: made, extra, warnings, .. } = draft;
            if let Err(status) = ready {
                if fresh {
                    return Err(status);
                }
                state = self.api.fresh().await?;
                fresh = true;
                continue;
            }
            match self.insert(made, extra, dry_run, &mut state).await? {
                Inserted::Done(object) => {
                    self.warnings.extend(warnings);
                    return Ok(Answer::Object { code: 201, object });
                }
                Inserted::Exists { name, going } => {
                    names_left -= 1;
                    if names_left == 0 {
                        return Err(self.exists(&name, going, generated));
                    }
                    memo.redraw();
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
        let put = put(&self.def, key.clone(), stored(&self.def, &object), self.api.now());
        let result = self.commit(Compare::absent(key), put, extra).await?;
        if result.succeeded {
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
