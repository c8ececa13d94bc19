//! Conversion of objects by a server outside (`ConversionReview`): who is asked, how, and what may be answered. Upstream:
//! apiextensions-apiserver's `pkg/apiserver/conversion/webhook_converter.go`.
//!
//! Invariants
//! - Nobody is asked about what is in the wanted version already.
//! - An answer may change labels and annotations of an object's metadata, and nothing else of that.
//! - Whatever is answered ends in objects of the wanted version or in an error of upstream's words.
//!
//! Not here: pruning and defaults of what comes back ([`crate::Strategy::from_storage`]), sockets.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use crate::{
    GroupVersionKind, Path, ResourceDef,
    apply::go_type,
    field_error::quote,
    meta,
    outcall::{Caller, Patience, Target},
    status,
};

/// How long one call may take at most.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// About how many bytes of objects are sent in one call: what comes back is bounded too, and may be longer.
pub const CALL: usize = 2 << 20;

/// A version of ConversionReview.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Review {
    V1,
    V1Beta1,
}

impl Review {
    fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "apiextensions.k8s.io/v1",
            Self::V1Beta1 => "apiextensions.k8s.io/v1beta1",
        }
    }
}

/// Who converts the objects of a kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conversion {
    target: Target,
    /// The first version that both sides know.
    review: Option<Review>,
}

/// What is asked, for those who answer.
struct Question<'a> {
    review: Review,
    uid: &'a str,
    objects: &'a [Value],
    desired: &'a str,
}

impl Conversion {
    /// That of a `spec.conversion`; `None`: nobody outside is asked.
    #[must_use]
    pub fn of(conversion: &Value) -> Option<Self> {
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let webhook = &conversion["webhook"];
        let versions = webhook["conversionReviewVersions"].as_array().into_iter().flatten();
        let review = versions.filter_map(Value::as_str).find_map(|version| match version {
            "v1" => Some(Review::V1),
            "v1beta1" => Some(Review::V1Beta1),
            _ => None,
        });
        Some(Self { target: Target::of(&webhook["clientConfig"])?, review })
    }

    /// Objects in the version `desired`, in their order: those that are in it already as they are, the others in one call.
    ///
    /// # Errors
    /// They cannot be converted.
    pub async fn convert(
        &self,
        caller: &dyn Caller,
        mut objects: Vec<Value>,
        desired: &str,
        deadline: Instant,
    ) -> Result<Vec<Value>, String> {
        let other = |object: &Value| object["apiVersion"] != desired;
        let places: Vec<usize> = (0..objects.len()).filter(|at| other(&objects[*at])).collect();
        if places.is_empty() {
            return Ok(objects);
        }
        let review = self.review.ok_or("no supported conversion review versions")?;
        let sent: Vec<Value> = places.iter().map(|at| objects[*at].take()).collect();
        let uid = caller.uid();
        let question = Question { review, uid: &uid, objects: &sent, desired };
        let patience = Patience { timeout: TIMEOUT, deadline };
        let body = caller.post(&self.target, question.document().to_string().into_bytes(), patience).await;
        let body = body.map_err(|why| format!("conversion webhook for {} failed: {why}", kind_of(&sent[0])))?;
        for (at, converted) in places.into_iter().zip(question.answer(&body)?) {
            objects[at] = converted;
        }
        Ok(objects)
    }
}

/// An object of `from` in the form in which `to`, which shows the same objects, has it. Waits only where somebody outside
/// has to be asked.
///
/// # Errors
/// It cannot be converted.
pub async fn shown_as(
    caller: Option<&dyn Caller>,
    (from, to): (&ResourceDef, &ResourceDef),
    object: Value,
    deadline: Instant,
) -> Result<Value, String> {
    let Some(conversion) = from.strategy.conversion().filter(|_| from.api_version() != to.api_version()) else {
        return Ok(from.shown_as(to, object));
    };
    let caller = caller.ok_or(NO_WAY)?;
    let converted = conversion.convert(caller, vec![object], &to.api_version(), deadline).await?;
    let mut object = converted.into_iter().next().unwrap_or_default();
    to.strategy.from_storage(&mut object);
    Ok(object)
}

