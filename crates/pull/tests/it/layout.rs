//! What a good hub gives, and how it lies in the cache.

use std::fs;
use std::sync::Mutex;

use flashmill_pull::{PullOptions, Step, pull};

use crate::server::{Act, COMMIT, Hub, bytes, model};

#[test]
fn the_cache_is_laid_out_as_other_tools_expect() {
    let hub = Hub::new(&model(), |_| Act::Serve);
    let cache = tempfile::tempdir().unwrap();
    let snapshot = hub.pull(cache.path()).unwrap();
    hub.assert_same(&snapshot);
    let root = cache.path().join("models--org--model");
    assert_eq!(snapshot, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    for (path, content) in model() {
        let link = fs::read_link(snapshot.join(path)).unwrap();
        let name = link.strip_prefix("../../blobs").unwrap().to_str().unwrap().to_owned();
        assert_eq!(name.len(), if content.len() < 1000 { 40 } else { 64 }, "{path}");
        assert_eq!(fs::read(root.join("blobs").join(name)).unwrap(), content);
    }
    // Nothing is left beside the blobs.
    assert_eq!(fs::read_dir(root.join("blobs")).unwrap().count(), model().len());
}

#[test]
fn what_is_here_is_not_fetched_again() {
    let hub = Hub::new(&model(), |_| Act::Serve);
    let cache = tempfile::tempdir().unwrap();
    hub.pull(cache.path()).unwrap();
    let sent = hub.sent_bytes();
    assert_eq!(sent, model().iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    let snapshot = hub.pull(cache.path()).unwrap();
    assert_eq!(hub.sent_bytes(), sent);
    // A lost file and a lost link come back.
    let tokenizer = snapshot.join("tokenizer.json");
    fs::remove_file(fs::canonicalize(&tokenizer).unwrap()).unwrap();
    fs::remove_file(snapshot.join("config.json")).unwrap();
    hub.pull(cache.path()).unwrap();
    assert_eq!(hub.sent_bytes(), sent + 5_000);
    hub.assert_same(&snapshot);
}

#[test]
fn one_quantisation_of_many_and_files_in_directories() {
    let files = [
        ("x-Q4_K_M.gguf", bytes(1, 30_000)),
        ("x-Q8_0.gguf", bytes(2, 30_000)),
        ("BF16/x-BF16-00001-of-00002.gguf", bytes(3, 30_000)),
        // The same bytes twice are one blob.
        ("BF16/x-BF16-00002-of-00002.gguf", bytes(3, 30_000)),
    ];
    let hub = Hub::new(&files, |_| Act::Serve);
    let cache = tempfile::tempdir().unwrap();
    let options = hub.options(cache.path());
    let pulled = pull(&"org/model:bf16".parse().unwrap(), &options, &|_| ()).unwrap();
    for (path, content) in &files[2..] {
        assert_eq!(fs::read(pulled.dir.join(path)).unwrap(), *content);
    }
    assert_eq!(pulled.model, pulled.dir.join(files[2].0));
    assert!(!pulled.dir.join("x-Q8_0.gguf").exists());
    assert_eq!(hub.sent_bytes(), 30_000);
}

#[test]
fn a_commit_needs_no_ref_and_the_token_is_sent() {
    let hub = Hub::new(&model(), |_| Act::Serve);
    let cache = tempfile::tempdir().unwrap();
    let options = PullOptions {
        revision: COMMIT.to_owned(),
        token: Some("secret".to_owned()),
        ..hub.options(cache.path())
    };
    pull(&"org/model".parse().unwrap(), &options, &|_| ()).unwrap();
    assert_eq!(fs::read_dir(cache.path().join("models--org--model/refs")).unwrap().count(), 0);
    assert!(hub.tokens().iter().all(|token| token.as_deref() == Some("Bearer secret")));
}

/// Hubs keep large files elsewhere; that place has no business with the token.
#[test]
fn a_redirect_is_followed_without_the_token() {
    let elsewhere = Hub::new(&model(), |_| Act::Serve);
    let port = elsewhere.endpoint.rsplit_once(':').unwrap().1.parse().unwrap();
    let hub = Hub::new(&model(), move |_| Act::Moved(port));
    let cache = tempfile::tempdir().unwrap();
    let options = PullOptions { token: Some("secret".to_owned()), ..hub.options(cache.path()) };
    let pulled = pull(&"org/model".parse().unwrap(), &options, &|_| ()).unwrap();
    hub.assert_same(&pulled.dir);
    assert_eq!(hub.sent_bytes(), 0);
    assert!(elsewhere.tokens().iter().all(Option::is_none) && !elsewhere.tokens().is_empty());
}

#[test]
fn progress_ends_at_the_total() {
    let hub = Hub::new(&model(), |_| Act::Serve);
    let cache = tempfile::tempdir().unwrap();
    let seen = Mutex::new((0, Vec::new()));
    pull(&"org/model".parse().unwrap(), &hub.options(cache.path()), &|progress| {
        let mut seen = seen.lock().unwrap();
        assert!(progress.done_bytes <= progress.total_bytes);
        seen.0 = seen.0.max(progress.done_bytes);
        if progress.step == Step::Checking {
            seen.1.push(progress.file.to_owned());
        }
    })
    .unwrap();
    let (most, mut checked) = seen.into_inner().unwrap();
    assert_eq!(most, model().iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    checked.sort();
    assert_eq!(checked.len(), 3, "the files that have a hash: {checked:?}");
}
