//! Headers of GGUF files: real ones, damaged ones, and ones that lie.

use std::io::Read;
use std::path::Path;

use flashmill_checkpoint::gguf::{Array, GgufError, Header, Kind, TensorType, Value, read_header};
use flashmill_layout::GgmlType;
use proptest::prelude::*;

use crate::gguf_support::{ARRAY, BOOL, Draft, STRING, Tensor, U32, array, open, string};
use crate::support::says;

fn read(bytes: &[u8]) -> Result<Header, GgufError> {
    let header = read_header(Path::new("m.gguf"), bytes, bytes.len() as u64)?;
    let mut ends: Vec<(u64, u64)> = header.tensors.iter().map(|t| (t.offset, t.offset + t.len)).collect();
    ends.sort_unstable();
    for (i, &(begin, end)) in ends.iter().enumerate() {
        assert!(begin >= header.data_start && end <= bytes.len() as u64, "{begin}..{end} lies outside");
        assert!(i == 0 || ends[i - 1].1 <= begin, "{begin}..{end} overlaps another");
    }
    Ok(header)
}

/// The message of a file that must not be read: one line that names the file.
#[track_caller]
fn refused(bytes: &[u8]) -> String {
    let message = read(bytes).expect_err("the file is damaged").to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    says(&message, &["m.gguf: "]);
    message
}

/// A small file with every type of value and three tensors.
fn small() -> Draft {
    let mut draft = Draft::default();
    let numbers: [(u32, &[u8]); 11] = [
        (0, &[200]),
        (1, &[0x80]),
        (2, &[1, 2]),
        (3, &[0, 0x80]),
        (U32, &[1, 0, 0, 0]),
        (5, &[0xff; 4]),
        (6, &[0, 0, 0x80, 0xbf]),
        (BOOL, &[1]),
        (10, &[0xff; 8]),
        (11, &[0xff; 8]),
        (12, &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f]),
    ];
    for (kind, bytes) in numbers {
        draft.set(&format!("number.{kind}"), kind, bytes.to_vec());
        draft.set(&format!("array.{kind}"), ARRAY, array(kind, &[bytes.to_vec(), bytes.to_vec()]));
    }
    draft.set("text", STRING, string("h\u{e9}"));
    draft.set("texts", ARRAY, array(STRING, &["", "a", "\u{20ac}"].map(string)));
    let inner = array(U32, &[vec![1, 0, 0, 0]]);
    draft.set("nested", ARRAY, array(ARRAY, &[inner.clone(), array(STRING, &[string("x")]), inner]));
    draft.push("a", &[3, 2], &[1.0; 6]);
    draft.push("b", &[1], &[2.0]);
    draft.tensors.push(Tensor { name: "c".to_owned(), dims: vec![64, 1, 1, 2], code: 8, data: vec![7; 136] });
    draft
}

#[test]
fn every_value_comes_back() {
    let header = read(&small().bytes()).unwrap();
    let expected = [
        (0, Value::Unsigned(200)),
        (1, Value::Negative(-128)),
        (2, Value::Unsigned(513)),
        (3, Value::Negative(-32768)),
        (U32, Value::Unsigned(1)),
        (5, Value::Negative(-1)),
        (6, Value::Float(-1.0)),
        (BOOL, Value::Bool(true)),
        (10, Value::Unsigned(u64::MAX)),
        (11, Value::Negative(-1)),
        (12, Value::Float(1.5)),
    ];
    for (kind, value) in expected {
        assert_eq!(header.metadata.get(&format!("number.{kind}")), Some(&value), "type {kind}");
        let array = header.metadata.get(&format!("array.{kind}")).unwrap().as_array().unwrap();
        assert_eq!(array.numbers().collect::<Vec<_>>(), [value.clone(), value], "type {kind}");
    }
    assert_eq!(header.metadata.get("text").unwrap().as_str(), Some("h\u{e9}"));
    let texts = header.metadata.get("texts").unwrap().as_strings().unwrap();
    assert_eq!(texts.iter().collect::<Vec<_>>(), ["", "a", "\u{20ac}"]);
    assert_eq!((texts.get(2), texts.get(3)), (Some("\u{20ac}"), None));
    assert_eq!(header.metadata.get("nested"), Some(&Value::Array(Array::Arrays { len: 3 })));
    assert_eq!(header.metadata.get("missing"), None);

    let c = &header.tensors[2];
    assert_eq!((c.dims(), c.len, c.ty), (&[64, 1, 1, 2][..], 136, TensorType::Weights(GgmlType::Q8_0)));
    assert_eq!(header.alignment, 32);
}

