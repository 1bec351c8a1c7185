//! What can go wrong between text and tokens.

use std::path::PathBuf;

use crate::sampling::ConstraintError;
use crate::tool_calls::ToolCallError;

/// An error of the engine: what, where, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The files of the model do not make sense.
    #[error(transparent)]
    Checkpoint(#[from] flashmill_checkpoint::CheckpointError),
    /// A forward pass, or loading, failed.
    #[error(transparent)]
    Model(#[from] flashmill_model::ModelError),
    /// The device that computes could not be made.
    #[error(transparent)]
    Cpu(#[from] flashmill_kernels::CpuError),
    /// The model does not run in the memory that it may use.
    #[error(
        "budget {} ({source_of_budget}) is below the floor of {} for this model; raise --ram or lower --context",
        crate::human_bytes(*budget), crate::human_bytes(*floor)
    )]
    BudgetBelowFloor {
        /// Bytes that may be used.
        budget: u64,
        /// Who set them.
        source_of_budget: String,
        /// Bytes that the model needs at least.
        floor: u64,
    },
    /// There is nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// A token that the model's vocabulary has not.
    #[error("token {token} is outside the vocabulary of {n_vocab}; give tokens of this model")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Tokens of the vocabulary.
        n_vocab: usize,
    },
    /// More answers at once than there is room for.
    #[error("{n} answers to one prompt were asked for, {sessions} can run at once; ask for 1 to {sessions}")]
    TooManyAnswers {
        /// Asked for.
        n: usize,
        /// Answers that run at once.
        sessions: usize,
    },
    /// The program ends before the request is answered.
    #[error("the server is shutting down; try again when it is back")]
    ShuttingDown,
    /// The scheduler's thread could not be started.
    #[error("cannot start a thread: {source}")]
    Thread {
        /// What the system says.
        source: std::io::Error,
    },
    /// The directory of snapshots cannot be used.
    #[error("cannot keep snapshots of prompts in {}: {source}; name another directory, or none", dir.display())]
    Snapshots {
        /// The directory.
        dir: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A prompt that is longer than the context.
    #[error(
        "the prompt has {n_tokens} tokens, the context holds {context}; raise --context or shorten the prompt"
    )]
    PromptTooLong {
        /// Its length.
        n_tokens: usize,
        /// Positions of the context.
        context: usize,
    },
    /// A file of the model directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A text file that is far larger than any model's.
    #[error("{} has {bytes} bytes, more than the {limit} that such a file may have", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The most we read.
        limit: u64,
    },
    /// Not the JSON that was expected.
    #[error("{} is not valid: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field with a value that has no meaning.
    #[error("{}: {field} is {found}, expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Name of the field.
        field: String,
        /// What stands there.
        found: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// GGUF metadata lack a key that nothing can stand for.
    #[error("{}: the metadata key {key} is missing; convert the model again with a current llama.cpp", path.display())]
    MetadataMissing {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A kind of tokenizer that we do not read.
    #[error("{}: a {part} of type {kind} is not supported; only byte-level tokenizers are", path.display())]
    UnsupportedTokenizer {
        /// tokenizer.json.
        path: PathBuf,
        /// The part of it.
        part: &'static str,
        /// The type that the part has.
        kind: String,
    },
    /// A name in GGUF metadata for a way to cut text into words that we do not know.
    #[error(
        "{}: the pre-tokenizer {name:?} (tokenizer.ggml.pre) is not supported; supported are qwen2 and qwen35",
        path.display()
    )]
    UnknownPreTokenizer {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// A regular expression that cuts text into words and is none, or is too large.
    #[error("{}: a rule of the pre-tokenizer is not read: {}", path.display(), one_line(source))]
    SplitRule {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<fancy_regex::Error>,
    },
    /// Merges that do not go with the tokens.
    #[error("{}: the merges do not go with the tokens: {source}", path.display())]
    Merges {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Two texts for one token, or one text for two.
    #[error("{}: token {content:?} has id {id}, which is already taken by {other}", path.display())]
    TokenTaken {
        /// The file that has it.
        path: PathBuf,
        /// Its text.
        content: String,
        /// Its id.
        id: u32,
        /// What stands there already.
        other: String,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer failed: {source}")]
    Encode {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The model has no chat template, and one is needed.
    #[error(
        "{} has no chat template (chat_template.jinja, chat_template in tokenizer_config.json, or tokenizer.chat_template in GGUF metadata); give a plain prompt",
        dir.display()
    )]
    NoChatTemplate {
        /// The model directory.
        dir: PathBuf,
    },
    /// Chat templates refuse an empty list of messages.
    #[error("the conversation has no messages; give at least one")]
    NoMessages,
    /// A role that could forge a control token.
    #[error("role {role:?} of message {index}: a role has 1 to 64 letters, digits, '-' or '_'")]
    Role {
        /// As given.
        role: String,
        /// Which message, counted from 0.
        index: usize,
    },
    /// `raise_exception` of the chat template: it does not accept these messages.
    #[error("the chat template refuses the conversation: {message}")]
    TemplateRefused {
        /// The template's own words.
        message: String,
    },
    /// The chat template is broken, or uses what we do not have.
    #[error("chat template: {source}")]
    Template {
        /// Why, with the line.
        source: minijinja::Error,
    },
    /// More output than any model reads.
    #[error("the rendered conversation is longer than {limit} bytes; shorten it")]
    PromptTooLarge {
        /// The most that is rendered.
        limit: usize,
    },
    /// What the template writes cannot be told from what the messages say.
    #[error(
        "a message or tool contains {literal:?}, and this chat template mixes such text with its own control tokens; \
         remove it from the message"
    )]
    ControlTextInData {
        /// The control token's text.
        literal: String,
    },
    /// A sampling setting without meaning.
    #[error("{name} is {value}, expected {expected}")]
    SamplingOption {
        /// Its name.
        name: &'static str,
        /// As given.
        value: f64,
        /// What would have been right.
        expected: &'static str,
    },
    /// A NaN or an infinity came out of the model.
    #[error("logit of token {token} is {value}: the model computed no number; its file may be damaged")]
    LogitNotFinite {
        /// Index of the logit.
        token: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// No logits at all.
    #[error("there are no logits to sample from")]
    NoLogits,
    /// A constraint that no token meets.
    #[error("the form that was asked for allows no token of this model here; ask for another form")]
    NothingAllowed,
    /// The form that an answer must have cannot be followed.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// A tool call that is not one.
    #[error(transparent)]
    ToolCall(#[from] ToolCallError),
}

/// A message that draws its place in the text over several lines, on one.
fn one_line(error: &fancy_regex::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