/// What is said where nobody calls servers outside.
pub const NO_WAY: &str = "there is no way to a server that converts";

impl Question<'_> {
    fn document(&self) -> Value {
        json!({
            "kind": "ConversionReview", "apiVersion": self.review.api_version(),
            "request": {"uid": self.uid, "desiredAPIVersion": self.desired, "objects": self.objects},
        })
    }

    /// The objects in the answer, each with the metadata of the one that was sent.
    fn answer(&self, body: &[u8]) -> Result<Vec<Value>, String> {
        let about = kind_of(&self.objects[0]);
        let failed = |why: String| format!("conversion webhook for {about} failed: {why}");
        let converted = self.objects_of(body).map_err(failed)?;
        let (got, expected) = (converted.len(), self.objects.len());
        if got != expected {
            return Err(format!("conversion webhook for {about} returned {got} objects, expected {expected}"));
        }
        // Upstream words it one way for an object, another for a list.
        let single = self.objects.len() == 1;
        let wrong = |at: usize, (what, why): (Wrong, String)| {
            let what = match (what, single) {
                (Wrong::Object, true) => "invalid object".to_owned(),
                (Wrong::Type, true) => "invalid object at index 0".to_owned(),
                (Wrong::Metadata, true) => "invalid metadata".to_owned(),
                (Wrong::Metadata, false) => format!("invalid metadata in object at index {at}"),
                (_, false) => format!("invalid converted object at index {at}"),
            };
            format!("conversion webhook for {about} returned {what}: {why}")
        };
        let pairs = self.objects.iter().zip(converted).enumerate();
        pairs.map(|(at, (sent, got))| self.fit(sent, got).map_err(|why| wrong(at, why))).collect()
    }

    fn objects_of(&self, body: &[u8]) -> Result<Vec<Value>, String> {
        let mut review: Value = serde_json::from_slice(body)
            .map_err(|why| format!("couldn't get version/kind; json parse error: {why}"))?;
        let (version, kind) = (text(&review, "apiVersion"), text(&review, "kind"));
        if self.review == Review::V1 && (version != self.review.api_version() || kind != "ConversionReview") {
            let (expected, got) = (self.review.api_version(), kind_of(&review));
            return Err(format!("expected webhook response of {expected}, Kind=ConversionReview, got {got}"));
        }
        let response = &mut review["response"];
        if !response.is_object() {
            return Err("no response provided".to_owned());
        }
        let uid = text(response, "uid");
        if self.review == Review::V1 && uid != self.uid {
            return Err(format!("expected response.uid={}, got {}", quote(self.uid), quote(uid)));
        }
        let result = &response["result"];
        let (status, message) = (text(result, "status"), text(result, "message"));
        match (status, message) {
            ("Success", _) => {}
            (status, "") => return Err(format!("response.result.status was '{status}', not 'Success'")),
            (_, message) => return Err(message.to_owned()),
        }
        match response["convertedObjects"].take() {
            Value::Array(objects) => Ok(objects),
            _ => Ok(Vec::new()),
        }
    }

    /// What came for an object that was sent, with that one's metadata.
    fn fit(&self, sent: &Value, mut got: Value) -> Result<Value, (Wrong, String)> {
        if text(&got, "kind").is_empty() {
            return Err((Wrong::Type, format!("Object 'Kind' is missing in '{got}'")));
        }
        let (desired, version) = (self.desired, text(&got, "apiVersion"));
        if version != desired {
            return Err((Wrong::Type, format!("invalid groupVersion (expected {desired}, received {version})")));
        }
        let (wanted, kind) = (text(sent, "kind"), text(&got, "kind"));
        if kind != wanted {
            return Err((Wrong::Type, format!("invalid kind (expected {wanted}, received {kind})")));
        }
        for (field, what) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
            let (had, has) = (text(&sent["metadata"], field), text(&got["metadata"], field));
            if had != has {
                return Err((Wrong::Object, format!("must have the same {what}: {had} != {has}")));
            }
        }
        let metadata = restored(&sent["metadata"], &got).map_err(|why| (Wrong::Metadata, why))?;
        got["metadata"] = metadata;
        Ok(got)
    }
}

