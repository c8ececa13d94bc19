//! GET of an object or subresource, and the front door of POST.

use crate::Status;
use crate::auth::review;
use crate::call::{Answer, Call, Input, Object};
use crate::sub;

impl Call {
    /// Reads what this call names: the object, or its Scale.
    pub async fn read_object(&mut self) -> Result<Answer, Status> {
        let answer = self.get().await?;
        match (self.sub_name(), answer) {
            (Some("scale"), Answer::Object { code, object }) => {
                Ok(Answer::Object { code, object: Object::Built(sub::scale::scale_of(&object.value()?)) })
            }
            (_, answer) => Ok(answer),
        }
    }

    /// POST: creates an object, asks a question (reviews), or acts through a subresource.
    pub async fn post(&mut self, input: Input) -> Result<Answer, Status> {
        if let Some(create) = sub::creator(self) {
            return create(self, input).await;
        }
        match review::reviewer(self) {
            Some(review) => review(self, input).await,
            None => self.create(input).await,
        }
    }
}