#[test]
fn alignments_and_both_versions_are_read() {
    for alignment in [1, 8, 64, 4096] {
        let mut bytes = Draft { alignment: Some(alignment), ..small() }.bytes();
        for version in [2, 3] {
            bytes[4] = version;
            let header = read(&bytes).unwrap();
            assert_eq!((header.version, header.alignment), (u32::from(version), u64::from(alignment)));
            for (tensor, expected) in header.tensors.iter().zip(small().tensors) {
                assert_eq!(&bytes[tensor.offset as usize..][..tensor.len as usize], expected.data);
            }
        }
    }
}

#[test]
fn fixtures_are_read() {
    for (name, n_tensors, alignment) in [("qwen3_5_moe_gguf", 96, 32), ("qwen3_5_moe_kquant", 38, 32)] {
        let (header, bytes) = open(name);
        assert_eq!((header.version, header.tensors.len(), header.alignment), (3, n_tensors, alignment));
        assert_eq!(header.metadata.iter().len(), 36);
        let get = |key: &str| header.metadata.get(key).unwrap_or_else(|| panic!("{name}: {key}"));
        assert_eq!(get("general.architecture").as_str(), Some("qwen35moe"));
        assert_eq!(get("qwen35moe.rope.freq_base").as_f64(), Some(1e7));
        assert_eq!(get("tokenizer.ggml.add_bos_token").as_bool(), Some(false));
        assert!(get("tokenizer.chat_template").as_str().unwrap().starts_with("{%- set system"));
        let tokens = get("tokenizer.ggml.tokens").as_strings().unwrap();
        let types = get("tokenizer.ggml.token_type").as_array().unwrap();
        assert_eq!((tokens.get(0), tokens.len() as u64, types.kind()), (Some("!"), types.len(), Kind::I32));
        assert_eq!(get("tokenizer.ggml.merges").as_strings().unwrap().get(1), Some("h e"));
        // The last tensor ends where the file does, or at the padding behind it.
        let end = header.tensors.iter().map(|t| t.offset + t.len).max().unwrap();
        assert!(bytes.len() as u64 - end < 32);
        // What this test's own writer makes of it says the same.
        let again = read(&Draft::of(name).bytes()).unwrap();
        let facts = |h: &Header| h.tensors.iter().map(|t| (t.name.clone(), t.ty, t.len)).collect::<Vec<_>>();
        assert_eq!(facts(&again), facts(&header));
        for (key, value) in header.metadata.iter().filter(|(_, value)| value.as_f64().is_none()) {
            assert_eq!(again.metadata.get(key), Some(value), "{key}");
        }
    }
}

#[test]
fn other_files_are_told_apart() {
    let good = small().bytes();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    says(&refused(b""), &["truncated"]);
    says(&refused(&with(0, b"GGML")), &["not a GGUF file"]);
    says(&refused(&with(0, b"version ")), &["git lfs pull"]);
    says(&refused(&with(4, &[1, 0, 0, 0])), &["version 1"]);
    says(&refused(&with(4, &[4, 0, 0, 0])), &["version 4"]);
    says(&refused(&with(4, &[0, 0, 0, 0])), &["version 0"]);
    says(&refused(&with(4, &[0, 0, 0, 3])), &["big-endian"]);
    says(&refused(&with(8, &[0xff; 8])), &["18446744073709551615 tensors"]);
    says(&refused(&with(16, &(1u64 << 63).to_le_bytes())), &["metadata pairs"]);
}

/// A file whose one pair has this value.
fn with_value(kind: u32, bytes: Vec<u8>) -> Vec<u8> {
    let mut draft = Draft::default();
    draft.set("the.key", kind, bytes);
    draft.bytes()
}

