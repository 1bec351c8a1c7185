//! Metadata: named values of thirteen types, arrays kept in one piece each.

use std::fmt;
use std::io::Read;

use super::error::Problem;
use super::source::Source;

/// The deepest nesting of arrays that is read over.
const MAX_NESTING: usize = 4;

/// The types of metadata values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// A metadata value. Whole numbers keep their value, whatever their width was.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number that is not negative.
    Unsigned(u64),
    /// A negative number.
    Negative(i64),
    /// A floating-point number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// Several values of one type.
    Array(Array),
}

/// An array of metadata values.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Numbers or bools as the file's bytes.
    Numbers {
        /// Their type.
        kind: Kind,
        /// Little-endian, one after the other.
        bytes: Vec<u8>,
    },
    /// Strings.
    Strings(Strings),
    /// Arrays, which no model of ours has: only their number is kept.
    Arrays {
        /// How many.
        len: u64,
    },
}

/// Strings in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// The byte after the last of each.
    ends: Vec<u32>,
}

/// The metadata of a file, in its order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    /// Bytes of a value; `None` where they vary.
    fn size(self) -> Option<u64> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::String | Kind::Array => None,
        }
    }

    fn read<R: Read>(source: &mut Source<R>) -> Result<Kind, Problem> {
        let offset = source.offset;
        let code = source.u32()?;
        let kind = usize::try_from(code).ok().and_then(|code| Kind::ALL.get(code));
        kind.copied().ok_or_else(|| Problem::UnknownKind { place: source.place.clone(), offset, code })
    }

    /// A number or a bool from its bytes.
    fn number(self, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let unsigned = u64::from_le_bytes(wide);
        let signed = |bits: u32| match (unsigned << (64 - bits)) as i64 >> (64 - bits) {
            number if number < 0 => Value::Negative(number),
            number => Value::Unsigned(number as u64),
        };
        match self {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => Value::Unsigned(unsigned),
            Kind::I8 => signed(8),
            Kind::I16 => signed(16),
            Kind::I32 => signed(32),
            Kind::I64 => signed(64),
            Kind::F32 => Value::Float(f64::from(f32::from_bits(unsigned as u32))),
            Kind::F64 => Value::Float(f64::from_bits(unsigned)),
            Kind::Bool => Value::Bool(unsigned != 0),
            Kind::String | Kind::Array => unreachable!("{self} is no number"),
        }
    }
}

impl Value {
    /// What it is, in the widest type of its sort.
    pub fn kind(&self) -> Kind {
        match self {
            Value::Unsigned(_) => Kind::U64,
            Value::Negative(_) => Kind::I64,
            Value::Float(_) => Kind::F64,
            Value::Bool(_) => Kind::Bool,
            Value::String(_) => Kind::String,
            Value::Array(_) => Kind::Array,
        }
    }

    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Unsigned(number) => Some(*number),
            _ => None,
        }
    }

    /// Any number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Unsigned(number) => Some(*number as f64),
            Value::Negative(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// True or false.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// Text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Several values.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Several strings.
    pub fn as_strings(&self) -> Option<&Strings> {
        match self {
            Value::Array(Array::Strings(strings)) => Some(strings),
            _ => None,
        }
    }

    pub(super) fn read<R: Read>(source: &mut Source<R>) -> Result<Value, Problem> {
        match Kind::read(source)? {
            Kind::String => source.string(None).map(Value::String),
            Kind::Array => Array::read(source).map(Value::Array),
            Kind::Bool => {
                let offset = source.offset;
                let value = source.u8()?;
                check_bools(source, offset, &[value])?;
                Ok(Value::Bool(value == 1))
            }
            kind => {
                let mut bytes = [0; 8];
                let size = kind.size().expect("a number") as usize;
                for byte in &mut bytes[..size] {
                    *byte = source.u8()?;
                }
                Ok(kind.number(&bytes[..size]))
            }
        }
    }
}

impl fmt::Display for Value {
    /// On one line, long text and arrays cut short.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unsigned(number) => number.fmt(f),
            Value::Negative(number) => number.fmt(f),
            Value::Float(number) => number.fmt(f),
            Value::Bool(flag) => flag.fmt(f),
            Value::String(text) => write!(f, "{:?}", crate::fields::cut(text.chars().take(100).collect())),
            Value::Array(array) => write!(f, "{} values ({})", array.len(), array.kind()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => "unsigned integer",
            Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => "signed integer",
            Kind::F32 | Kind::F64 => "float",
            Kind::Bool => "bool",
            Kind::String => "string",
            Kind::Array => "array",
        })
    }
}

