//! Where each record's bytes go in a slot and which reads bring them: worked out once, from extents alone.

use std::ops::Range;

use flashmill_layout::{Extent, FileId};

use crate::files::ALIGN;
use crate::{Records, StoreError};

/// Extents of a record with at most this many bytes between them are one read: at 2 GB/s the bytes between cost 8 us, less
/// than a further read does.
const GAP_BYTES: u64 = 16 << 10;

/// Records whose slots would be larger are refused; positions in a slot are then `u32`.
const MAX_RECORD_BYTES: u64 = 1 << 30;

/// A slot is at most this much larger than its record's covers (an eighth), or as much as their places in a page can cost.
const CLASS_SHARE: u64 = 8;

/// The layout of all records.
pub(crate) struct Plan {
    layers: Vec<Layer>,
    /// `[n_records][n_parts of the layer]`
    parts: Vec<Part>,
    reads: Vec<ReadPlan>,
    /// `n_records + 1` starts in `reads`.
    first_read: Vec<u32>,
    /// `[n_records]`
    class: Vec<u8>,
    /// `[n_records]`: wanted bytes.
    bytes: Vec<u64>,
    /// Sizes of the slots, largest first.
    pub(crate) classes: Vec<SizeClass>,
}

struct Layer {
    first_record: u32,
    n_bundles: u32,
    n_parts: u32,
    /// Of the layer's first record, in `parts`.
    first_part: usize,
}

/// A part's place in the slot.
#[derive(Clone, Copy)]
struct Part {
    at: u32,
    len: u32,
}

/// One run of wanted bytes and where its cover starts in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadPlan {
    pub(crate) file: FileId,
    /// First byte wanted.
    pub(crate) start: u64,
    /// Bytes wanted.
    pub(crate) len: u32,
    /// Place in the slot of the byte at `start` rounded down to [`ALIGN`]; a multiple of [`ALIGN`].
    pub(crate) at: u32,
}

/// Records whose slots have the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeClass {
    pub(crate) slot_bytes: u64,
    pub(crate) n_records: u64,
    /// Bytes of these records, without covers.
    pub(crate) record_bytes: u64,
}

impl Plan {
    /// Lays every record out.
    pub(crate) fn new(records: &Records) -> Result<Plan, StoreError> {
        let classes = size_classes(records);
        let mut plan = Plan {
            layers: Vec::with_capacity(records.n_layers()),
            parts: Vec::new(),
            reads: Vec::new(),
            first_read: vec![0],
            class: Vec::new(),
            bytes: Vec::new(),
            classes,
        };
        let mut covers = Vec::new();
        for layer in 0..records.n_layers() {
            plan.layers.push(Layer {
                first_record: plan.class.len() as u32,
                n_bundles: records.n_bundles(layer) as u32,
                n_parts: records.n_parts(layer) as u32,
                first_part: plan.parts.len(),
            });
            for bundle in 0..records.n_bundles(layer) {
                let extents = records.extents(layer, bundle);
                let bytes = covers_of(extents, &mut covers);
                if bytes > MAX_RECORD_BYTES {
                    return Err(StoreError::RecordTooLarge { layer, bundle, bytes, limit: MAX_RECORD_BYTES });
                }
                plan.push_record(extents, &covers, bytes);
            }
        }
        Ok(plan)
    }

    /// Adds a record whose extents have these covers, `slot_bytes` in all.
    fn push_record(&mut self, extents: &[Extent], covers: &[Cover], slot_bytes: u64) {
        // The smallest class that is large enough: `classes` falls.
        let class = self.classes.iter().rposition(|class| class.slot_bytes >= slot_bytes);
        self.class.push(class.expect("every size has a class") as u8);

        self.bytes.push(extents.iter().map(|extent| extent.len).sum());
        let first = self.reads.len();
        let mut at = 0;
        for cover in covers {
            let len = (cover.end - cover.start) as u32;
            self.reads.push(ReadPlan { file: cover.file, start: cover.start, len, at });
            at += cover.slot_bytes() as u32;
        }
        self.first_read.push(self.reads.len() as u32);

        for extent in extents {
            let read = self.reads[first..]
                .iter()
                .find(|read| read.file == extent.file && (read.start..read.end()).contains(&extent.offset))
                .filter(|_| extent.len > 0);
            let at = read.map_or(0, |read| read.at + (extent.offset - floor(read.start, ALIGN)) as u32);
            self.parts.push(Part { at, len: extent.len as u32 });
        }
    }

    /// Number of records.
    pub(crate) fn n_records(&self) -> usize {
        self.class.len()
    }

    /// The record of a bundle.
    ///
    /// # Panics
    /// If there is no such bundle.
    pub(crate) fn record(&self, layer: usize, bundle: u32) -> u32 {
        let layer_plan = &self.layers[layer];
        let n_bundles = layer_plan.n_bundles;
        assert!(bundle < n_bundles, "bundle {bundle} of layer {layer}, which has {n_bundles}");
        layer_plan.first_record + bundle
    }

