//! The text that is read if none is given: prose, code, tables and JSON, then conversations, some of them with tools and some in other
//! languages, in the words of the model's own chat template. It is far from complete, and need not be: which inputs of a matrix are
//! large is mostly the model's doing and not the text's (docs/EXPERIMENTS.md).

use flashmill_engine::{EngineError, Message, TemplateOptions, TextPart, TextSide};
use serde::Deserialize;
use serde_json::Value;

/// No template: the words of no conversation.
const PROSE: &str = include_str!("prose.txt");
/// One a line, as in OpenAI's API.
const CONVERSATIONS: &str = include_str!("conversations.jsonl");

#[derive(Deserialize)]
struct Conversation {
    #[serde(default)]
    tools: Option<Value>,
    messages: Vec<Message>,
}

/// All of it, to tell it from that of another version.
pub(super) fn bytes() -> Vec<u8> {
    [PROSE, CONVERSATIONS].concat().into_bytes()
}

fn conversations() -> impl Iterator<Item = Conversation> {
    CONVERSATIONS.lines().map(|line| serde_json::from_str(line).expect("tested"))
}

/// The first `limit` tokens of it in the words of a model, after the token that texts begin with, if the model has one.
pub(super) fn tokens(text: &TextSide, limit: usize) -> Result<Vec<u32>, EngineError> {
    let tokenizer = text.tokenizer();
    let mut tokens: Vec<u32> = tokenizer.bos_id().into_iter().collect();
    tokens.extend(tokenizer.encode(PROSE)?);
    for conversation in conversations() {
        tokens.extend(tokenizer.encode_parts(&parts(text, &conversation))?);
    }
    tokens.truncate(limit);
    Ok(tokens)
}

/// As the model's template has it; without one, or if it refuses, as a plain record of who said what.
fn parts(text: &TextSide, conversation: &Conversation) -> Vec<TextPart> {
    // A template may ask for the time; the same model gets the same text on any day.
    let options = TemplateOptions {
        add_generation_prompt: false,
        now: Some(Default::default()),
        ..TemplateOptions::default()
    };
    let Conversation { tools, messages } = conversation;
    let rendered =
        text.template().map(|template| template.render(text.tokenizer(), messages, tools.as_ref(), &options));
    match rendered {
        Some(Ok(rendered)) => rendered.parts,
        Some(Err(_)) | None => vec![TextPart::Data(plain(conversation))],
    }
}

fn plain(conversation: &Conversation) -> String {
    let mut text = conversation.tools.as_ref().map_or_else(String::new, |tools| format!("{tools}\n"));
    for message in &conversation.messages {
        let said = message.content.as_ref().map(|content| content.text()).unwrap_or_default();
        text.push_str(&format!("{}: {said}", message.role));
        for call in &message.tool_calls {
            text.push_str(&format!(" {}({})", call.name, call.arguments));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use flashmill_engine::Engine;

    use super::*;

    #[test]
    fn it_is_read_and_shown() {
        assert!(PROSE.is_ascii() && CONVERSATIONS.is_ascii() && PROSE.len() > 2000);
        let all: Vec<Conversation> = conversations().collect();
        assert!(all.len() >= 5 && all.iter().all(|one| one.messages.last().unwrap().role == "assistant"));
        let calls = all.iter().flat_map(|one| &one.messages).map(|message| message.tool_calls.len());
        assert!(calls.sum::<usize>() >= 5);
        let shown = plain(&all[0]);
        for part in ["\"get_forecast\"", "user: What will", "assistant:  get_forecast({", "tool: {\"sky\""] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
    }

    /// In the templates' words: their control tokens are there, and calls in their form.
    #[test]
    fn a_model_with_a_template_reads_its_own_words() {
        for model in ["models/demo", "fixtures/qwen3_5_moe"] {
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(model);
            let text = Engine::text_of(&path).unwrap();
            let all = tokens(&text, usize::MAX).unwrap();
            let begin = text.tokenizer().encode_parts(&[TextPart::Template("<|im_start|>".into())]).unwrap();
            let n_messages = all.iter().filter(|&&token| token == begin[0]).count();
            assert!(begin.len() == 1 && n_messages > 30, "{n_messages} messages");
            assert!(text.tokenizer().decode(&all).matches("</tool_call>").count() >= 6);
            assert_eq!(tokens(&text, 100).unwrap(), all[..100]);
        }
    }
}
