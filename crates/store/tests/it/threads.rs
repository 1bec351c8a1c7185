//! Leases in other threads while the store goes on.

use std::sync::mpsc;

use flashmill_store::{Lease, Order, ReaderKind, StoreError};

use crate::support::{World, options};

/// Three threads verify leases at their own pace while slots are taken again and again under one that is never free for long.
#[test]
fn leased_bytes_stay_while_others_come_and_go() {
    for reader in ReaderKind::ALL {
        let world = World::simple(24, 20_000);
        let mut store = world.open(&options(reader, 6 * world.floor_bytes()));
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            for _ in 0..3 {
                let (give, take) = mpsc::sync_channel::<(u32, Lease)>(1);
                let world = &world;
                scope.spawn(move || {
                    for (pick, lease) in take {
                        for _ in 0..3 {
                            world.verify(0, pick, &lease);
                            std::thread::yield_now();
                        }
                    }
                });
                workers.push(give);
            }
            let mut turn = 0;
            for round in 0..40u32 {
                let picks: Vec<u32> = (0..8).map(|at| (at * 5 + round * 7) % 24).collect();
                let order = if round % 4 == 3 { Order::Ascending } else { Order::Arrival };
                let mut fetch = store.fetch(0, &picks, order).unwrap();
                loop {
                    match fetch.next() {
                        Ok(Some((at, lease))) => {
                            workers[turn % 3].send((picks[at], lease)).unwrap();
                            turn += 1;
                        }
                        Ok(None) => break,
                        // The workers hold all six; they let go by themselves.
                        Err(StoreError::AllLeased { .. }) => std::thread::yield_now(),
                        Err(other) => panic!("{reader}: {other}"),
                    }
                }
            }
            assert_eq!(turn, 40 * 8);
        });
    }
}

#[test]
fn a_store_moves_between_threads() {
    fn check<T: Send>() {}
    fn check_shared<T: Send + Sync>() {}
    check::<flashmill_store::Store>();
    check_shared::<Lease>();
    check_shared::<flashmill_store::Files>();

    let world = World::simple(8, 20_000);
    let mut store = world.open(&options(ReaderKind::Auto, 3 * world.floor_bytes()));
    for _ in 0..4 {
        store = std::thread::scope(|scope| {
            let (world, mut store) = (&world, store);
            scope
                .spawn(move || {
                    world.fetch(&mut store, 0, &[7, 1, 4, 2, 0], Order::Arrival).unwrap();
                    // Reads in flight go with the store.
                    drop(store.fetch(0, &[3, 5, 6], Order::Arrival).unwrap());
                    store
                })
                .join()
                .unwrap()
        });
    }
}
