//! Where a packed model may and may not be written.

use std::fs;

use flashmill_pack::RecipeOptions;

use crate::support::{fixture, pack};

fn refused(source: &std::path::Path, out: &std::path::Path, words: &[&str]) {
    let error = pack(source, out, RecipeOptions::default()).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn the_output_is_a_directory_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    for entry in fs::read_dir(fixture("qwen3_moe")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, source.join(path.file_name().unwrap())).unwrap();
    }
    refused(&source, &source, &["inside the source"]);
    refused(&source, &source.join("new/deep"), &["inside the source"]);
    // A file of it stands for the directory.
    for file in ["config.json", "model.safetensors"] {
        refused(&source.join(file), &source.join("new"), &["inside the source"]);
    }
    assert!(!source.join("new").exists());

    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("letter.txt"), "dear").unwrap();
    refused(&source, &full, &["full is not empty"]);
    assert_eq!(fs::read_dir(&full).unwrap().count(), 1);
    refused(&source, &full.join("letter.txt"), &["not a directory"]);
    #[cfg(target_os = "linux")]
    refused(&source, std::path::Path::new("/proc/new"), &["/proc/new", "cannot create"]);

    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    pack(&source, &empty, RecipeOptions::default()).unwrap();
}

/// A GGUF file stands for itself: its directory is where people keep models.
#[test]
fn beside_a_gguf_file() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("model.gguf");
    fs::copy(fixture("qwen3_5_moe_gguf"), &source).unwrap();
    pack(&source, &dir.path().join("out"), RecipeOptions::default()).unwrap();
}

#[test]
fn a_weight_that_is_no_number_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    for entry in fs::read_dir(fixture("qwen3_moe")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, source.join(path.file_name().unwrap())).unwrap();
    }
    let checkpoint = crate::support::open(&source);
    let down = checkpoint.bundle(1, 5).glu.down;
    let extent = down.parts[0][0];
    let path = source.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    // Row 3 of 96 BF16 values.
    let at = extent.offset as usize + (3 * 96 + 7) * 2;
    bytes[at..at + 2].copy_from_slice(&[0x80, 0x7f]);
    fs::write(&path, bytes).unwrap();
    let out = dir.path().join("out");
    let error = pack(&source, &out, crate::support::bits(4)).unwrap_err().to_string();
    assert!(error.contains(&down.name) && error.contains("row 3"), "{error}");
    assert!(!out.join("flashmill.json").exists());
}
