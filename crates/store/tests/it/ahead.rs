//! What is read before it is picked.

use flashmill_store::{Faults, Order, ReaderKind, Store};

use crate::support::{World, options, sorted};

const EVERYTHING: u64 = u64::MAX;

/// Two layers of ten records each, in one file.
fn world() -> World {
    let mut world = World::simple(20, 30_000);
    let second = world.layers[0].split_off(10);
    world.layers.push(second);
    world
}

fn open(world: &World, n_slots: u64) -> Store {
    world.open(&options(ReaderKind::Auto, n_slots * world.floor_bytes()))
}

/// Fetches `picks` of layer 0, asks for `ahead` of layer 1 at once, and takes all leases, one at a time.
fn fetch_and_ask(
    world: &World,
    store: &mut Store,
    picks: &[u32],
    order: Order,
    ahead: &[u32],
    max_bytes: u64,
) {
    let mut fetch = store.fetch(0, picks, order).unwrap();
    fetch.ahead(1, ahead, max_bytes).unwrap();
    let mut n = 0;
    while let Some((at, lease)) = fetch.next().unwrap() {
        world.verify(0, picks[at], &lease);
        n += 1;
    }
    assert_eq!(n, picks.len());
}

#[test]
fn what_was_read_ahead_is_a_hit_and_is_read_once() {
    let world = world();
    for order in [Order::Arrival, Order::Ascending] {
        let mut store = open(&world, 20);
        fetch_and_ask(&world, &mut store, &[0, 1], order, &[3, 4, 5], EVERYTHING);
        let came = world.fetch(&mut store, 1, &[4, 5, 6], order).unwrap();
        assert_eq!(sorted(came), [4, 5, 6]);
        world.fetch(&mut store, 1, &[4, 5], order).unwrap();
        let stats = store.stats();
        assert_eq!((stats.ahead, stats.ahead_used), (3, 2), "{order:?}");
        assert_eq!((stats.hits, stats.misses), (4, 3), "{order:?}");
        // The one that nobody picked may still be on its way.
        assert!([5, 6].map(|n| n * 30_000).contains(&stats.bytes_read), "{order:?}: {}", stats.bytes_read);
    }
}

#[test]
fn no_more_slots_are_taken_than_asked_for() {
    let world = world();
    let mut store = open(&world, 20);
    fetch_and_ask(&world, &mut store, &[0], Order::Arrival, &[1, 2, 3, 4], 2 * world.floor_bytes());
    assert_eq!(store.stats().ahead, 2);
}

#[test]
fn nothing_that_the_fetch_needs_is_given_up() {
    let world = world();
    for order in [Order::Arrival, Order::Ascending] {
        // All slots are leased: there is none for a record ahead.
        let mut store = open(&world, 4);
        let picks = [1, 3, 5, 7];
        let mut fetch = store.fetch(0, &picks, order).unwrap();
        fetch.ahead(1, &[0, 1, 2], EVERYTHING).unwrap();
        let mut leases = Vec::new();
        while let Some((at, lease)) = fetch.next().unwrap() {
            leases.push((picks[at], lease));
        }
        assert_eq!(leases.len(), 4);
        leases.iter().for_each(|(pick, lease)| world.verify(0, *pick, lease));
        drop(fetch);
        assert_eq!((store.stats().ahead, store.stats().misses), (0, 4), "{order:?}");
    }
    // Fewer slots than picks: the fetch ends all the same, and reads each record once.
    for n_slots in 1..8 {
        let mut store = open(&world, n_slots);
        fetch_and_ask(
            &world,
            &mut store,
            &[0, 1, 2, 3, 4, 5, 6, 7],
            Order::Ascending,
            &[0, 1, 2],
            EVERYTHING,
        );
        assert_eq!(store.stats().misses, 8, "{n_slots} slots");
        assert_eq!(world.fetch(&mut store, 1, &[0, 1, 2, 9], Order::Ascending).unwrap(), [0, 1, 2, 9]);
    }
}

#[test]
fn what_was_read_in_vain_leaves_first() {
    let world = world();
    let mut store = open(&world, 8);
    world.fetch(&mut store, 0, &[0, 1, 2, 3, 4, 5], Order::Arrival).unwrap();
    fetch_and_ask(&world, &mut store, &[0, 1], Order::Arrival, &[8, 9], EVERYTHING);
    while !store.resident(1, 8) || !store.resident(1, 9) {
        world.fetch(&mut store, 0, &[0], Order::Arrival).unwrap();
    }
    // Two new records take the places of the two that nobody picked.
    world.fetch(&mut store, 1, &[1, 2], Order::Arrival).unwrap();
    assert!((0..6).all(|pick| store.resident(0, pick)));
    assert!(!store.resident(1, 8) && !store.resident(1, 9));
    assert_eq!((store.stats().ahead, store.stats().ahead_used), (2, 0));
}

#[test]
fn a_read_ahead_that_fails_is_no_error_until_it_is_picked() {
    let world = world();
    for seed in 0..20 {
        let faults = Faults { seed, fail: 500, delay: 300, ..Faults::default() };
        let mut store = world.open_faulty(&options(ReaderKind::Auto, 20 * world.floor_bytes()), Some(faults));
        for _ in 0..3 {
            // Nothing is picked, so nothing can fail.
            let mut fetch = store.fetch(0, &[], Order::Arrival).unwrap();
            fetch.ahead(1, &[0, 1, 2, 3, 4, 5], EVERYTHING).unwrap();
            assert!(fetch.next().unwrap().is_none());
            drop(fetch);
            let picks = [0, 1, 2, 3, 4, 5];
            let mut fetch = store.fetch(1, &picks, Order::Arrival).unwrap();
            for _ in picks {
                if let Ok(lease) = fetch.next() {
                    let (at, lease) = lease.expect("each pick ends as a lease or as an error");
                    world.verify(1, picks[at], &lease);
                }
            }
            assert!(fetch.next().unwrap().is_none());
        }
    }
}

#[test]
fn a_store_may_be_dropped_while_it_reads_ahead() {
    let world = world();
    for reader in ReaderKind::ALL {
        let mut store = world.open(&options(reader, 20 * world.floor_bytes()));
        let mut fetch = store.fetch(0, &[2], Order::Arrival).unwrap();
        fetch.ahead(1, &[0, 1, 2, 3], EVERYTHING).unwrap();
        let (_, lease) = fetch.next().unwrap().unwrap();
        drop(fetch);
        drop(store);
        world.verify(0, 2, &lease);
    }
}
