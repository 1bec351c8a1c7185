//! Few slots: who waits, who leaves, and what is said when nobody can go on.

use flashmill_store::{Order, ReaderKind, Store, StoreError, StoreOptions};

use crate::support::{World, extent, options, sorted};

fn auto(slot_bytes: u64) -> StoreOptions {
    options(ReaderKind::Auto, slot_bytes)
}

#[test]
fn one_slot_serves_ten_picks() {
    let world = World::simple(10, 30_000);
    for order in [Order::Arrival, Order::Ascending] {
        let mut store = world.open(&auto(world.floor_bytes()));
        assert_eq!(store.n_slots(), 1);
        for _ in 0..3 {
            let came = world.fetch(&mut store, 0, &[9, 3, 1, 0, 7, 2, 8, 4, 6, 5], order).unwrap();
            assert_eq!(sorted(came), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        }
    }
}

#[test]
fn a_sweep_gives_up_a_later_resident_pick_when_it_must() {
    let world = World::simple(10, 30_000);
    let mut store = world.open(&auto(world.floor_bytes()));
    world.fetch(&mut store, 0, &[5], Order::Arrival).unwrap();
    assert_eq!(world.fetch(&mut store, 0, &[3, 5, 4], Order::Ascending).unwrap(), [3, 4, 5]);
}

#[test]
fn below_the_floor_nothing_is_opened() {
    let world = World::simple(2, 30_000);
    let floor = world.floor_bytes();
    let files = std::sync::Arc::new(flashmill_store::Files::open(&world.paths).unwrap());
    let error = Store::open(files, world.records(), &auto(floor - 1)).err().unwrap();
    assert!(
        matches!(error, StoreError::BelowFloor { given, floor: named } if given == floor - 1 && named == floor)
    );
}

#[test]
fn all_slots_leased_is_an_error_and_not_a_wait() {
    let world = World::simple(5, 30_000);
    for order in [Order::Arrival, Order::Ascending] {
        let mut store = world.open(&auto(2 * world.floor_bytes()));
        let picks = [0, 1, 2, 3];
        let mut fetch = store.fetch(0, &picks, order).unwrap();
        let first = fetch.next().unwrap().unwrap();
        let second = fetch.next().unwrap().unwrap();
        let error = fetch.next().unwrap_err();
        assert!(matches!(error, StoreError::AllLeased { n_slots: 2, .. }), "{error}");
        assert_eq!(fetch.n_left(), 2);
        world.verify(0, picks[first.0], &first.1);
        drop(first);
        // One slot is free again, and the fetch goes on where it was.
        let third = fetch.next().unwrap().unwrap();
        world.verify(0, picks[third.0], &third.1);
        world.verify(0, picks[second.0], &second.1);
        assert!(fetch.next().is_err());
        drop(third);
        let fourth = fetch.next().unwrap().unwrap();
        world.verify(0, picks[fourth.0], &fourth.1);
        assert!(fetch.next().unwrap().is_none());
    }
}

#[test]
fn leases_outlive_fetch_and_store_and_keep_their_bytes() {
    let world = World::simple(6, 30_000);
    let mut store = world.open(&auto(3 * world.floor_bytes()));
    let mut kept = Vec::new();
    for pick in [4, 1] {
        let mut fetch = store.fetch(0, &[pick], Order::Arrival).unwrap();
        kept.push((pick, fetch.next().unwrap().unwrap().1));
    }
    for _ in 0..3 {
        world.fetch(&mut store, 0, &[0, 2, 3, 5], Order::Ascending).unwrap();
        world.fetch(&mut store, 0, &[0, 2, 3, 5], Order::Arrival).unwrap();
    }
    drop(store);
    for (pick, lease) in &kept {
        world.verify(0, *pick, lease);
    }
}

#[test]
fn resident_records_come_first_and_are_not_read_again() {
    let world = World::simple(8, 30_000);
    let mut store = world.open(&auto(8 * world.floor_bytes()));
    world.fetch(&mut store, 0, &[6, 2], Order::Arrival).unwrap();
    let before = store.stats();
    let came = world.fetch(&mut store, 0, &[7, 6, 0, 2], Order::Arrival).unwrap();
    assert_eq!(sorted(came[..2].to_vec()), [2, 6]);
    let new = store.stats().since(&before);
    assert_eq!((new.hits, new.misses, new.bytes_read), (2, 2, 60_000));
    assert!((60_000..60_000 + 4 * 4096).contains(&new.bytes_from_device), "{}", new.bytes_from_device);
}

#[test]
fn a_sweep_does_not_flush_what_decode_uses() {
    let world = World::simple(64, 30_000);
    let mut store = world.open(&auto(16 * world.floor_bytes()));
    let hot: Vec<u32> = (20..28).collect();
    for _ in 0..3 {
        world.fetch(&mut store, 0, &hot, Order::Arrival).unwrap();
    }
    let all: Vec<u32> = (0..64).collect();
    for _ in 0..3 {
        assert_eq!(world.fetch(&mut store, 0, &all, Order::Ascending).unwrap(), all);
    }
    assert!(hot.iter().all(|&pick| store.resident(0, pick)), "eight slots were enough for the sweeps");
    // And what the sweeps left behind is the first to go.
    world.fetch(&mut store, 0, &[40, 41, 42, 43, 44, 45, 46, 47], Order::Arrival).unwrap();
    assert!(hot.iter().all(|&pick| store.resident(0, pick)));
}

#[test]
fn what_a_sweep_loaded_and_decode_used_stays() {
    let world = World::simple(64, 30_000);
    let mut store = world.open(&auto(16 * world.floor_bytes()));
    world.fetch(&mut store, 0, &(0..16).collect::<Vec<_>>(), Order::Ascending).unwrap();
    world.fetch(&mut store, 0, &[3], Order::Arrival).unwrap();
    world.fetch(&mut store, 0, &(16..64).collect::<Vec<_>>(), Order::Ascending).unwrap();
    assert!(store.resident(0, 3));
}

#[test]
fn a_second_sweep_finds_what_the_first_could_keep() {
    let world = World::simple(64, 30_000);
    let mut store = world.open(&auto(32 * world.floor_bytes()));
    let all: Vec<u32> = (0..64).collect();
    world.fetch(&mut store, 0, &all, Order::Ascending).unwrap();
    let before = store.stats();
    world.fetch(&mut store, 0, &all, Order::Ascending).unwrap();
    let hits = store.stats().since(&before).hits;
    assert!(hits >= 30, "{hits} hits of 64 with 32 slots");
}

#[test]
fn records_of_several_sizes_have_slots_of_their_own() {
    let mut world = World::new(&[2_000_000]);
    let layer =
        |start: u64, bytes: u64| (0..6).map(|at| vec![extent(0, start + at * bytes, bytes)]).collect();
    world.layers = vec![layer(10, 120_000), vec![], layer(1_000_000, 40_000)];
    let floor = world.floor_bytes();
    assert_eq!(floor, 31 * 4096 + 11 * 4096, "120000 bytes cover up to 31 pages, 40000 up to 11");
    let mut store = world.open(&auto(floor));
    assert_eq!(store.n_slots(), 2);
    for _ in 0..2 {
        for order in [Order::Arrival, Order::Ascending] {
            for layer in [0, 1, 2] {
                let picks: Vec<u32> = (0..world.layers[layer].len() as u32).collect();
                assert_eq!(world.fetch(&mut store, layer, &picks, order).unwrap().len(), picks.len());
            }
        }
    }
    let everything = world.open(&auto(1 << 30));
    assert_eq!(everything.n_slots(), 12);
    assert_eq!(everything.slot_bytes(), Store::ceiling_bytes(&world.records()));
}

#[test]
#[should_panic(expected = "bundle 3 of layer 0 is picked twice")]
fn a_pick_is_named_once() {
    let world = World::simple(5, 3_000);
    let mut store = world.open(&auto(1 << 20));
    let _ = store.fetch(0, &[3, 1, 3], Order::Arrival);
}

#[test]
fn a_dropped_fetch_leaves_a_store_that_works() {
    for reader in ReaderKind::ALL {
        for depth in [1, 3, 32] {
            // Four reads a record, so that a fetch may end between them.
            let world = World::scattered(12, 70_000);
            let mut store = world.open(&StoreOptions { depth, ..options(reader, 4 * world.floor_bytes()) });
            for round in 0..12 {
                let picks: Vec<u32> = (0..12).map(|at| (at + round) % 12).collect();
                let mut fetch = store.fetch(0, &picks, Order::Arrival).unwrap();
                for _ in 0..round % 3 {
                    let (at, lease) = fetch.next().unwrap().unwrap();
                    world.verify(0, picks[at], &lease);
                }
                if round % 2 == 0 {
                    // The next fetch finds the state of one that was never ended.
                    std::mem::forget(fetch);
                }
            }
            let all: Vec<u32> = (0..12).collect();
            let came = world.fetch(&mut store, 0, &all, Order::Arrival).unwrap();
            assert_eq!(sorted(came), all, "{reader}, depth {depth}");
        }
    }
}
