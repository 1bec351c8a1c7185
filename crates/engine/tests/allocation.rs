//! The memory that opening a tokenizer takes is bounded by what its file holds, whatever the file says.
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::print_stdout, reason = "the sizes are worth a look")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use flashmill_checkpoint::gguf::read_metadata;
use flashmill_engine::Tokenizer;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the block came from `alloc` above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STRING: u32 = 8;

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// GGUF metadata of a byte-level tokenizer.
fn metadata(tokens: &[String], merges: &[String]) -> Vec<u8> {
    let mut bytes = [&b"GGUF\x03\0\0\0"[..], &0u64.to_le_bytes(), &4u64.to_le_bytes()].concat();
    for (key, text) in [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "qwen35")] {
        bytes.extend([string(key), STRING.to_le_bytes().to_vec(), string(text)].concat());
    }
    for (key, list) in [("tokenizer.ggml.tokens", tokens), ("tokenizer.ggml.merges", merges)] {
        bytes.extend([string(key), 9u32.to_le_bytes().to_vec(), STRING.to_le_bytes().to_vec()].concat());
        bytes.extend((list.len() as u64).to_le_bytes());
        list.iter().for_each(|text| bytes.extend(string(text)));
    }
    bytes
}

/// GPT-2's letters for the bytes, in any order.
fn letters() -> Vec<char> {
    (33..=126).chain(161..=172).chain(174..=255).chain(256..324).filter_map(char::from_u32).collect()
}

/// The letters, then `n` tokens of `len` letters or more, and the merges that give the first `n_merges` of them from halves
/// that are tokens: each token is one before it with a letter behind.
fn vocabulary(n: usize, n_merges: usize) -> (Vec<String>, Vec<String>) {
    let letters = letters();
    let mut tokens: Vec<String> = letters.iter().map(char::to_string).collect();
    let mut merges = Vec::new();
    for i in 0..n {
        let (left, right) = (tokens[i / letters.len()].clone(), letters[i % letters.len()]);
        if merges.len() < n_merges {
            merges.push(format!("{left} {right}"));
        }
        tokens.push(format!("{left}{right}"));
    }
    (tokens, merges)
}

/// Peak bytes above what was there before, and whether a tokenizer came out.
fn open(path: &Path, file: &[u8]) -> (usize, bool) {
    std::fs::write(path, file).unwrap();
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let opened = read_metadata(path).is_ok_and(|metadata| Tokenizer::from_gguf(path, metadata).is_ok());
    (PEAK.load(Ordering::Relaxed) - before, opened)
}

#[test]
fn opening_is_bounded_by_the_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    const LIMIT: usize = 1 << 19;
    let of = |(tokens, merges): (Vec<String>, Vec<String>)| metadata(&tokens, &merges);
    let repeated = vec!["a b".to_owned(); 4 << 20];
    // A name, the file, whether it is a tokenizer.
    let cases: [(&str, Vec<u8>, bool); 6] = [
        ("the size of Qwen3.5", of(vocabulary(248_320 - 256, 247_587)), true),
        ("as many tokens as may be", of(vocabulary(LIMIT - 256, LIMIT - 256)), true),
        ("one token more", of(vocabulary(LIMIT - 255, 0)), false),
        ("millions of empty tokens", metadata(&vec![String::new(); 8 << 20], &[]), false),
        ("millions of merges", metadata(&vocabulary(0, 0).0, &repeated), false),
        ("one long token", metadata(&[vocabulary(0, 0).0, vec!["a".repeat(64 << 20)]].concat(), &[]), true),
    ];
    for (name, file, is_good) in cases {
        let (peak, opened) = open(&path, &file);
        let limit = (64 << 20) + 8 * file.len();
        println!("{name}: {} KiB of metadata, peak {} KiB of {}", file.len() >> 10, peak >> 10, limit >> 10);
        assert_eq!(opened, is_good, "{name}");
        assert!(peak < limit, "{name}: {peak} bytes for metadata of {}", file.len());
    }
}
