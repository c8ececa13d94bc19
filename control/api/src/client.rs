//! The in-process client: the same pipeline as HTTP, without the HTTP.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, to_bytes};
use http::Request as HttpRequest;
use http::header::{ACCEPT, HOST};
use jiff::Timestamp;
use kontiki_cache::Filter;
use kontiki_machinery::{Registry, ResourceDef, Table, Verb};
use kontiki_model::{GroupResource, Term};
use serde_json::Value;

use crate::call::{Answer, Call, Input, Notes};
use crate::params::Params;
use crate::verbs::delete::Request;
use crate::witness::{Witness, Write};
use crate::writes::{Effect, Writer};
use crate::{Api, DeleteOptions, PatchKind, Status, Target, User, deadline};

/// The longest answer of another server that is read.
const MOST: usize = 64 << 20;
/// What is asked is called so, as pods call it: servers behind want a name.
const NAME: &str = "kubernetes.default.svc";

/// Acts as one user. Reads are linearizable; writes carry the fence, if any.
#[derive(Clone)]
pub struct Client {
    api: Api,
    user: User,
    fence: Option<Term>,
    writer: Writer,
    witness: Option<Arc<dyn Witness>>,
}

/// What a client wants to be written.
enum Wish {
    Create(Value),
    Update(Value),
    Patch(PatchKind, Value),
    Delete(DeleteOptions),
}

impl Wish {
    fn verb(&self) -> Verb {
        match self {
            Self::Create(_) => Verb::Create,
            Self::Update(_) => Verb::Update,
            Self::Patch(..) => Verb::Patch,
            Self::Delete(_) => Verb::Delete,
        }
    }
}

/// What came of a write.
pub struct Written {
    /// Whether it changed anything. Of a creation nothing is said.
    pub effect: Effect,
    answer: Answer,
}

impl Written {
    /// What was answered, read.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn value(self) -> Result<Value, Status> {
        value_of(self.answer)
    }
}

impl Api {
    /// A client that skips HTTP and nothing else.
    #[must_use]
    pub fn client(&self, user: User) -> Client {
        Client { api: self.clone(), writer: Writer::of(&user.groups), user, fence: None, witness: None }
    }
}

impl Client {
    /// The time, as the API stores it.
    pub(crate) fn now(&self) -> Timestamp {
        self.api.now()
    }

    /// The same client, whose writes are counted for `writer`.
    #[must_use]
    pub fn counted_for(&self, writer: Writer) -> Self {
        Self { writer, ..self.clone() }
    }

