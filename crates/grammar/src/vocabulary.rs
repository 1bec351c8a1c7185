//! A model's tokens as llguidance needs them.

use std::collections::HashSet;
use std::sync::Arc;

use flashmill_engine::{Tokenizer, thinking, tool_calls};
use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::GrammarError;
use crate::error::one_line;
use crate::marker::Marker;

/// Marks a word of the trie as a control token: a byte that no UTF-8 text has.
const CONTROL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// Built once a model; everything that is asked of its tokens.
pub(crate) struct Vocabulary {
    pub(crate) factory: ParserFactory,
    pub(crate) think: Marker,
    pub(crate) end_think: Marker,
    pub(crate) call: Marker,
    pub(crate) end_call: Marker,
    /// Tokens that end an answer.
    pub(crate) eos_ids: Vec<u32>,
    /// Tokens of nothing but line ends, with how many.
    pub(crate) line_ends: Vec<(u32, usize)>,
    /// Control tokens that are not shown.
    hidden: HashSet<u32>,
    /// Every token, as a mask.
    all: Vec<u32>,
}

impl Vocabulary {
    /// `eos_ids`: tokens that end an answer, at least one.
    pub(crate) fn new(tokenizer: &Tokenizer, eos_ids: &[u32]) -> Result<Vocabulary, GrammarError> {
        let n_vocab = tokenizer.n_vocab();
        let mut eos_ids = eos_ids.to_vec();
        eos_ids.retain(|&id| tokenizer.token_bytes(id).is_some());
        if eos_ids.is_empty() {
            return Err(GrammarError::Vocabulary { reason: "it has no token that ends an answer".into() });
        }
        let words: Vec<Vec<u8>> = (0..n_vocab as u32).map(|id| word(tokenizer, id)).collect();
        let info = TokRxInfo::new(n_vocab as u32, eos_ids[0]);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&eos_ids);
        drop(words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env)
            .map_err(|error| GrammarError::Vocabulary { reason: one_line(&error.to_string()) })?;
        factory.quiet();
        *factory.limits_mut() = limits();

        let hidden = hidden_tokens(tokenizer);
        let shown = || {
            let ids = (0..n_vocab as u32).filter(|id| !hidden.contains(id));
            ids.filter_map(|id| Some((id, tokenizer.token_bytes(id)?)))
        };
        let marker = |text: &'static str| {
            let token = tokenizer.added_tokens().iter().find(|token| token.content == text);
            Marker::new(text, token.map(|token| token.id), shown())
        };
        let is_line_ends = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(|&byte| byte == b'\n');
        let line_ends = shown().filter(|(_, bytes)| is_line_ends(bytes)).map(|(id, bytes)| (id, bytes.len()));
        let line_ends = line_ends.collect();
        let mut all = vec![0; n_vocab.div_ceil(32)];
        (0..n_vocab as u32)
            .filter(|&id| tokenizer.token_bytes(id).is_some())
            .for_each(|id| allow(&mut all, id));
        Ok(Vocabulary {
            think: marker(thinking::THINK),
            end_think: marker(thinking::END_THINK),
            call: marker(tool_calls::OPEN),
            end_call: marker(tool_calls::CLOSE),
            factory,
            eos_ids,
            line_ends,
            hidden,
            all,
        })
    }

    /// Whether there is such a token.
    pub(crate) fn has(&self, id: u32) -> bool {
        self.all.get((id / 32) as usize).is_some_and(|word| word & (1 << (id % 32)) != 0)
    }

    /// What a token adds to the text that is shown.
    pub(crate) fn text(&self, id: u32) -> &[u8] {
        let trie = self.factory.tok_env().tok_trie();
        if !self.has(id) || self.hidden.contains(&id) {
            return &[];
        }
        match trie.token(id) {
            [CONTROL, rest @ ..] if !rest.is_empty() => rest,
            bytes => bytes,
        }
    }

    /// Every token but `without`, in `mask`.
    pub(crate) fn all_but(&self, mask: &mut Vec<u32>, without: &[u32]) {
        mask.clone_from(&self.all);
        self.exclude(mask, without);
    }

    /// Takes tokens out of a mask.
    pub(crate) fn exclude(&self, mask: &mut [u32], without: &[u32]) {
        without.iter().for_each(|&id| mask[(id / 32) as usize] &= !(1 << (id % 32)));
    }

    /// The end tokens alone, in `mask`.
    pub(crate) fn only_ends(&self, mask: &mut Vec<u32>) {
        mask.clear();
        mask.resize(self.all.len(), 0);
        self.eos_ids.iter().for_each(|&id| allow(mask, id));
    }
}

/// Adds a token to a mask.
pub(crate) fn allow(mask: &mut [u32], id: u32) {
    mask[(id / 32) as usize] |= 1 << (id % 32);
}

/// What one form may cost. A mask that takes more is an error, not a wait: the numbers are some tens of milliseconds each.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 500_000,
        step_max_items: 100_000,
        max_lexer_states: 20_000, // 1 to 2 kB each
        max_grammar_size: 200_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// The token's bytes in the trie. An added token is no text: a string that spells it is made of other tokens.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    let is_control = |token: &flashmill_engine::tokenizer::AddedToken| {
        token.special || (token.content.starts_with('<') && token.content.ends_with('>'))
    };
    match tokenizer.added_tokens().get(id) {
        Some(token) if is_control(token) => [&[CONTROL], bytes].concat(),
        _ => bytes.to_vec(),
    }
}

/// Control tokens that [`OutputStream`](flashmill_engine::OutputStream) does not show.
fn hidden_tokens(tokenizer: &Tokenizer) -> HashSet<u32> {
    let markers = [thinking::THINK, thinking::END_THINK, tool_calls::OPEN, tool_calls::CLOSE];
    let added = tokenizer.added_tokens().iter();
    added
        .filter(|token| token.special && !markers.contains(&token.content.as_str()))
        .map(|token| token.id)
        .collect()
}