impl Array {
    /// Number of values.
    pub fn len(&self) -> u64 {
        match self {
            Array::Numbers { kind, bytes } => bytes.len() as u64 / kind.size().expect("a number"),
            Array::Strings(strings) => strings.len() as u64,
            Array::Arrays { len } => *len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of its values.
    pub fn kind(&self) -> Kind {
        match self {
            Array::Numbers { kind, .. } => *kind,
            Array::Strings(_) => Kind::String,
            Array::Arrays { .. } => Kind::Array,
        }
    }

    /// Numbers and bools one by one; nothing if they are something else.
    pub fn numbers(&self) -> impl Iterator<Item = Value> + '_ {
        let (kind, bytes) = match self {
            Array::Numbers { kind, bytes } => (*kind, bytes.as_slice()),
            Array::Strings(_) | Array::Arrays { .. } => (Kind::U8, [].as_slice()),
        };
        bytes.chunks_exact(kind.size().expect("a number") as usize).map(move |bytes| kind.number(bytes))
    }

    fn read<R: Read>(source: &mut Source<R>) -> Result<Array, Problem> {
        let kind = Kind::read(source)?;
        let len = source.u64()?;
        match kind {
            Kind::String => Strings::read(source, len).map(Array::Strings),
            Kind::Array => {
                pass_over(source, kind, len, 1)?;
                Ok(Array::Arrays { len })
            }
            kind => {
                let size = kind.size().expect("a number");
                source.expect_items(len, size)?;
                let (start, mut bytes) = (source.offset, Vec::new());
                source.append(len * size, &mut bytes)?;
                if kind == Kind::Bool {
                    check_bools(source, start, &bytes)?;
                }
                bytes.shrink_to_fit();
                Ok(Array::Numbers { kind, bytes })
            }
        }
    }
}

impl Strings {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        Some(&self.text[start..end])
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + '_ {
        (0..self.len()).map(|index| self.get(index).expect("in bounds"))
    }

    fn read<R: Read>(source: &mut Source<R>, len: u64) -> Result<Strings, Problem> {
        // Each takes at least the eight bytes of its length.
        source.expect_items(len, 8)?;
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..len {
            source.append_string(&mut text, None)?;
            ends.push(u32::try_from(text.len()).expect("a header is shorter than 4 GiB"));
        }
        ends.shrink_to_fit();
        text.shrink_to_fit();
        Ok(Strings { text: String::from_utf8(text).expect("each string was checked"), ends })
    }
}

impl Metadata {
    pub(super) fn new(pairs: Vec<(String, Value)>) -> Result<Metadata, Problem> {
        let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Problem::DuplicateKey { key: pair[0].to_owned() }),
            None => Ok(Metadata { pairs }),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// All pairs in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + '_ {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }
}

fn check_bools<R: Read>(source: &Source<R>, start: u64, bytes: &[u8]) -> Result<(), Problem> {
    match bytes.iter().position(|&byte| byte > 1) {
        Some(at) => Err(Problem::NotABool {
            place: source.place.clone(),
            offset: start + at as u64,
            value: bytes[at],
        }),
        None => Ok(()),
    }
}

/// Reads over `len` values without keeping them.
fn pass_over<R: Read>(source: &mut Source<R>, kind: Kind, len: u64, depth: usize) -> Result<(), Problem> {
    if depth > MAX_NESTING {
        return Err(Problem::Nesting {
            place: source.place.clone(),
            offset: source.offset,
            limit: MAX_NESTING,
        });
    }
    match kind {
        Kind::String => {
            source.expect_items(len, 8)?;
            for _ in 0..len {
                let bytes = source.u64()?;
                source.skip(bytes)?;
            }
            Ok(())
        }
        Kind::Array => {
            // A type and a length each.
            source.expect_items(len, 12)?;
            for _ in 0..len {
                let (kind, len) = (Kind::read(source)?, source.u64()?);
                pass_over(source, kind, len, depth + 1)?;
            }
            Ok(())
        }
        kind => {
            let size = kind.size().expect("a number");
            source.expect_items(len, size)?;
            source.skip(len * size)
        }
    }
}
