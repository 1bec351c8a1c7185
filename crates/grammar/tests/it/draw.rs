//! Answers drawn at random from what a constraint allows.

use std::path::Path;
use std::sync::LazyLock;

use flashmill_engine::sampling::Rng;
use flashmill_engine::{ChatTemplate, Constraint, Tokenizer};
use flashmill_grammar::Grammars;

/// `<|im_end|>` and `<|endoftext|>` of the demo model.
pub(crate) const ENDS: [u32; 2] = [0, 2];
/// A control token that belongs into no answer.
pub(crate) const IM_START: u32 = 1;

/// The demo model's tokenizer: 4,096 tokens, the markers of thoughts and calls among them.
pub(crate) static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_json(&tokenizer_json()).expect("a tokenizer"));

/// Grammars of a model that writes calls as JSON.
pub(crate) static JSON: LazyLock<Grammars> = LazyLock::new(|| grammars(&TOKENIZER, JSON_TEMPLATE));

/// Grammars of a model that writes calls as tags.
pub(crate) static TAGS: LazyLock<Grammars> = LazyLock::new(|| grammars(&TOKENIZER, TAG_TEMPLATE));

const JSON_TEMPLATE: &str =
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}
</tool_call>{% endfor %}{% endfor %}";

const TAG_TEMPLATE: &str =
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
<function={{ c.function.name }}>
{% for name, value in c.function.arguments | items %}<parameter={{ name }}>
{{ value }}
</parameter>
{% endfor %}</function>
</tool_call>{% endfor %}{% endfor %}";

/// The text of the demo's tokenizer.json.
pub(crate) fn tokenizer_json() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/tokenizer.json");
    std::fs::read_to_string(path).expect("the demo's tokenizer")
}

pub(crate) fn grammars(tokenizer: &Tokenizer, template: &str) -> Grammars {
    let template = ChatTemplate::from_source(template).expect("a template");
    Grammars::new(tokenizer, &ENDS, Some(&template)).expect("grammars")
}

/// Whether a mask has a token.
pub(crate) fn has(mask: Option<&[u32]>, id: u32) -> bool {
    mask.is_none_or(|mask| mask[(id / 32) as usize] & (1 << (id % 32)) != 0)
}

/// Draws an answer, and looks on: `check` gets the text before each token with whether it may end there.
///
/// For `n_free` tokens the draw is uniform, but for thoughts; after that tokens which close something are preferred, so that the
/// answer ends.
pub(crate) fn draw(
    tokenizer: &Tokenizer,
    constraint: &mut dyn Constraint,
    rng: &mut Rng,
    n_free: usize,
    mut check: impl FnMut(&str, bool),
) -> String {
    let byte = |text: &str| tokenizer.token_to_id(text).expect("a byte");
    let closing = ["\"", "}", "]"].map(byte);
    let think = tokenizer.token_to_id("<think>").expect("a token");
    let mut tokens = Vec::new();
    for n in 0.. {
        let mask = constraint.allowed().expect("a mask").map(<[u32]>::to_vec);
        let mask = mask.as_deref();
        let text = tokenizer.decode(&tokens);
        check(&text, has(mask, ENDS[0]));
        assert_eq!(has(mask, ENDS[0]), has(mask, ENDS[1]), "all end tokens are the same");
        assert!(n < n_free + 3_000, "the answer does not end: {text:?}");
        let allowed: Vec<u32> =
            (0..tokenizer.n_vocab() as u32).filter(|&id| has(mask, id) && id != think).collect();
        assert!(!allowed.is_empty(), "nothing is allowed after {text:?}");
        let uniform = allowed[(rng.next_f64() * allowed.len() as f64) as usize];
        let token = match n >= n_free {
            false => uniform,
            true => {
                let tag = next_of_end_tag(&text).map(|next| byte(&next.to_string()));
                let better = ENDS.iter().copied().chain(tag).chain(closing);
                better.into_iter().find(|&id| has(mask, id)).unwrap_or(uniform)
            }
        };
        constraint.accept(token).expect("an allowed token");
        if ENDS.contains(&token) {
            return text;
        }
        tokens.push(token);
    }
    unreachable!("the loop has no end of its own")
}

/// Inside of a parameter: the next character of the tag that ends its value, or what ends its name.
fn next_of_end_tag(text: &str) -> Option<char> {
    const TAG: &str = "\n</parameter>\n";
    let parameter = &text[text.rfind("<parameter=")? + "<parameter=".len()..];
    let Some(name) = parameter.find(">\n") else {
        return Some('>').filter(|_| !parameter.is_empty());
    };
    let value = &parameter[name + 2..];
    let n = (0..=TAG.len()).rev().find(|&n| value.ends_with(&TAG[..n]))?;
    TAG[n..].chars().next()
}