    /// The kinds that are served.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.api.registry()
    }

    /// The same client, whose writes fail once `term` is over.
    #[must_use]
    pub fn fenced(&self, term: Term) -> Self {
        Self { fence: Some(term), ..self.clone() }
    }

    /// The same client, whose writes `witness` looks on at.
    #[must_use]
    pub fn witnessed_by(&self, witness: Arc<dyn Witness>) -> Self {
        Self { witness: Some(witness), ..self.clone() }
    }

    /// Reads one object, or a `scale`.
    pub async fn get(&self, target: Target<'_>) -> Result<Value, Status> {
        let mut call = self.call(target, Verb::Get).await?;
        value_of(call.read_object().await?)
    }

    /// Reads what a path shows, as JSON, whoever serves it: this master, or a server behind it.
    ///
    /// # Errors
    /// What was answered instead.
    pub async fn read(&self, path: &str) -> Result<Value, Status> {
        self.read_at_most(path, MOST).await
    }

    /// The same, of at most so many bytes.
    ///
    /// # Errors
    /// What was answered instead.
    pub async fn read_at_most(&self, path: &str, most: usize) -> Result<Value, Status> {
        let request = HttpRequest::get(path).header(HOST, NAME).header(ACCEPT, "application/json").body(Body::empty());
        let response = self.api.answer(Some(self.user.clone()), request.map_err(Status::internal)?).await;
        let code = response.status();
        let body = to_bytes(response.into_body(), most).await.map_err(Status::internal)?;
        let said: Option<Value> = serde_json::from_slice(&body).ok();
        match said {
            Some(said) if code.is_success() => Ok(said),
            said => {
                let message = said.as_ref().and_then(|said| said["message"].as_str()).map(str::to_owned);
                let message = message.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
                Err(Status::failure(code.as_u16(), "", message))
            }
        }
    }

    /// Creates an object.
    pub async fn create(
        &self,
        resource: GroupResource<'_>,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Value, Status> {
        let target = Target { resource, namespace, name: "", subresource: None };
        self.create_sub(target, object).await
    }

    /// Creates through a subresource: `binding`, `eviction`, `token`.
    pub async fn create_sub(&self, target: Target<'_>, object: Value) -> Result<Value, Status> {
        self.write(target, Wish::Create(object)).await?.value()
    }

    /// Replaces an object, or its `status` or `scale`. A `resourceVersion` in it is a precondition.
    pub async fn update(&self, target: Target<'_>, object: Value) -> Result<Written, Status> {
        self.write(target, Wish::Update(object)).await
    }

    /// Patches an object or a subresource. A `resourceVersion` in the patch is a precondition.
    pub async fn patch(&self, target: Target<'_>, kind: PatchKind, patch: Value) -> Result<Written, Status> {
        self.write(target, Wish::Patch(kind, patch)).await
    }

    /// Deletes an object. What came of it is the object as it was last, or as it is on its way out, or a Success status.
    pub async fn delete(&self, target: Target<'_>, options: DeleteOptions) -> Result<Written, Status> {
        self.write(target, Wish::Delete(options)).await
    }

    /// Makes a write, before the witness if there is one. What makes it is in a box: whoever holds clients' futures holds
    /// little.
    async fn write(&self, target: Target<'_>, wish: Wish) -> Result<Written, Status> {
        let verb = wish.verb();
        let write = Box::pin(async {
            let mut call = self.call(target, verb).await?;
            let answer = match wish {
                Wish::Create(object) => call.post(Input::Value(object)).await,
                Wish::Update(object) => call.update(Input::Value(object)).await,
                Wish::Patch(kind, patch) => {
                    call.patch(kind, serde_json::to_vec(&patch).map_err(Status::internal)?.into()).await
                }
                Wish::Delete(options) => call.delete(&Request { options, ..Request::default() }).await,
            };
            Ok(Written { answer: answer?, effect: call.effect })
        });
        let Some(witness) = &self.witness else { return write.await };
        let number = witness.before(Write { writer: self.writer, verb, target }).await;
        let result = write.await;
        witness.after(number).await;
        result
    }

    /// A call to `target`, authorized.
    async fn call(&self, target: Target<'_>, verb: Verb) -> Result<Call, Status> {
        let table = self.api.registry().table();
        let def = table.find_resource(target.resource).ok_or_else(Status::no_such_resource)?;
        let def = Arc::clone(as_stored(&table, def, target.subresource));
        let sub = match target.subresource {
            None => None,
            Some(name) => Some(Arc::clone(def.subresource(name).ok_or_else(Status::no_such_resource)?)),
        };
        let verbs = sub.as_ref().map_or(def.verbs, |sub| sub.verbs);
        if def.namespaced() != target.namespace.is_some() || !verbs.contains(verb) {
            return Err(Status::method_not_allowed());
        }
        let call = Call {
            api: self.api.clone(),
            user: self.user.clone(),
            def,
            namespace: target.namespace.map(str::to_owned),
            name: (!target.name.is_empty()).then(|| target.name.to_owned()),
            sub,
            params: Params::default(),
            filter: Ok(Filter::default()),
            deadline: deadline::longest(Instant::now()),
            fence: self.fence,
            manager: self.writer.manager(),
            writer: self.writer,
            effect: Effect::default(),
            warnings: Vec::new(),
            refused: Arc::default(),
            notes: Notes::default(),
        };
        self.api.authorize(&self.user, &call.attributes(verb.as_str(), &[]), call.deadline).await?;
        Ok(call)
    }
}

/// Of a kind that somebody outside converts the row that shows objects as they are stored: whoever that is need not be
/// there for the cluster to go on.
fn as_stored<'t>(table: &'t Table, def: &'t Arc<ResourceDef>, sub: Option<&str>) -> &'t Arc<ResourceDef> {
    if def.strategy.conversion().is_none() {
        return def;
    }
    let has = |row: &&Arc<ResourceDef>| !row.is_converted() && sub.is_none_or(|sub| row.subresource(sub).is_some());
    table.views(def).iter().find(has).unwrap_or(def)
}

fn value_of(answer: Answer) -> Result<Value, Status> {
    match answer {
        Answer::Object { object, .. } => object.into_value(),
        Answer::Status { status, .. } => serde_json::to_value(status).map_err(Status::internal),
        Answer::List(_) | Answer::Made(_) | Answer::Raw(_) => Err(Status::internal("this answer has no value")),
    }
}