    /// The reads of a record.
    pub(crate) fn reads(&self, record: u32) -> &[ReadPlan] {
        let record = record as usize;
        &self.reads[self.first_read[record] as usize..self.first_read[record + 1] as usize]
    }

    /// Bytes of a record, without covers.
    pub(crate) fn record_bytes(&self, record: u32) -> u64 {
        self.bytes[record as usize]
    }

    /// The class of a record's slot, as an index into `classes`.
    pub(crate) fn class(&self, record: u32) -> usize {
        usize::from(self.class[record as usize])
    }

    /// The parts' places in the slot, in order, as an index into [`Plan::part`].
    pub(crate) fn parts(&self, layer: usize, bundle: u32) -> Range<usize> {
        let layer = &self.layers[layer];
        let first = layer.first_part + bundle as usize * layer.n_parts as usize;
        first..first + layer.n_parts as usize
    }

    /// A part's bytes in the slot.
    pub(crate) fn part(&self, part: usize) -> Range<usize> {
        let Part { at, len } = self.parts[part];
        at as usize..at as usize + len as usize
    }
}

impl ReadPlan {
    /// The first byte after those wanted.
    pub(crate) fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }
}

/// Wanted bytes of one file that are read together.
struct Cover {
    file: FileId,
    start: u64,
    end: u64,
}

impl Cover {
    fn slot_bytes(&self) -> u64 {
        ceil(self.end, ALIGN) - floor(self.start, ALIGN)
    }
}

/// The covers of a record's extents, by file and offset, and the bytes of a slot for them.
fn covers_of(extents: &[Extent], covers: &mut Vec<Cover>) -> u64 {
    covers.clear();
    let wanted = extents.iter().filter(|extent| extent.len > 0);
    covers.extend(wanted.map(|extent| Cover { file: extent.file, start: extent.offset, end: extent.end() }));
    covers.sort_unstable_by_key(|cover| (cover.file, cover.start));
    covers.dedup_by(|next, cover| {
        let near = next.file == cover.file && next.start <= cover.end.saturating_add(GAP_BYTES);
        if near {
            cover.end = cover.end.max(next.end);
        }
        near
    });
    covers.iter().map(Cover::slot_bytes).sum::<u64>().max(ALIGN)
}

