//! What turns text into tokens and back, and how answers are sampled and end, wherever a model's files say it.

use std::path::{Path, PathBuf};

use flashmill_checkpoint::Checkpoint;

use crate::EngineError;
use crate::gguf_keys::GgufKeys;
use crate::sampling::GenerationDefaults;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// Control tokens that end a turn or a text. GGUF metadata name one end token; transformers' files name both.
const END_TOKENS: [&str; 2] = ["<|im_end|>", "<|endoftext|>"];

/// Everything of a model but its numbers. It serves any number of threads.
pub struct TextSide {
    dir: PathBuf,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    defaults: GenerationDefaults,
}

impl TextSide {
    /// Where the model lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Text to tokens and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Messages to text, if the model has a chat template.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The model's own sampling settings and end tokens.
    pub fn defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    /// The most memory that [`TextSide::open`] takes: what holds for GGUF metadata of every kind (tests/allocation.rs), and more than
    /// what a tokenizer.json takes.
    pub(crate) fn most_bytes(checkpoint: &Checkpoint) -> u64 {
        let len = |path: &Path| path.metadata().map_or(0, |meta| meta.len());
        let file_bytes = match checkpoint.gguf_metadata() {
            // The metadata end before the first tensor.
            Some(path) if path == checkpoint.files()[0].path => {
                let starts = checkpoint.trunk().embed.parts.iter().flatten();
                let starts = starts.filter(|extent| extent.file.0 == 0).map(|extent| extent.offset);
                starts.min().unwrap_or(len(path))
            }
            Some(path) => len(path),
            None => len(&checkpoint.dir().join("tokenizer.json")),
        };
        (64 << 20) + 8 * file_bytes
    }

    /// Reads GGUF metadata where the checkpoint has them, the files beside the weights otherwise; a chat template that the metadata lack
    /// may lie beside them.
    pub(crate) fn open(checkpoint: &Checkpoint) -> Result<TextSide, EngineError> {
        let eos_ids = &checkpoint.spec().eos_token_ids;
        let dir = checkpoint.dir();
        let mut text = match checkpoint.gguf_metadata() {
            Some(path) => TextSide::of_keys(dir, &GgufKeys::open(path)?, eos_ids)?,
            None => TextSide {
                dir: dir.to_owned(),
                tokenizer: Tokenizer::open(dir)?,
                template: ChatTemplate::open(dir)?,
                defaults: GenerationDefaults::open(dir, eos_ids)?,
            },
        };
        // A chat turn may end with another token than the config's: the tokenizer's own.
        text.tokenizer.eos_id().into_iter().for_each(|id| text.defaults.add_eos(id));
        Ok(text)
    }

    fn of_keys(dir: &Path, keys: &GgufKeys, eos_ids: &[u32]) -> Result<TextSide, EngineError> {
        let tokenizer = Tokenizer::of_keys(keys)?;
        let mut defaults = GenerationDefaults::of_keys(keys, eos_ids)?;
        for token in tokenizer.added_tokens().iter() {
            if token.special && END_TOKENS.contains(&token.content.as_str()) {
                defaults.add_eos(token.id);
            }
        }
        let template = match ChatTemplate::of_keys(keys)? {
            None => ChatTemplate::open(dir)?,
            found => found,
        };
        Ok(TextSide { dir: dir.to_owned(), tokenizer, template, defaults })
    }
}
