//! What the model reads before it answers, and where in it a state is worth keeping.

use serde_json::Value;

use crate::chat::Message;
use crate::template::{ChatTemplate, TemplateOptions};
use crate::text_side::TextSide;
use crate::tool_calls::ToolSchemas;
use crate::{EngineError, Tokenizer};

/// Two first words of a user with no first character in common: where prompts that differ only in them part, the user's turn begins.
const PROBES: [&str; 2] = ["0", "Z"];

/// Tokens, and what they mean for the answer.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// At least one.
    pub tokens: Vec<u32>,
    /// Lengths, ascending, at which the model's state serves later prompts: the end of system prompt and tools, and the end of the
    /// conversation before the start of the answer, since a template may show the answer differently (without its thoughts) once
    /// it is history.
    pub keep: Vec<usize>,
    /// The prompt has opened a thought.
    pub in_thought: bool,
    /// The tools that are offered.
    pub schemas: ToolSchemas,
}

impl Prompt {
    /// A conversation in the words of the model's chat template. `tools` is an array of OpenAI's tool objects.
    pub fn of_messages(
        text: &TextSide,
        messages: &[Message],
        tools: Option<&Value>,
        options: &TemplateOptions,
    ) -> Result<Prompt, EngineError> {
        let no_template = || EngineError::NoChatTemplate { dir: text.dir().to_owned() };
        let rendering = Rendering {
            template: text.template().ok_or_else(no_template)?,
            tokenizer: text.tokenizer(),
            tools,
            options,
        };
        let (tokens, in_thought) = rendering.tokens(messages, true)?;
        let mut keep: Vec<usize> = [
            rendering.preamble(messages, &tokens),
            // A template may refuse to render a conversation that ends here; then nothing is kept.
            rendering.tokens(messages, false).ok().map(|(history, _)| common(&history, &tokens)),
        ]
        .into_iter()
        .flatten()
        .filter(|&n| n > 0 && n < tokens.len())
        .collect();
        keep.dedup();
        let schemas = tools.map(ToolSchemas::new).unwrap_or_default();
        Ok(Prompt { tokens, keep, in_thought, schemas })
    }

    /// Text as it is, after the token that texts of this model start with, if there is one.
    pub fn of_text(text: &TextSide, prompt: &str) -> Result<Prompt, EngineError> {
        let tokenizer = text.tokenizer();
        let mut tokens: Vec<u32> = tokenizer.bos_id().into_iter().collect();
        tokens.extend(tokenizer.encode(prompt)?);
        Ok(Prompt::of_tokens(tokens))
    }

    /// Tokens as they are.
    pub fn of_tokens(tokens: Vec<u32>) -> Prompt {
        Prompt { tokens, ..Prompt::default() }
    }
}

struct Rendering<'a> {
    template: &'a ChatTemplate,
    tokenizer: &'a Tokenizer,
    tools: Option<&'a Value>,
    options: &'a TemplateOptions,
}

impl Rendering<'_> {
    /// The tokens of a conversation, and whether they end inside of a thought.
    fn tokens(&self, messages: &[Message], start_answer: bool) -> Result<(Vec<u32>, bool), EngineError> {
        let options = TemplateOptions { add_generation_prompt: start_answer, ..self.options.clone() };
        let rendered = self.template.render(self.tokenizer, messages, self.tools, &options)?;
        Ok((self.tokenizer.encode_parts(&rendered.parts)?, rendered.starts_in_thought()))
    }

    /// The length of what every conversation with these tools and this system prompt starts with, if there is either.
    fn preamble(&self, messages: &[Message], tokens: &[u32]) -> Option<usize> {
        let is_system = |message: &&Message| matches!(message.role.as_str(), "system" | "developer");
        let n_system = messages.iter().take_while(is_system).count();
        if n_system == 0 && self.tools.is_none() {
            return None;
        }
        let mut probe = messages[..n_system].to_vec();
        let lengths = PROBES.map(|word| {
            probe.truncate(n_system);
            probe.push(Message::user(word));
            self.tokens(&probe, false).map_or(0, |(probe, _)| common(&probe, tokens))
        });
        lengths.into_iter().min()
    }
}

/// The length of the longest common prefix.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
