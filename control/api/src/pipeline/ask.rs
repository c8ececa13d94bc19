//! Asking steps that wait.

use std::sync::Arc;

use futures::future::join_all;
use kontiki_machinery::admission::{AsyncStep, Phase, Request, Waiting};
use serde_json::Value;

use crate::Status;
use crate::call::Call;
use crate::deadline::within;
use crate::pipeline::draft::Draft;
use crate::pipeline::memo::{Answer, Question};

/// A step, and its place in the chain.
pub(super) type Asked = (usize, Arc<dyn AsyncStep>);

/// The part of an object that is written by a subresource of this name, and by it alone.
const STATUS: &str = "status";

/// What `steps` say of the draft, in their order: each from memory if it was asked the same before, else all at once.
pub(super) async fn ask(draft: &mut Draft<'_>, phase: Phase, steps: &[Asked]) -> Vec<Answer> {
    let questions: Vec<Question> = steps.iter().map(|asked| question(draft, phase, asked)).collect();
    let known: Vec<Option<Answer>> = questions.iter().map(|asked| draft.memo.known(asked).cloned()).collect();
    let missing = steps.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|((_, step), _)| &**step);
    let mut new = wait(draft.call, phase, &draft.request(), &draft.object, missing.collect()).await.into_iter();
    if new.len() > 0 {
        draft.look_again();
    }
    let mut answers = Vec::with_capacity(steps.len());
    for (question, known) in questions.into_iter().zip(known) {
        answers.push(known.unwrap_or_else(|| {
            let answer = new.next().expect("each that was asked has answered");
            draft.memo.keep(question, answer.clone());
            answer
        }));
    }
    answers
}

fn question(draft: &Draft<'_>, phase: Phase, (at, step): &Asked) -> Question {
    let status = step.reads_status() || draft.call.sub_name() == Some(STATUS);
    Question::new((*at, step.name()), phase, &draft.object, draft.old, status)
}

async fn wait(
    call: &Call,
    phase: Phase,
    request: &Request<'_>,
    object: &Value,
    steps: Vec<&dyn AsyncStep>,
) -> Vec<Answer> {
    let deadline = call.deadline;
    let mut waits = Vec::with_capacity(steps.len());
    for step in steps {
        let waiting: Waiting<'_, Answer> = match phase {
            Phase::Mutating => step.mutate(request, object, deadline),
            Phase::Validating => step.validate(request, object, deadline),
        };
        waits.push(within(deadline, waiting));
    }
    join_all(waits).await.into_iter().map(Result::flatten).collect()
}

/// Whether a step has a say in a phase.
pub(super) fn handles(draft: &mut Draft<'_>, phase: Phase, step: &dyn AsyncStep) -> Result<bool, Status> {
    let (request, mut cluster, object) = draft.parts();
    step.handles(phase, &request, object, &mut cluster)
}
