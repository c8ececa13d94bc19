//! Steps of admission that write down what they are asked.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use kontiki_machinery::Status;
use kontiki_machinery::admission::{AsyncStep, Lookup, Member, Operation, Phase, Request, Step, Verdict, Waiting};
use serde_json::{Value, json};

/// What happened, one word an event: the name of a step, with `'` for validating admission.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, name: &str, phase: Phase, request: &Request<'_>, object: &Value) {
        let named = !object["metadata"]["uid"].is_null();
        let mark = if phase == Phase::Validating { "'" } else { "" };
        // On a create the server's own fields tell that the object has been prepared.
        assert!(!request.creates() || named == (phase == Phase::Validating), "{name}{mark}: {object}");
        let dry = if request.dry_run { "~" } else { "" };
        self.0.lock().unwrap().push(format!("{name}{mark}{dry}"));
    }

    /// What happened since this was asked last.
    pub fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap()).join(" ")
    }
}

/// What is done while a step is asked for the first time.
pub type Meanwhile = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a step that waits says.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub enum Says {
    #[default]
    Nothing,
    /// It adds an annotation of its name.
    Changes,
    /// It refuses, in validating admission.
    Refuses,
    /// It warns.
    Warns,
    /// It never answers in this phase.
    Hangs(Kind),
}

/// A phase, comparable in `Says`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Mutating,
    Validating,
}

/// A step that waits.
#[derive(Default)]
pub struct Waits {
    pub name: String,
    pub log: Log,
    pub resource: String,
    pub says: Says,
    pub reinvocable: bool,
    pub ignores_status: bool,
    pub deletes: bool,
    pub meanwhile: Mutex<Option<Meanwhile>>,
}

impl Waits {
    async fn answer(&self, phase: Phase, object: &Value) -> Result<Verdict, Status> {
        let kind = if phase == Phase::Mutating { Kind::Mutating } else { Kind::Validating };
        if self.says == Says::Hangs(kind) {
            pending::<()>().await;
        }
        let meanwhile = self.meanwhile.lock().unwrap().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        tokio::task::yield_now().await;
        let mut verdict = Verdict::default();
        match (self.says, phase) {
            (Says::Changes, Phase::Mutating) => verdict.patch = self.patch(object),
            (Says::Refuses, Phase::Validating) => {
                return Err(Status::failure(400, "BadRequest", format!("step {} says no", self.name)));
            }
            (Says::Warns, _) => verdict.warnings.push(format!("{kind}: {}", self.name, kind = kind as u8)),
            _ => {}
        }
        Ok(verdict)
    }

    fn patch(&self, object: &Value) -> Option<Value> {
        let annotations = &object["metadata"]["annotations"];
        if !annotations[&self.name].is_null() {
            return None;
        }
        let whole = json!({"op": "add", "path": "/metadata/annotations", "value": {&self.name: "was here"}});
        let one = json!({"op": "add", "path": format!("/metadata/annotations/{}", self.name), "value": "was here"});
        Some(json!([if annotations.is_object() { one } else { whole }]))
    }
}

impl AsyncStep for Waits {
    fn name(&self) -> &str {
        &self.name
    }

    fn handles(&self, _: Phase, request: &Request<'_>, _: &Value, _: &mut dyn Lookup) -> Result<bool, Status> {
        let fits = self.deletes == (request.operation == Operation::Delete);
        Ok(fits && request.sub.is_none() && request.def.plural == self.resource)
    }

    fn reinvocable(&self) -> bool {
        self.reinvocable
    }

    fn reads_status(&self) -> bool {
        !self.ignores_status
    }

    fn mutate<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: &'a Value,
        deadline: Instant,
    ) -> Waiting<'a, Result<Verdict, Status>> {
        assert!(deadline > Instant::now());
        self.log.add(&self.name, Phase::Mutating, request, object);
        Box::pin(self.answer(Phase::Mutating, object))
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'a>,
        object: &'a Value,
        _: Instant,
    ) -> Waiting<'a, Result<Verdict, Status>> {
        self.log.add(&self.name, Phase::Validating, request, object);
        Box::pin(self.answer(Phase::Validating, object))
    }
}

/// A pure step.
struct Notes {
    name: String,
    log: Log,
}

impl Step for Notes {
    fn name(&self) -> &'static str {
        "Notes"
    }

    fn admit(&self, request: &Request<'_>, object: &mut Value, _: &mut dyn Lookup) -> Result<(), Status> {
        if request.def.plural == "configmaps" {
            self.log.add(&self.name, Phase::Mutating, request, object);
        }
        Ok(())
    }

    fn validate(&self, request: &Request<'_>, object: &Value, _: &mut dyn Lookup) -> Result<(), Status> {
        if request.def.plural == "configmaps" {
            self.log.add(&self.name, Phase::Validating, request, object);
        }
        Ok(())
    }
}

/// A chain from its notation: `p` is pure, `W` waits, `W*` changes the object, `W?` wants to be asked again, `W!` refuses.
pub fn chain(notation: &str, log: &Log) -> Vec<Member> {
    let step = |word: &str| {
        let name = word[..1].to_owned();
        if name.to_lowercase() == name {
            return Member::Pure(Arc::new(Notes { name, log: log.clone() }));
        }
        let says = match word.chars().find(|c| "*!".contains(*c)) {
            Some('*') => Says::Changes,
            Some(_) => Says::Refuses,
            None => Says::Nothing,
        };
        waits(Waits { name, log: log.clone(), says, reinvocable: word.contains('?'), ..Waits::default() })
    };
    notation.split_whitespace().map(step).collect()
}

/// A step that waits, asked about ConfigMaps unless it says otherwise.
pub fn waits(mut step: Waits) -> Member {
    if step.resource.is_empty() {
        step.resource = "configmaps".into();
    }
    Member::Async(Arc::new(step))
}