#[test]
fn values_that_cannot_be_are_refused() {
    let huge = |count: u64, kind: u32| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let deep = (0..6).fold(array(U32, &[]), |inner, _| array(ARRAY, &[inner]));
    let cases: [(u32, Vec<u8>, &[&str]); 12] = [
        (13, vec![], &["unknown type 13"]),
        (u32::MAX, vec![], &["unknown type 4294967295"]),
        (BOOL, vec![2], &["should be a bool", "is 2"]),
        (ARRAY, array(BOOL, &[vec![1], vec![9]]), &["should be a bool", "is 9"]),
        (ARRAY, array(99, &[]), &["unknown type 99"]),
        (ARRAY, deep, &["nests arrays deeper"]),
        (STRING, [&2u64.to_le_bytes()[..], &[0xc3, 0x28]].concat(), &["not UTF-8", "byte 43"]),
        (
            ARRAY,
            array(STRING, &[string("a"), [&1u64.to_le_bytes()[..], &[0x80]].concat()]),
            &["not UTF-8", "byte 64"],
        ),
        (STRING, (u64::MAX / 2).to_le_bytes().to_vec(), &["needs 9223372036854775807 bytes", "truncated"]),
        (ARRAY, huge(u64::MAX / 2, STRING), &["truncated"]),
        (ARRAY, huge(1 << 61, 10), &["needs 18446744073709551615 bytes"]),
        (ARRAY, huge(1 << 40, ARRAY), &["truncated"]),
    ];
    for (kind, bytes, words) in cases {
        let message = refused(&with_value(kind, bytes));
        says(&message, words);
        says(&message, &["\"the.key\""]);
    }
}

#[test]
fn pairs_that_cannot_be_are_refused() {
    let mut twice = small();
    twice.pairs.push(twice.pairs[0].clone());
    says(&refused(&twice.bytes()), &["\"number.0\" is there twice"]);
    let mut long = Draft::default();
    long.set(&"k".repeat(70_000), BOOL, vec![1]);
    says(&refused(&long.bytes()), &["metadata pair 0", "70000 bytes"]);
    for (kind, bytes) in
        [(U32, vec![48, 0, 0, 0]), (U32, vec![0; 4]), (BOOL, vec![1]), (10, vec![0, 0, 0, 0, 1, 0, 0, 0])]
    {
        let mut draft = small();
        draft.set("general.alignment", kind, bytes);
        says(&refused(&draft.bytes()), &["general.alignment"]);
    }
}

#[test]
fn tensors_that_cannot_be_are_refused() {
    type Change = fn(&mut Draft);
    let cases: [(Change, &[&str]); 10] = [
        (|d| d.tensor_mut("a").dims = vec![1; 5], &["\"a\"", "5 dimensions"]),
        (|d| d.tensor_mut("a").dims = vec![0, 2], &["\"a\"", "[0, 2]"]),
        (|d| d.tensor_mut("a").dims = vec![1 << 62, 1 << 62], &["\"a\"", "cannot be"]),
        (|d| d.tensor_mut("a").dims = vec![1 << 62], &["\"a\"", "cannot be"]),
        (|d| d.tensor_mut("a").dims = vec![u64::MAX], &["\"a\"", "cannot be"]),
        (|d| d.tensor_mut("a").dims = vec![1 << 40], &["\"a\"", "4398046511104 bytes", "truncated"]),
        (|d| d.tensor_mut("a").code = 4, &["\"a\"", "unknown type 4"]),
        (|d| d.tensor_mut("c").dims = vec![48, 1], &["\"c\"", "48 values", "32 values of Q8_0"]),
        (|d| d.tensor_mut("b").name = "a".to_owned(), &["\"a\" is described twice"]),
        (|d| d.tensor_mut("b").name = "n".repeat(2000), &["tensor 1", "2000 bytes"]),
    ];
    for (change, words) in cases {
        let mut draft = small();
        change(&mut draft);
        says(&refused(&draft.bytes()), words);
    }
}

