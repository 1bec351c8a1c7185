//! Faults that do not pass: one clear line, and nothing half done in the snapshot.

use std::fs;

use crate::server::{Act, Asked, COMMIT, Hub, model};

/// The message of a pull that must fail.
fn refused(behave: impl Fn(&Asked<'_>) -> Act + Send + Sync + 'static) -> String {
    message(&Hub::new(&model(), behave))
}

fn message(hub: &Hub) -> String {
    let cache = tempfile::tempdir().unwrap();
    let message = hub.pull(cache.path()).expect_err("the pull fails").to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!cache.path().join("models--org--model/snapshots").join(COMMIT).exists(), "{message}");
    message
}

#[track_caller]
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

#[test]
fn statuses_that_stay() {
    for status in [401, 403] {
        let message = refused(move |_| Act::Status(status));
        says(&message, &[&status.to_string(), "org/model", "HF_TOKEN"]);
    }
    says(&refused(|_| Act::Status(404)), &["404", "no such"]);
    says(&refused(|_| Act::Status(451)), &["451"]);
    says(&refused(|_| Act::Status(500)), &["500", "4 attempts", "again"]);
    says(&refused(|_| Act::Status(429)), &["429", "4 attempts"]);
}

#[test]
fn hubs_that_stay_wrong() {
    says(&refused(|_| Act::Corrupt), &["SHA-256", "twice"]);
    says(&refused(|_| Act::WrongRange), &["content-range is bytes", "4 attempts"]);
    says(&refused(|_| Act::Stall(0)), &["4 attempts", "timeout"]);
    says(&refused(|_| Act::Cut(0)), &["4 attempts"]);
}

#[test]
fn no_such_repository() {
    let hub = Hub::new(&model(), |_| Act::Serve);
    let cache = tempfile::tempdir().unwrap();
    let options = hub.options(cache.path());
    let pull =
        |repo: &str| flashmill_pull::pull(&repo.parse().unwrap(), &options, &|_| ()).unwrap_err().to_string();
    says(&pull("org/other"), &["404", "no such repository"]);
    says(&pull("org/model:Q4_K_M"), &["no GGUF file of Q4_K_M", "none at all"]);
    let options = flashmill_pull::PullOptions { revision: "../main".to_owned(), ..options };
    let error = flashmill_pull::pull(&"org/model".parse().unwrap(), &options, &|_| ()).unwrap_err();
    says(&error.to_string(), &["\"../main\" is not a revision"]);
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn nobody_answers() {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(&model(), |_| Act::Serve);
    let options = flashmill_pull::PullOptions {
        endpoint: "http://127.0.0.1:1".to_owned(),
        ..hub.options(cache.path())
    };
    let error = flashmill_pull::pull(&"org/model".parse().unwrap(), &options, &|_| ()).unwrap_err();
    says(&error.to_string(), &["http://127.0.0.1:1/api/models/org/model", "4 attempts"]);
}

#[test]
fn lists_that_lie() {
    let file = |path: &str, rest: &str| format!("[{{\"type\": \"file\", \"path\": \"{path}\", {rest}}}]");
    let oid = "a".repeat(40);
    let good = format!("\"size\": 3, \"oid\": \"{oid}\"");
    for path in
        ["../model.safetensors", "/etc/model.safetensors", "a/../../b", "c:model", "a\\\\b", "./x", "a//b"]
    {
        says(&message(&Hub::with_tree(&file(path, &good))), &["not a plain relative path"]);
    }
    for rest in [
        "\"oid\": \"x\"".to_owned(),
        "\"size\": 3, \"oid\": \"../../x\"".to_owned(),
        format!("\"size\": -1, \"oid\": \"{oid}\""),
        format!("\"size\": 9223372036854775807, \"oid\": \"{oid}\""),
        format!("\"size\": 3, \"oid\": \"{oid}\", \"lfs\": {{\"size\": 3, \"oid\": \"{oid}\"}}"),
    ] {
        says(
            &message(&Hub::with_tree(&file("model.safetensors", &rest))),
            &["not understood", "model.safetensors"],
        );
    }
    says(&message(&Hub::with_tree("{}")), &["no list of files"]);
    says(&message(&Hub::with_tree("<html>")), &["not understood"]);
    says(&message(&Hub::with_tree("[]")), &["no safetensors"]);
}

#[test]
fn a_model_larger_than_the_disk() {
    let tree = format!(
        "[{{\"type\": \"file\", \"path\": \"model.safetensors\", \"size\": 1, \"oid\": \"{}\", \
         \"lfs\": {{\"oid\": \"{}\", \"size\": {}}}}}]",
        "a".repeat(40),
        "b".repeat(64),
        1u64 << 49
    );
    says(&message(&Hub::with_tree(&tree)), &["562949953421312 bytes are needed", "free", "HF_HOME"]);
}

#[test]
fn two_pulls_of_one_model() {
    let hub = Hub::new(&model(), |_| Act::Serve);
    let cache = tempfile::tempdir().unwrap();
    let root = cache.path().join("models--org--model");
    fs::create_dir_all(&root).unwrap();
    let lock = fs::File::create(root.join(".flashmill-pull.lock")).unwrap();
    lock.lock().unwrap();
    says(&hub.pull(cache.path()).unwrap_err().to_string(), &["another pull"]);
    drop(lock);
    hub.assert_same(&hub.pull(cache.path()).unwrap());
}
