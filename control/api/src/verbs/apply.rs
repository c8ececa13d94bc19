//! Apply: what somebody wants of an object becomes part of it (KEP-555), over the same loop as update. An object that is
//! not there is made.

use jiff::Timestamp;
use kontiki_machinery::apply::ApplyError;
use kontiki_machinery::decode::{Decoded, decode_yaml};
use serde_json::{Map, Value};

use crate::Status;
use crate::call::{Answer, Call};
use crate::codec::{self, Wanted};
use crate::object::{meta_str, set_resource_version};
use crate::params::FieldValidation;
use crate::verbs::change::{Decide, Decision, Round};

const OPTIONS: &str = "PatchOptions";
/// How often an object that comes and goes is tried to be made or changed.
const ATTEMPTS: u32 = 5;

/// What is to be applied, read.
struct Applying {
    config: Value,
    force: bool,
    /// What strict validation says of it: that something is there twice.
    twice: Option<String>,
    validation: FieldValidation,
    wanted: Wanted,
}

impl Decide for Applying {
    async fn decide(&self, call: &Call, round: Round<'_>) -> Result<Decision, Status> {
        let (new, warning) = call.applied(self, Some(&*round.current), round.memo.now).await?;
        let decided = call.decide_owned(round, new).await;
        call.warned(warning, decided)
    }
}

impl Call {
    /// Applies what is in the body to what this call names.
    pub async fn apply(&mut self, data: &[u8]) -> Result<Answer, Status> {
        let dry_run = self.params.dry_run(OPTIONS)?;
        let validation = self.params.field_validation(OPTIONS)?;
        let force = self.params.check_apply(OPTIONS)?;
        let Decoded { value: config, duplicates, .. } = read(data)?;
        let twice = (!duplicates.is_empty())
            .then(|| format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {}", duplicates.join("\n  ")));
        let wish = Applying { config, force, twice, validation, wanted: codec::wanted(self) };
        for _ in 0..ATTEMPTS {
            match self.change(dry_run, &wish).await {
                Err(status) if status.is_not_found() && self.sub.is_none() => {}
                changed => return self.answer_change(changed?),
            }
            match self.apply_new(&wish, dry_run).await {
                // Somebody was faster.
                Err(status) if status.is_already_exists() => {}
                answer => return answer,
            }
        }
        Err(Status::modified(self.def.group_resource(), self.name()))
    }

    /// Makes the object of what is applied.
    async fn apply_new(&mut self, wish: &Applying, dry_run: bool) -> Result<Answer, Status> {
        let (mut new, warning) = self.applied(wish, None, self.api.now()).await?;
        let uid = meta_str(&new, "uid");
        if !uid.is_empty() {
            let text =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(Status::conflict(self.def.group_resource(), self.name(), text));
        }
        self.api.authorize(&self.user, &self.attributes("create", &[]), self.deadline).await?;
        // A version of what is not there binds nobody.
        set_resource_version(&mut new, None);
        self.warnings.extend(warning);
        self.create_object(new, dry_run).await
    }

    /// What the object, or its view, becomes by it, and what is to be warned about.
    async fn applied(
        &self,
        wish: &Applying,
        live: Option<&Value>,
        now: Timestamp,
    ) -> Result<(Value, Option<String>), Status> {
        let Applying { config, wanted, .. } = wish;
        let mut new = self.merged(live, config, wish.force, now).await?;
        let warning = match (wish.validation, &wish.twice) {
            (FieldValidation::Strict, Some(text)) => {
                return Err(Status::bad_request(format!("error strict decoding patch: {text}")));
            }
            (FieldValidation::Warn, Some(text)) => Some(text.clone()),
            _ => None,
        };
        if let Some(error) = wanted.schema.check(&new).error {
            let gvk = &wanted.gvk;
            let shown = format!("{}/{}, Kind={}", gvk.group, gvk.version, gvk.kind);
            let (namespace, name) = (meta_str(config, "namespace"), meta_str(config, "name"));
            let what = format!("failed to convert new object ({namespace}/{name}; {shown}) to proper version: {error}");
            return Err(ApplyError::Unfit(what).status());
        }
        codec::settle(&self.def, wanted, &mut new);
        self.fit_namespace(&mut new)?;
        self.check_name(&new)?;
        Ok((new, warning))
    }
}

fn read(data: &[u8]) -> Result<Decoded, Status> {
    let refused = |why: String| Status::bad_request(format!("error decoding patch: {why}"));
    let mut decoded = decode_yaml(data).map_err(|error| refused(error.to_string()))?;
    match &decoded.value {
        Value::Object(_) => {}
        Value::Null => decoded.value = Value::Object(Map::new()),
        other => {
            let found = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            let why = format!("cannot unmarshal {found} into Go value of type map[string]interface {{}}");
            return Err(refused(format!("error unmarshaling JSON: while decoding JSON: json: {why}")));
        }
    }
    Ok(decoded)
}
