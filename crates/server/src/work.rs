//! From jobs to requests of the scheduler. Rendering and tokenising a long conversation takes a while: not for a thread that serves
//! connections.

use std::sync::Arc;

use flashmill_engine::{EngineError, Prompt, TemplateOptions, TextSide};

use crate::error::{ApiError, ErrorKind};
use crate::feed::{Feed, FeedOptions};
use crate::forms::Forms;
use crate::job::{Chat, Input, Job, PlainPrompt};
use flashmill_engine::serving::{Request, Scheduler, SubmitError};

/// The tokens of a conversation.
pub(crate) fn chat_prompt(text: &TextSide, chat: &Chat) -> Result<Prompt, ApiError> {
    let options = TemplateOptions {
        enable_thinking: chat.thinking,
        extra: chat.variables.clone(),
        ..TemplateOptions::default()
    };
    Prompt::of_messages(text, &chat.messages, chat.tools.as_ref(), &options).map_err(refused)
}

/// Hands a job to the scheduler.
pub(crate) fn submit(scheduler: &Scheduler, forms: &Forms, job: Job) -> Result<Feed, ApiError> {
    let text = scheduler.text();
    let prompts: Vec<Prompt> = match &job.input {
        Input::Chat(chat) => vec![chat_prompt(text, chat)?],
        Input::Plain(prompts) => {
            let prompt = |prompt: &PlainPrompt| match prompt {
                PlainPrompt::Text(prompt) => Prompt::of_text(text, prompt).map_err(refused),
                PlainPrompt::Tokens(tokens) => Ok(Prompt::of_tokens(tokens.clone())),
            };
            prompts.iter().map(prompt).collect::<Result<_, _>>()?
        }
    };
    // A form may take long to compile: what cannot be read needs none.
    let context = scheduler.plan().context;
    if let Some(prompt) = prompts.iter().find(|prompt| prompt.tokens.len() > context) {
        let n_tokens = prompt.tokens.len();
        return Err(refused(EngineError::PromptTooLong { n_tokens, context }));
    }
    let form = forms.of_job(text, &job)?;
    let sampling = job.sampling.over(&text.defaults().sampling);
    let options = FeedOptions {
        n_answers: prompts.len() * job.n,
        stops: job.stops.clone(),
        parallel_calls: job.parallel_calls,
        reads_calls: matches!(&job.input, Input::Chat(chat) if chat.tools.is_some()),
    };
    let mut feed = Feed::new(Arc::clone(text), options);
    for (at, prompt) in prompts.into_iter().enumerate() {
        let constraint = form.as_ref().map(|form| form.start(prompt.in_thought));
        let request = Request {
            prompt,
            n: job.n,
            sampling: sampling.clone(),
            constraint,
            stops: job.stops.clone(),
            max_tokens: job.max_tokens,
            logprobs: job.logprobs,
        };
        // Where a later prompt finds no place, dropping the feed ends the earlier ones.
        let ticket = scheduler.submit(request, feed.sink(at * job.n)).map_err(not_taken)?;
        feed.add(ticket);
    }
    feed.close();
    Ok(feed)
}

fn not_taken(error: SubmitError) -> ApiError {
    let message = error.to_string();
    match error {
        SubmitError::QueueFull { retry_after, .. } => ApiError {
            retry_after: Some(retry_after.as_secs().max(1)),
            code: Some("queue_full"),
            ..ApiError::new(ErrorKind::Busy, message)
        },
        SubmitError::ShuttingDown => {
            ApiError { retry_after: Some(5), ..ApiError::new(ErrorKind::Unavailable, message) }
        }
        SubmitError::Refused(error) => refused(error),
    }
}

/// What the engine does not take, the client can change: everything here comes from the request.
fn refused(error: EngineError) -> ApiError {
    let message = error.to_string();
    let (kind, param, code) = match &error {
        EngineError::Encode { .. } => (ErrorKind::Internal, None, None),
        EngineError::PromptTooLong { .. } | EngineError::PromptTooLarge { .. } => {
            (ErrorKind::Invalid, Some("messages".to_owned()), Some("context_length_exceeded"))
        }
        EngineError::SamplingOption { name, .. } => (ErrorKind::Invalid, Some((*name).to_owned()), None),
        _ => (ErrorKind::Invalid, None, None),
    };
    ApiError { param, code, ..ApiError::new(kind, message) }
}
