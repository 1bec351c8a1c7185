//! Random records, sizes, readers, policies and fetches: every byte equals the file's.

use flashmill_layout::Extent;
use flashmill_store::{Faults, Order, PolicyKind, ReaderKind, StoreOptions};
use proptest::prelude::*;

use crate::support::{World, extent, options, sorted};

/// A random checkpoint: two files, layers of records with parts anywhere in them, neighbours and far ones.
#[derive(Clone, Debug)]
struct Shape {
    file_lens: Vec<u64>,
    layers: Vec<Vec<Vec<Extent>>>,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let lens = prop::collection::vec(1u64..400_000, 2);
    let layer = (0usize..5, 1usize..7, prop::sample::select(vec![7u64, 600, 5000, 30_000]));
    (lens, prop::collection::vec(layer, 1..4), any::<u64>()).prop_map(|(file_lens, layers, seed)| {
        let mut state = seed;
        let mut random = move |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let layers = layers
            .into_iter()
            .map(|(n_parts, n_bundles, part_bytes)| {
                let n_bundles = if n_parts == 0 { 0 } else { n_bundles };
                let mut bundle = |_| {
                    let mut next = (random(2) as usize, 0);
                    let mut part = |_| {
                        // One part in two follows the one before it.
                        let file = if random(2) == 0 { random(2) as usize } else { next.0 };
                        let len = file_lens[file];
                        let offset = if file == next.0 && random(2) == 0 { next.1 } else { random(len) };
                        let bytes = (random(2 * part_bytes)).min(len - offset.min(len));
                        next = (file, offset.min(len) + bytes);
                        extent(file as u32, offset.min(len), bytes)
                    };
                    (0..n_parts).map(&mut part).collect()
                };
                (0..n_bundles).map(&mut bundle).collect()
            })
            .collect();
        Shape { file_lens, layers }
    })
}

fn picks_of(n_bundles: usize, mask: u32, rotate: usize) -> Vec<u32> {
    let mut picks: Vec<u32> = (0..n_bundles as u32).filter(|pick| mask >> pick & 1 == 1).collect();
    if !picks.is_empty() {
        let mid = rotate % picks.len();
        picks.rotate_left(mid);
    }
    picks
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_handed_over_is_what_the_files_say(
        shape in shapes(),
        reader in prop::sample::select(ReaderKind::ALL.to_vec()),
        policy in prop::sample::select(PolicyKind::ALL.to_vec()),
        spare_pages in 0u64..40,
        depth in 1usize..9,
        faults in prop::option::of((any::<u64>(), 0u32..400, 0u32..300, 0u32..20, 0u32..900)),
        fetches in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), 0usize..8, any::<bool>()), 1..20),
        // Which bundles of the next fetch's layer are read ahead.
        ahead in prop::option::of((any::<u32>(), 0u64..40)),
    ) {
        let mut world = World::new(&shape.file_lens);
        world.layers = shape.layers;
        let slot_bytes = world.floor_bytes() + spare_pages * 4096;
        let options = StoreOptions { policy, depth, io_threads: 2, ..options(reader, slot_bytes) };
        let faults = faults.map(|(seed, short, interrupt, refuse_direct, delay)| {
            Faults { seed, short, interrupt, refuse_direct, delay, ..Faults::default() }
        });
        let mut store = world.open_faulty(&options, faults);
        prop_assert!(store.slot_bytes() <= slot_bytes);
        let mut n_picks = 0;
        let layer_of = |at: &prop::sample::Index| at.index(world.layers.len());
        let next_layers: Vec<usize> = fetches.iter().skip(1).map(|fetch| layer_of(&fetch.0)).chain([0]).collect();
        for ((layer, mask, rotate, ascending), next) in fetches.into_iter().zip(next_layers) {
            let layer = layer_of(&layer);
            let picks = picks_of(world.layers[layer].len(), mask, rotate);
            n_picks += picks.len() as u64;
            let order = if ascending { Order::Ascending } else { Order::Arrival };
            let mut came = Vec::new();
            let mut fetch = store.fetch(layer, &picks, order).unwrap();
            if let Some((mask, pages)) = ahead {
                fetch.ahead(next, &picks_of(world.layers[next].len(), mask, rotate), pages * 4096).unwrap();
            }
            while let Some((at, lease)) = fetch.next().unwrap() {
                world.verify(layer, picks[at], &lease);
                came.push(picks[at]);
            }
            drop(fetch);
            if ascending {
                prop_assert_eq!(came, sorted(picks));
            } else {
                prop_assert_eq!(sorted(came), sorted(picks));
            }
        }
        let stats = store.stats();
        prop_assert_eq!(stats.hits + stats.misses, n_picks);
        prop_assert_eq!(stats.failures, 0);
        prop_assert!(stats.ahead_used <= stats.ahead && (stats.ahead == 0 || ahead.is_some()));
        prop_assert!(stats.bytes_from_device >= stats.bytes_read || stats.bytes_read == 0 || has_overlaps(&world));
    }

    #[test]
    fn a_failing_disk_gives_right_bytes_or_an_error_and_the_store_goes_on(
        reader in prop::sample::select(vec![ReaderKind::Uring, ReaderKind::Pread]),
        seed in any::<u64>(),
        fail in 20u32..400,
        n_slots in 1u64..9,
        depth in 1usize..12,
        scattered in any::<bool>(),
        fetches in prop::collection::vec((1u32..256, 0usize..8, any::<bool>(), 0usize..9, 0u32..256), 1..20),
    ) {
        let world = if scattered { World::scattered(8, 5000) } else { World::simple(8, 9000) };
        let options = StoreOptions { depth, ..options(reader, n_slots * world.floor_bytes()) };
        let faults = Faults { seed, fail, short: 200, delay: 300, ..Faults::default() };
        let mut store = world.open_faulty(&options, Some(faults));
        for (mask, rotate, ascending, stop_after, ahead) in fetches {
            let picks = picks_of(8, mask, rotate);
            let order = if ascending { Order::Ascending } else { Order::Arrival };
            let mut fetch = store.fetch(0, &picks, order).unwrap();
            fetch.ahead(0, &picks_of(8, ahead, 0), u64::MAX).unwrap();
            let mut turns = 0;
            let mut seen = Vec::new();
            // Some fetches are dropped before their end.
            while turns < stop_after {
                match fetch.next() {
                    Ok(None) => break,
                    Ok(Some((at, lease))) => {
                        world.verify(0, picks[at], &lease);
                        prop_assert!(!seen.contains(&at));
                        seen.push(at);
                    }
                    Err(error) => {
                        let text = error.to_string();
                        prop_assert!(text.contains("model-0.bin") && text.contains("injected fault"), "{text}");
                    }
                }
                turns += 1;
            }
            prop_assert!(turns <= picks.len(), "{turns} turns for {} picks", picks.len());
        }
    }
}

/// Parts that share bytes are read once, so fewer bytes may come than are handed over.
fn has_overlaps(world: &World) -> bool {
    let overlap = |a: &Extent, b: &Extent| a.file == b.file && a.offset < b.end() && b.offset < a.end();
    world
        .layers
        .iter()
        .flatten()
        .any(|parts| (0..parts.len()).any(|i| parts[i + 1..].iter().any(|other| overlap(&parts[i], other))))
}
