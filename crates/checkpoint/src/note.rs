use std::fmt;

/// Something in the files that the user may want to know and that is no error.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// A field of the config that nothing reads; transformers does not read it either.
    IgnoredField {
        /// Its name, with the object it lies in.
        field: String,
        /// Its value as JSON, cut after some 120 characters.
        value: String,
    },
    /// A size or choice that the config leaves out, so that the family's default holds, as in transformers.
    DefaultedField {
        /// Its name.
        field: &'static str,
        /// The default.
        value: String,
    },
    /// Tensors that are there and not used.
    SkippedTensors {
        /// What they are.
        group: SkippedGroup,
        /// How many.
        count: usize,
        /// Their bytes.
        bytes: u64,
        /// The first by name.
        first: String,
    },
    /// The config ties the head to the embedding table, but the files hold a head of its own, which is used.
    StoredHead {
        /// Its tensor.
        tensor: String,
    },
}

/// Kinds of tensors that the text model does not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SkippedGroup {
    /// The vision tower.
    Vision,
    /// The head that predicts more than one token ahead.
    MultiTokenPrediction,
    /// Anything else outside the layers.
    Other,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::IgnoredField { field, value } => write!(f, "config field {field} = {value} is not used"),
            Note::DefaultedField { field, value } => {
                write!(f, "config field {field} is missing, the family's default {value} is used")
            }
            Note::SkippedTensors { group, count, bytes, first } => {
                write!(f, "{count} tensors of {group} are not used ({bytes} bytes, the first is {first:?})")
            }
            Note::StoredHead { tensor } => {
                write!(f, "tie_word_embeddings is true, but {tensor:?} is stored and is used as the head")
            }
        }
    }
}

impl fmt::Display for SkippedGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SkippedGroup::Vision => "the vision tower",
            SkippedGroup::MultiTokenPrediction => "the multi-token prediction head",
            SkippedGroup::Other => "other parts",
        })
    }
}
