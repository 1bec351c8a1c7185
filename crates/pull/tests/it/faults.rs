//! Faults that pass: the files come out right all the same.

use std::collections::HashSet;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use flashmill_pull::{PullOptions, pull};

use crate::server::{Act, Asked, Hub, model};

/// Pulls from a hub with these faults and compares every file.
fn survives(behave: impl Fn(&Asked<'_>) -> Act + Send + Sync + 'static) -> Hub {
    let hub = Hub::new(&model(), behave);
    let cache = tempfile::tempdir().unwrap();
    // One connection may meet all the faults.
    let options = PullOptions { attempts: 50, ..hub.options(cache.path()) };
    let pulled = pull(&"org/model".parse().unwrap(), &options, &|_| ());
    hub.assert_same(&pulled.unwrap_or_else(|error| panic!("{error}")).dir);
    hub
}

#[test]
fn dropped_connections_go_on_where_they_were() {
    let hub = survives(|asked| if asked.nth % 3 == 0 { Act::Serve } else { Act::Cut(2_345) });
    let total: u64 = model().iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!(hub.sent_bytes(), total, "no byte came twice");
}

#[test]
fn every_connection_is_dropped_but_each_makes_progress() {
    survives(|_| Act::Cut(1_500));
}

#[test]
fn errors_that_pass() {
    for status in [408, 429, 500, 502, 503, 504] {
        survives(move |asked| if asked.nth % 2 == 0 { Act::Status(status) } else { Act::Serve });
    }
}

#[test]
fn bodies_that_are_too_short() {
    survives(|asked| if asked.nth % 3 == 1 { Act::Short(10) } else { Act::Serve });
}

#[test]
fn hubs_without_ranges() {
    survives(|_| Act::IgnoreRange);
    // Some requests only, and with a connection that ends.
    survives(|asked| match asked.nth % 4 {
        0 => Act::IgnoreRange,
        1 => Act::Cut(5_000),
        _ => Act::Serve,
    });
}

#[test]
fn ranges_from_the_wrong_place() {
    survives(|asked| if asked.nth % 3 == 2 { Act::WrongRange } else { Act::Serve });
}

#[test]
fn connections_that_say_nothing_more() {
    survives(|asked| if asked.nth == 2 { Act::Stall(100) } else { Act::Serve });
}

#[test]
fn slow_bytes() {
    survives(|_| Act::Slow(1_000));
}

#[test]
fn a_wrong_byte_is_found_and_fetched_again() {
    let once = AtomicUsize::new(0);
    let hub = survives(move |asked| {
        let weights = asked.path.contains("00002-of");
        if weights && once.fetch_add(1, Ordering::Relaxed) == 0 { Act::Corrupt } else { Act::Serve }
    });
    let total: u64 = model().iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!(hub.sent_bytes(), total + 50_000, "only the damaged file came twice");
}

#[test]
fn a_pull_goes_on_after_one_that_failed() {
    let seen = Mutex::new(HashSet::new());
    // Each file's bytes stop for good after the twelfth request; the second hub has no faults.
    let hub = Hub::new(&model(), move |asked| {
        seen.lock().unwrap().insert(asked.nth);
        if asked.nth < 12 { Act::Serve } else { Act::Status(503) }
    });
    let cache = tempfile::tempdir().unwrap();
    let error = hub.pull(cache.path()).unwrap_err().to_string();
    assert!(error.contains("given up after 4 attempts") && error.contains("503"), "{error}");
    assert!(!cache.path().join("models--org--model/snapshots").join(crate::server::COMMIT).exists());
    let good = Hub::new(&model(), |_| Act::Serve);
    let options = PullOptions { endpoint: good.endpoint.clone(), ..hub.options(cache.path()) };
    let pulled = pull(&"org/model".parse().unwrap(), &options, &|_| ()).unwrap();
    good.assert_same(&pulled.dir);
    let total: u64 = model().iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(good.sent_bytes() < total, "{} of {total} bytes again", good.sent_bytes());
    // Pieces that were never begun are all that is asked for, one request each.
    assert!(good.n_asked() <= 18 - 8, "{} requests", good.n_asked());
    let left: Vec<_> = fs::read_dir(cache.path().join("models--org--model/blobs")).unwrap().collect();
    assert_eq!(left.len(), model().len());
}
