//! GET of an object or subresource, and the front door of POST.

use kontiki_machinery::Handler;
use kontiki_machinery::resource::Creation;

use crate::Status;
use crate::auth::review;
use crate::call::{Answer, Call, Input, Object};
use crate::sub;

impl Call {
    /// Reads what this call names: the object, or a view of it.
    pub async fn read_object(&mut self) -> Result<Answer, Status> {
        let answer = self.get().await?;
        match (self.view(), answer) {
            (Some(view), Answer::Object { code, object }) => {
                Ok(Answer::Object { code, object: Object::Built(view.of(&object.value()?)) })
            }
            (_, answer) => Ok(answer),
        }
    }

    /// POST: creates an object, asks a question (reviews), or acts through a subresource.
    pub async fn post(&mut self, input: Input) -> Result<Answer, Status> {
        if let Some(sub) = self.sub.clone() {
            return match &sub.handler {
                Handler::Write(_, write) => sub::write::create(self, *write, input).await,
                Handler::Evict(_, evict) => sub::evict::create(self, *evict, input).await,
                Handler::Token(_) => sub::token::create(self, input).await,
                Handler::Part | Handler::View(_) | Handler::Node(..) | Handler::Proxy(_) => {
                    Err(Status::method_not_allowed())
                }
            };
        }
        match self.def.creation.clone() {
            Creation::Stored => self.create(input).await,
            Creation::Review(asked) => review::answer(self, asked, input).await,
            Creation::OnObject(plural, sub) => sub::write::create_by_collection(self, &plural, &sub, input).await,
        }
    }
}