#[test]
fn places_that_cannot_be_are_refused() {
    // The offsets are the last eight bytes of each description; the name of the next one follows.
    let good = small().bytes();
    let at = |name: &str| {
        let described = string(name);
        let start = good.windows(described.len()).rposition(|window| window == described).unwrap();
        let n_dims = usize::from(good[start + described.len()]);
        start + described.len() + 4 + 8 * n_dims + 4
    };
    let with = |name: &str, offset: u64| {
        let mut file = good.clone();
        file[at(name)..][..8].copy_from_slice(&offset.to_le_bytes());
        file
    };
    says(&refused(&with("b", 16)), &["\"b\"", "byte 16", "alignment 32"]);
    says(&refused(&with("b", 1 << 20)), &["truncated", "\"b\"", "byte 1048576"]);
    says(&refused(&with("b", 1 << 63)), &["truncated", "\"b\""]);
    says(&refused(&with("b", u64::MAX - 31)), &["truncated", "\"b\""]);
    says(&refused(&with("b", 0)), &["\"b\"", "\"a\"", "ends at"]);
    says(&refused(&with("b", 96)), &["ends at"]);
    // A hole is none of our business.
    let mut draft = small();
    draft.remove("b");
    assert!(read(&draft.bytes()).is_ok());
}

#[test]
fn every_truncation_is_an_error() {
    let good = small().bytes();
    let header = read(&good).unwrap();
    let last = header.tensors.iter().map(|t| t.offset + t.len).max().unwrap();
    for len in 0..last as usize {
        says(&refused(&good[..len]), &["truncated"]);
    }
    // The file's length may also be a lie: then the reader runs out.
    for len in 0..header.data_start as usize - 32 {
        let result = read_header(Path::new("m.gguf"), &good[..len], good.len() as u64);
        says(&result.expect_err("the bytes are missing").to_string(), &["cannot read the header"]);
    }
}

#[test]
fn numbers_of_any_size_anywhere_never_panic() {
    let good = small().bytes();
    let header_len = read(&good).unwrap().data_start as usize;
    for at in 0..header_len - 8 {
        for number in [0, 1, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, u64::MAX - 7, u64::MAX] {
            let mut file = good.clone();
            file[at..at + 8].copy_from_slice(&u64::to_le_bytes(number));
            let _ = read(&file);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damage_never_panics(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = small().bytes();
        for (at, byte) in flips {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        if let Err(error) = read(&file) {
            prop_assert!(error.to_string().starts_with("m.gguf: "));
        }
    }
}

/// A file that is made as it is read.
struct Endless {
    start: Vec<u8>,
    /// What comes behind `start`, again and again.
    repeat: &'static [u8],
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        for byte in to.iter_mut() {
            *byte = match self.start.get(self.at) {
                Some(byte) => *byte,
                None => self.repeat[(self.at - self.start.len()) % self.repeat.len()],
            };
            self.at += 1;
        }
        Ok(to.len())
    }
}

/// Peak and current resident bytes of this process, or of what stands for it.
#[cfg(target_os = "linux")]
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    (field("VmHWM:"), field("VmRSS:"))
}

/// A claim costs nothing; what is really there costs at most 64 MiB and eight times its size.
#[test]
#[cfg(target_os = "linux")]
fn memory_is_bounded_by_the_metadata() {
    const TERABYTES: u64 = 4 << 40;
    const MIB: u64 = 1 << 20;
    let pair = |kind: u32, count: u64| {
        let head = [&b"GGUF\x03\0\0\0"[..], &0u64.to_le_bytes(), &1u64.to_le_bytes(), &string("k")].concat();
        let value = [ARRAY.to_le_bytes(), kind.to_le_bytes()].concat();
        [head, value, count.to_le_bytes().to_vec()].concat()
    };
    // Bytes of metadata that are there, the array's kind and length, what fills it.
    let cases: [(u64, u32, u64, &[u8]); 6] = [
        (0, STRING, 1 << 38, &[0]),
        (0, U32, 1 << 38, &[0]),
        (0, ARRAY, 1 << 38, &[0]),
        (32 * MIB, STRING, 4 * MIB, &[0; 8]),
        (36 * MIB, STRING, 4 * MIB, &[1, 0, 0, 0, 0, 0, 0, 0, b'x']),
        (32 * MIB, ARRAY, 32 * MIB / 12, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (size, kind, count, repeat) in cases {
        let (peak, now) = resident();
        let file = Endless { start: pair(kind, count), repeat, at: 0 };
        let result = read_header(Path::new("m.gguf"), file, TERABYTES);
        assert_eq!(result.is_ok(), size > 0, "{count} of type {kind}");
        let (peak_after, _) = resident();
        // Other tests run beside this one, with a few megabytes each.
        let grown = peak_after.saturating_sub(peak.max(now));
        assert!(grown < 64 * MIB + 8 * size, "{count} of type {kind}: {grown} bytes");
    }
}
