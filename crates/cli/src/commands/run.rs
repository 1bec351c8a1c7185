//! `flashmill run MODEL -p TEXT`: one prompt, one answer.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use flashmill_engine::{Engine, Message, Piece, Prompt, Sampler, Session};
use serde_json::{Value, json};

use crate::answer::{Answer, AnswerView, End, Question, answer};
use crate::flags::RunOptions;
use crate::form::FormFlag;
use crate::interrupt::{EXIT_INTERRUPTED, Interrupt};
use crate::load;
use crate::model_path::ModelPath;
use crate::prompt::{self, read_prompt};
use crate::report::{Report, timing_table};
use crate::terminal::{TextOut, dim_stderr, note};

/// Reads the prompt, opens the model, streams the answer.
pub(crate) fn run(options: RunOptions) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let tools = options.tools.as_deref().map(read_tools).transpose()?;
    let form = options.talk.form.as_ref().map(FormFlag::read).transpose()?;
    let text = read_prompt(options.prompt.as_deref(), &options.prompt_files)?;
    let model = ModelPath::find(&options.model)?;
    let mut engine = load::open_engine(model.path(), &options.engine, &options.tuned)?;
    let prompt = make_prompt(&engine, &options, tools.as_ref(), text)?;
    let form = form.map(|form| form.compile(&engine, tools.as_ref())).transpose()?;
    let question = Question { prompt, form: form.as_ref() };
    let sampling = options.talk.sampling(&engine.defaults().sampling);
    let mut sampler = Sampler::new(sampling, engine.tokenizer().n_vocab())?;
    let mut session = engine.session()?;

    let answer = if options.json {
        let answer =
            answer(&mut session, &mut sampler, question, &options.talk, &interrupt, &mut |_: &Piece| Ok(()))?;
        print_json(&options, &answer, &sampler, &session)?;
        answer
    } else {
        let mut out = TextOut::new();
        let mut view = AnswerView::new(&mut out);
        let show = &mut |piece: &Piece| view.show(piece);
        let answer = answer(&mut session, &mut sampler, question, &options.talk, &interrupt, show)?;
        view.end()?;
        answer
    };

    if answer.end == End::ContextFull {
        note!("warning: {}", context_full(&session));
    }
    if options.talk.timing {
        note!("{}", timing_table(&session));
    }
    note!("{}", dim_stderr(&Report::of(&session).line()));
    Ok(if answer.end == End::Interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// Why an answer stops in the middle.
pub(super) fn context_full(session: &Session<'_>) -> String {
    let context = session.engine().plan().context;
    format!("the answer ends here because the context of {context} tokens is full; raise --context")
}

pub(super) fn make_prompt(
    engine: &Engine,
    options: &RunOptions,
    tools: Option<&Value>,
    text: String,
) -> Result<Prompt> {
    if options.raw {
        return Ok(Prompt::of_text(engine.text(), &text)?);
    }
    if engine.template().is_none() && tools.is_none() && options.talk.system.is_none() {
        note!("warning: the model has no chat template; it continues the prompt as it is (--raw says so)");
        return Ok(Prompt::of_text(engine.text(), &text)?);
    }
    let mut messages: Vec<Message> = options.talk.system.iter().map(Message::system).collect();
    messages.push(Message::user(text));
    Ok(Prompt::of_messages(engine.text(), &messages, tools, &options.talk.template())?)
}

/// An OpenAI `tools` array.
pub(super) fn read_tools(path: &Path) -> Result<Value> {
    let text = prompt::read_file(path)?;
    let tools: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
    let Some(list) = tools.as_array() else {
        bail!("{} is not a JSON array of tools", path.display());
    };
    for (index, tool) in list.iter().enumerate() {
        if !tool["function"]["name"].is_string() {
            bail!(
                "{}: tool {index} has no function.name; the form is that of OpenAI's tools",
                path.display()
            );
        }
    }
    Ok(tools)
}

fn print_json(options: &RunOptions, answer: &Answer, sampler: &Sampler, session: &Session<'_>) -> Result<()> {
    let calls: Vec<_> = answer.calls.iter().filter_map(|call| call.call.as_ref().ok()).collect();
    let raw_calls: Vec<_> = answer.calls.iter().map(|call| &call.raw).collect();
    let sampling = sampler.options();
    let object = json!({
        "model": options.model.to_string_lossy(),
        "text": answer.text,
        "reasoning": (!answer.thought.is_empty()).then_some(&answer.thought),
        "tool_calls": calls,
        "raw_tool_calls": raw_calls,
        "finish_reason": answer.end.reason(!calls.is_empty()),
        "usage": {"prompt_tokens": answer.n_prompt_tokens, "completion_tokens": answer.n_tokens},
        "sampling": {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
            "min_p": sampling.min_p, "seed": sampler.seed()},
        "statistics": Report::of(session).json(),
    });
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&object)?)
        .context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn tools_are_checked_before_the_model_is_opened() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("tools.json");
        let check = |text: &str| {
            fs::write(&path, text).expect("a file");
            read_tools(&path)
        };
        assert!(check(r#"[{"type": "function", "function": {"name": "f"}}]"#).is_ok());
        for (text, word) in [
            ("{", "not valid JSON"),
            ("{}", "not a JSON array"),
            (r#"[{"function": {"name": "f"}}, {"name": "g"}]"#, "tool 1 has no function.name"),
        ] {
            let error = format!("{:#}", check(text).expect_err("wrong"));
            assert!(error.contains(word), "{error}");
        }
    }
}
