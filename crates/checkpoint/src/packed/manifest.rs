use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::config::ModelConfig;
use super::error::{PackedError, Problem};
use crate::spec::{HeadOrder, ModelSpec};

/// The manifest's file. A directory that has it is a finished packed model.
pub const MANIFEST: &str = "flashmill.json";

const FORMAT: &str = "flashmill";
const VERSION: u64 = 1;

/// A checksum takes 19 bytes: this is room for three million records.
const MAX_BYTES: u64 = 64 << 20;

/// What `flashmill.json` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u64,
    /// How the model was made.
    pub recipe: Recipe,
    /// What it is.
    pub model: ModelConfig,
    /// Which key head serves a DeltaNet value head.
    pub value_heads: ValueHeads,
    /// Matrices and vectors of the trunk, in the order of [`super::trunk_items`].
    pub trunk: Vec<TrunkEntry>,
    /// Layers with experts, ascending.
    pub experts: Vec<ExpertsEntry>,
}

/// How a packed model was made, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Program and version.
    pub written_by: String,
    /// Name of the source's directory or file.
    pub source: String,
    /// Whose habits the source followed.
    pub source_convention: String,
    /// What was done to the experts.
    pub experts: String,
    /// What was done to the trunk.
    pub trunk: String,
    /// The importance file that the scales were fitted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importance: Option<String>,
}

/// [`HeadOrder`] as the manifest writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "HeadOrder says what they are")]
pub enum ValueHeads {
    Grouped,
    Tiled,
}

/// A weight of the trunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrunkEntry {
    /// Its name.
    pub name: String,
    /// The name of its encoding; `F32` for vectors.
    pub encoding: String,
    /// One a part.
    pub checksums: Vec<Checksum>,
}

/// The experts of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertsEntry {
    /// Which layer.
    pub layer: usize,
    /// The names of the encodings of gate, up and down.
    pub encodings: [String; 3],
    /// One a record.
    pub checksums: Vec<Checksum>,
}

/// XXH3 of 64 bits, as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(pub u64);

impl Manifest {
    /// A manifest of the version that this program writes.
    pub fn new(
        recipe: Recipe,
        spec: &ModelSpec,
        trunk: Vec<TrunkEntry>,
        experts: Vec<ExpertsEntry>,
    ) -> Manifest {
        let value_heads = match spec.delta_net.map(|delta| delta.head_order) {
            Some(HeadOrder::Tiled) => ValueHeads::Tiled,
            Some(HeadOrder::Grouped) | None => ValueHeads::Grouped,
        };
        let (format, version) = (FORMAT.to_owned(), VERSION);
        Manifest { format, version, recipe, model: ModelConfig::of(spec), value_heads, trunk, experts }
    }

    /// Reads the manifest of a directory.
    pub fn read(dir: &Path) -> Result<Manifest, PackedError> {
        let path = dir.join(MANIFEST);
        let fail = |action| {
            let path = &path;
            move |source| PackedError::new(path, Problem::Io { action, source })
        };
        let file = File::open(&path).map_err(fail("open"))?;
        let len = file.metadata().map_err(fail("open"))?.len();
        if len > MAX_BYTES {
            return Err(PackedError::new(&path, Problem::TooLong { len, limit: MAX_BYTES }));
        }
        let mut bytes = Vec::new();
        // The file may have grown since.
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(fail("read"))?;
        Manifest::parse(&path, &bytes)
    }

    /// Reads the bytes of a manifest; `path` is for messages.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest, PackedError> {
        /// What tells why a newer manifest has another form.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u64,
        }
        let json = |source| PackedError::new(path, Problem::Json { source });
        let head: Head = serde_json::from_slice(bytes).map_err(json)?;
        if head.format != FORMAT {
            let format = crate::fields::cut(head.format);
            return Err(PackedError::new(path, Problem::Format { format }));
        }
        if head.version != VERSION {
            return Err(PackedError::new(path, Problem::Version { version: head.version }));
        }
        serde_json::from_slice(bytes).map_err(json)
    }

    /// The manifest's text.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).expect("numbers, flags and texts have a JSON form");
        json.push(b'\n');
        json
    }

    pub(super) fn head_order(&self) -> HeadOrder {
        match self.value_heads {
            ValueHeads::Grouped => HeadOrder::Grouped,
            ValueHeads::Tiled => HeadOrder::Tiled,
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for Checksum {
    type Err = NotAChecksum;

    fn from_str(text: &str) -> Result<Checksum, NotAChecksum> {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match text.len() == 16 && text.bytes().all(is_digit) {
            true => u64::from_str_radix(text, 16).map(Checksum).map_err(|_| NotAChecksum),
            false => Err(NotAChecksum),
        }
    }
}

/// A text that is no checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a checksum is 16 lower-case hexadecimal digits")]
pub struct NotAChecksum;

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checksum, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Checksum;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a checksum of 16 hexadecimal digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Checksum, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}