/// What of an answer is wrong.
enum Wrong {
    Object,
    Type,
    Metadata,
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// `example.com/v1, Kind=Frob`
fn kind_of(object: &Value) -> String {
    let gvk = GroupVersionKind::new(text(object, "apiVersion"), text(object, "kind"));
    format!("{}/{}, Kind={}", gvk.group, gvk.version, gvk.kind)
}

/// The metadata of before, with labels and annotations of what was answered.
fn restored(before: &Value, got: &Value) -> Result<Value, String> {
    let found = got.get("metadata").ok_or("missing metadata in converted object")?;
    let Value::Object(said) = found else {
        return Err(format!("invalid metadata of type {} in converted object", go_type(found)));
    };
    let mut metadata = before.as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match said.get(field).filter(|texts| !texts.is_null()) {
            None => metadata.remove(field),
            Some(texts) => {
                check_texts(field, metadata.get(field), texts)?;
                metadata.insert(field.to_owned(), texts.clone())
            }
        };
    }
    Ok(Value::Object(metadata))
}

fn check_texts(field: &str, before: Option<&Value>, texts: &Value) -> Result<(), String> {
    let Value::Object(map) = texts else {
        return Err(format!("invalid metadata.{field} of type {} in converted object", go_type(texts)));
    };
    if let Some((key, other)) = map.iter().find(|(_, value)| !value.is_string()) {
        let found = go_type(other);
        return Err(format!("metadata.{field}[{key}] must be a string, but is {found} in converted object"));
    }
    // What was there before is not judged again.
    if before.and_then(Value::as_object).unwrap_or(&Map::new()) == map {
        return Ok(());
    }
    let errors = match field {
        "labels" => meta::validate_labels(texts, &Path::new("metadata").child("labels")),
        _ => meta::validate_annotations(texts, &Path::new("metadata").child("annotation")),
    };
    status::aggregate(errors.iter().map(ToString::to_string)).map_or(Ok(()), Err)
}

/// What code that waits for nobody wants to have converted, and what came of it. Who finds no answer notes the question and
/// goes on with anything; whoever runs that code answers what is open, and runs it again.
#[derive(Default, Debug)]
pub struct Conversions(Mutex<Vec<Asked>>);

/// An object, the version that it is wanted in, and what is known of that.
#[derive(Debug)]
struct Asked {
    object: Value,
    desired: String,
    answer: Option<Value>,
}

impl Conversions {
    /// An object in another version; `None`: it is not known yet.
    #[must_use]
    pub fn ask(&self, object: &Value, desired: &str) -> Option<Value> {
        if object["apiVersion"] == desired {
            return Some(object.clone());
        }
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = asked.iter().find(|known| known.desired == desired && known.object == *object) {
            return known.answer.clone();
        }
        asked.push(Asked { object: object.clone(), desired: desired.to_owned(), answer: None });
        None
    }

    /// The questions without an answer.
    #[must_use]
    pub fn open(&self) -> Vec<(Value, String)> {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = asked.iter().filter(|asked| asked.answer.is_none());
        open.map(|asked| (asked.object.clone(), asked.desired.clone())).collect()
    }

    /// The answer to a question.
    pub fn answer(&self, object: &Value, desired: &str, answer: Value) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let question = asked.iter_mut().find(|known| known.desired == desired && known.object == *object);
        if let Some(question) = question {
            question.answer = Some(answer);
        }
    }
}

#[cfg(test)]
mod tests;
