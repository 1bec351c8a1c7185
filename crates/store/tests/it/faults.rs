//! The disk misbehaves in one way at a time.

use flashmill_store::{Faults, Order, ReaderKind, StoreError};

use crate::support::{World, options, sorted};

const READERS: [ReaderKind; 3] = [ReaderKind::Uring, ReaderKind::Pread, ReaderKind::PageCache];

fn check(faults: Faults, judge: impl Fn(&World, &flashmill_store::Stats)) {
    for reader in READERS {
        for order in [Order::Arrival, Order::Ascending] {
            let world = World::scattered(12, 20_000);
            let mut store = world.open_faulty(&options(reader, 5 * world.floor_bytes()), Some(faults));
            for round in 0..4 {
                let picks: Vec<u32> = (0..12).filter(|pick| (pick + round) % 3 != 0).collect();
                let came = world.fetch(&mut store, 0, &picks, order).unwrap();
                assert_eq!(sorted(came), picks, "{reader}, {faults:?}");
            }
            judge(&world, &store.stats());
        }
    }
}

#[test]
fn short_reads_are_continued() {
    check(Faults { seed: 1, short: 500, ..Faults::default() }, |_, stats| {
        assert!(stats.continued > 0 && stats.failures == 0);
    });
}

#[test]
fn interrupted_reads_are_repeated() {
    check(Faults { seed: 2, interrupt: 300, ..Faults::default() }, |_, stats| assert!(stats.continued > 0));
}

#[test]
fn reads_in_any_order_and_slow_ones_are_waited_for() {
    check(Faults { seed: 3, delay: 800, slow_us: 200, ..Faults::default() }, |_, stats| {
        assert!(stats.wait_ns > 0);
    });
}

#[test]
fn a_slower_disk_brings_the_same() {
    check(Faults { seed: 6, bytes_per_s: 50_000_000, ..Faults::default() }, |_, stats| {
        assert!(stats.wait_ns > 0 && stats.busy_ns > 0 && stats.failures == 0);
    });
}

#[test]
fn a_file_system_that_takes_direct_opening_back_is_read_through_the_page_cache() {
    check(Faults { seed: 4, refuse_direct: 1000, short: 300, ..Faults::default() }, |_, stats| {
        assert_eq!(stats.failures, 0);
    });
}

#[test]
fn a_failed_read_is_an_error_of_its_pick_alone_and_the_next_try_may_work() {
    for reader in READERS {
        let world = World::simple(6, 70_000);
        let faults = Faults { seed: 5, fail: 400, ..Faults::default() };
        let mut store = world.open_faulty(&options(reader, 3 * world.floor_bytes()), Some(faults));
        let picks = [0, 1, 2, 3, 4, 5];
        let (mut n_errors, mut n_leases) = (0, 0);
        for _ in 0..30 {
            let mut fetch = store.fetch(0, &picks, Order::Arrival).unwrap();
            for _ in 0..picks.len() {
                match fetch.next() {
                    Ok(at_and_lease) => {
                        let (at, lease) = at_and_lease.expect("each pick ends as a lease or as an error");
                        world.verify(0, picks[at], &lease);
                        n_leases += 1;
                    }
                    Err(StoreError::Read { offset, len, .. }) => {
                        assert!(offset >= 100 && len <= 70_000);
                        n_errors += 1;
                    }
                    Err(other) => panic!("{reader}: {other}"),
                }
            }
            assert!(fetch.next().unwrap().is_none());
        }
        assert!(n_errors > 20 && n_leases > 80, "{reader}: {n_errors} errors, {n_leases} leases of 180");
        assert_eq!(store.stats().failures, n_errors);
    }
}