/// The sizes that slots have, largest first: each class's largest record fits exactly.
pub(crate) fn size_classes(records: &Records) -> Vec<SizeClass> {
    let mut sizes = Vec::new();
    let mut covers = Vec::new();
    for layer in 0..records.n_layers() {
        for bundle in 0..records.n_bundles(layer) {
            let extents = records.extents(layer, bundle);
            let record_bytes: u64 = extents.iter().map(|extent| extent.len).sum();
            let slot_bytes = covers_of(extents, &mut covers);
            // Where its covers begin and end within a page may cost the next record a page for each.
            let jitter = covers.len() as u64 * ALIGN;
            sizes.push((slot_bytes, jitter, record_bytes));
        }
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut classes: Vec<SizeClass> = Vec::new();
    for (bytes, jitter, record_bytes) in sizes {
        match classes.last_mut() {
            Some(class) if class.slot_bytes - bytes <= jitter.max(class.slot_bytes / CLASS_SHARE) => {
                class.n_records += 1;
                class.record_bytes += record_bytes;
            }
            _ => classes.push(SizeClass { slot_bytes: bytes, n_records: 1, record_bytes }),
        }
    }
    classes
}

/// Shares `bytes` out: for each class the number of its slots, at least one, at most one a record.
///
/// # Panics
/// If `bytes` does not hold one slot of each class.
pub(crate) fn share_out(classes: &[SizeClass], bytes: u64) -> Vec<u64> {
    let all: u64 = classes.iter().map(|class| class.slot_bytes * class.n_records).sum();
    let floor: u64 = classes.iter().map(|class| class.slot_bytes).sum();
    assert!(bytes >= floor, "{bytes} bytes do not hold one slot of each size");
    if bytes >= all {
        return classes.iter().map(|class| class.n_records).collect();
    }
    // Each class first gets the slot that it must have, then its share of the rest, then what is left over is filled up.
    let rest = bytes - floor;
    let mut left = bytes;
    let mut shares: Vec<u64> = classes
        .iter()
        .map(|class| {
            let share = u128::from(rest) * u128::from(class.n_records) / u128::from(all);
            (1 + share as u64).min(class.n_records)
        })
        .collect();
    for (class, share) in classes.iter().zip(&shares) {
        left -= class.slot_bytes * share;
    }
    for (class, share) in classes.iter().zip(&mut shares) {
        let more = (left / class.slot_bytes).min(class.n_records - *share);
        *share += more;
        left -= more * class.slot_bytes;
    }
    shares
}

pub(crate) fn floor(value: u64, align: u64) -> u64 {
    value & !(align - 1)
}

pub(crate) fn ceil(value: u64, align: u64) -> u64 {
    floor(value + (align - 1), align)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent(file: u32, offset: u64, len: u64) -> Extent {
        Extent { file: FileId(file), offset, len }
    }

    fn one_record(extents: &[Extent]) -> Plan {
        let mut records = Records::new();
        records.push_layer(extents.len(), extents.to_vec());
        Plan::new(&records).unwrap()
    }

    #[test]
    fn neighbours_are_one_read_and_others_are_not() {
        let far = 1000 + 200 + GAP_BYTES + 1;
        let plan =
            one_record(&[extent(0, far, 10), extent(0, 1000, 200), extent(0, 1200, 0), extent(1, 1200, 50)]);
        let reads = [
            ReadPlan { file: FileId(0), start: 1000, len: 200, at: 0 },
            ReadPlan { file: FileId(0), start: far, len: 10, at: 4096 },
            ReadPlan { file: FileId(1), start: 1200, len: 50, at: 8192 },
        ];
        assert_eq!(plan.reads(0), reads);
        let near = one_record(&[extent(0, far - 1, 10), extent(0, 1000, 200)]);
        assert_eq!(near.reads(0).len(), 1);
        assert_eq!(near.part(1), 1000..1200);
    }

    #[test]
    fn sizes_within_an_eighth_share_a_class() {
        let mut records = Records::new();
        for pages in [80, 71, 70, 69, 9, 8, 7, 6] {
            records.push_layer(1, vec![extent(0, 0, pages * ALIGN)]);
        }
        let sizes: Vec<_> =
            size_classes(&records).iter().map(|class| (class.slot_bytes / ALIGN, class.n_records)).collect();
        assert_eq!(sizes, [(80, 3), (69, 1), (9, 2), (7, 2)]);
    }

    #[test]
    fn a_record_over_the_limit_is_refused() {
        let mut records = Records::new();
        records.push_layer(1, vec![extent(0, 0, 1), extent(0, 1, MAX_RECORD_BYTES)]);
        let error = Plan::new(&records).err().expect("a slot of a GiB and a page");
        assert!(matches!(error, StoreError::RecordTooLarge { layer: 0, bundle: 1, .. }), "{error}");
    }

    proptest! {
        /// Every part lies in the slot, at its place in the cover of one read, and reads of a slot do not overlap.
        #[test]
        fn parts_lie_in_covers(extents in prop::collection::vec((0u32..3, 0u64..200_000, 0u64..60_000), 1..12)) {
            let extents: Vec<_> = extents.into_iter().map(|(file, offset, len)| extent(file, offset, len)).collect();
            let plan = one_record(&extents);
            let slot_bytes = plan.classes[plan.class(0)].slot_bytes;
            let mut end = 0;
            for read in plan.reads(0) {
                prop_assert_eq!(u64::from(read.at), end);
                end += ceil(read.end(), ALIGN) - floor(read.start, ALIGN);
            }
            prop_assert_eq!(end.max(ALIGN), slot_bytes);
            for (extent, part) in extents.iter().zip(plan.parts(0, 0)) {
                let place = plan.part(part);
                prop_assert_eq!(place.len() as u64, extent.len);
                prop_assert!(place.end as u64 <= slot_bytes);
                let inside = plan.reads(0).iter().any(|read| {
                    read.file == extent.file
                        && extent.offset >= read.start
                        && extent.end() <= read.end()
                        && place.start as u64 == u64::from(read.at) + extent.offset - floor(read.start, ALIGN)
                });
                prop_assert!(inside || extent.len == 0);
            }
        }

        /// Shares stay within the bytes given, hold a slot of each class, and leave no room for one more slot.
        #[test]
        fn shares_fit_and_fill(
            sizes in prop::collection::vec((1u64..500, 1u64..300), 1..6),
            spare in 0u64..20_000,
        ) {
            let classes: Vec<_> = sizes
                .into_iter()
                .map(|(pages, n_records)| SizeClass { slot_bytes: pages * ALIGN, n_records, record_bytes: 0 })
                .collect();
            let bytes = classes.iter().map(|class| class.slot_bytes).sum::<u64>() + spare * ALIGN;
            let shares = share_out(&classes, bytes);
            let used: u64 = classes.iter().zip(&shares).map(|(class, share)| class.slot_bytes * share).sum();
            prop_assert!(used <= bytes);
            for (class, &share) in classes.iter().zip(&shares) {
                prop_assert!((1..=class.n_records).contains(&share));
                prop_assert!(share == class.n_records || used + class.slot_bytes > bytes);
            }
        }
    }
}
