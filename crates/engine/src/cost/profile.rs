//! What a machine gives: the numbers that the cost formula needs, measured once and kept in a file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Speeds of one machine with one backend. `lab::profile` measures it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineProfile {
    /// What computes, such as `cpu avx512 x2`.
    pub backend: String,
    /// A plain read of memory by as many threads as compute.
    pub memory_gb_per_s: f64,
    /// Products with weights of each encoding, by its name: per multiplication.
    pub products: BTreeMap<String, RowCost>,
    /// Softmax attention: per multiplication, two for each value of each query head and position.
    pub attention: RowCost,
    /// The delta rule: per value of the recurrent state.
    pub delta_rule: RowCost,
    /// Norms, activations, routing, sums and the starts of the threads of one layer: per value of the residual stream.
    pub vectors: RowCost,
    /// Reads of the disk, by reader.
    pub disk: BTreeMap<String, Vec<ReadSpeed>>,
}

/// What a unit of work costs, by the number of rows (tokens) that share one pass over the weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowCost {
    /// Ascending numbers of rows, and picoseconds per unit of work of each row.
    pub picoseconds: Vec<(usize, f64)>,
}

/// A measured point of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadSpeed {
    /// Bytes of a read.
    pub bytes: u64,
    /// Reads in flight.
    pub depth: usize,
    /// Random reads, with nothing cached.
    pub gb_per_s: f64,
}

impl RowCost {
    /// Seconds per unit of work of one row, where `rows` rows are computed together.
    ///
    /// A pass costs `fixed + rows * each`: the weights are read and unpacked once. Per row that is linear in `1 / rows`, and so is
    /// what lies between two measured points.
    pub fn seconds(&self, rows: f64) -> f64 {
        let points = &self.picoseconds;
        let Some(&(most, least_cost)) = points.last() else { return 0.0 };
        if rows >= most as f64 {
            return least_cost * 1e-12;
        }
        let above = points.partition_point(|&(n, _)| n as f64 <= rows).clamp(1, points.len() - 1);
        let ((few, dear), (many, cheap)) = (points[above - 1], points[above]);
        let inverse = |n: f64| 1.0 / n.max(1.0);
        let (from, to) = (inverse(few as f64), inverse(many as f64));
        let share = (inverse(rows) - to) / (from - to);
        (cheap + (dear - cheap) * share) * 1e-12
    }

    /// Two numbers of rows or more, ascending, and costs that are numbers above zero.
    fn is_sound(&self) -> bool {
        let ascending = self.picoseconds.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let positive = |&(rows, cost): &(usize, f64)| rows > 0 && cost > 0.0 && cost.is_finite();
        self.picoseconds.len() >= 2 && ascending && self.picoseconds.iter().all(positive)
    }
}

impl MachineProfile {
    /// The numbers are such as a measurement gives: what was read from a file may hold anything.
    pub fn is_sound(&self) -> bool {
        let costs = self.products.values().chain([&self.attention, &self.delta_rule, &self.vectors]);
        let reads = self.disk.values().flatten();
        costs.into_iter().all(RowCost::is_sound)
            && reads.into_iter().all(|read| read.gb_per_s > 0.0 && read.gb_per_s.is_finite())
            && self.memory_gb_per_s > 0.0
    }

    /// GB/s of random reads of `bytes` each, `depth` in flight, by `reader`; `None` if it was not measured.
    ///
    /// Between measured sizes and depths the speed is linear in their logarithms; outside it is that of the nearest.
    pub fn disk_gb_per_s(&self, reader: &str, bytes: u64, depth: usize) -> Option<f64> {
        let points = self.disk.get(reader)?;
        let mut sizes: Vec<u64> = points.iter().map(|point| point.bytes).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let at_size = |size: u64| {
            let mut curve: Vec<(f64, f64)> = points
                .iter()
                .filter(|point| point.bytes == size)
                .map(|point| ((point.depth as f64).ln(), point.gb_per_s))
                .collect();
            curve.sort_by(|a, b| a.0.total_cmp(&b.0));
            (curve, (size as f64).ln())
        };
        let curve: Vec<(f64, f64)> = sizes
            .into_iter()
            .map(at_size)
            .filter_map(|(curve, size)| Some((size, between(&curve, (depth.max(1) as f64).ln())?)))
            .collect();
        between(&curve, (bytes.max(1) as f64).ln())
    }
}

/// The value at `x` of the line through ascending points; that of the nearest outside of them.
pub(super) fn between(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let (&first, &last) = (points.first()?, points.last()?);
    if x <= first.0 {
        return Some(first.1);
    }
    let above = points.iter().position(|point| point.0 > x);
    Some(above.map_or(last.1, |above| {
        let (a, b) = (points[above - 1], points[above]);
        a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_costs_its_share_of_the_pass() {
        // A pass costs 100 + 10 a row.
        let cost = RowCost { picoseconds: vec![(1, 110.0), (10, 20.0), (100, 11.0)] };
        for (rows, measured) in
            [(1.0, 1.0), (2.0, 2.0), (5.0, 5.0), (50.0, 50.0), (0.5, 1.0), (1000.0, 100.0)]
        {
            let exact = (100.0 / measured + 10.0) * 1e-12;
            assert!((cost.seconds(rows) / exact - 1.0).abs() < 1e-9, "{rows} rows");
        }
        assert_eq!(RowCost::default().seconds(3.0), 0.0);
    }

    #[test]
    fn a_profile_that_was_tampered_with_is_not_sound() {
        let cost = |points: &[(usize, f64)]| RowCost { picoseconds: points.to_vec() };
        let sound = cost(&[(1, 5.0), (16, 1.0)]);
        let profile = MachineProfile {
            memory_gb_per_s: 30.0,
            attention: sound.clone(),
            delta_rule: sound.clone(),
            vectors: sound.clone(),
            ..MachineProfile::default()
        };
        assert!(profile.is_sound());
        for broken in
            [&[][..], &[(1, 5.0)], &[(1, 5.0), (1, 4.0)], &[(1, f64::NAN), (2, 1.0)], &[(0, 1.0), (2, 1.0)]]
        {
            assert!(!MachineProfile { vectors: cost(broken), ..profile.clone() }.is_sound(), "{broken:?}");
        }
        let read = ReadSpeed { bytes: 1, depth: 1, gb_per_s: 0.0 };
        assert!(!MachineProfile { disk: [("uring".to_owned(), vec![read])].into(), ..profile }.is_sound());
    }

    #[test]
    fn speed_of_a_disk_between_measured_points() {
        let point = |bytes, depth, gb_per_s| ReadSpeed { bytes, depth, gb_per_s };
        let points =
            vec![point(1024, 1, 1.0), point(4096, 1, 3.0), point(1024, 16, 2.0), point(4096, 16, 4.0)];
        let profile =
            MachineProfile { disk: [("uring".to_owned(), points)].into(), ..MachineProfile::default() };
        let speed = |bytes, depth| profile.disk_gb_per_s("uring", bytes, depth).unwrap();
        assert_eq!(speed(1024, 1), 1.0);
        assert!((speed(2048, 4) - 2.5).abs() < 1e-9);
        assert_eq!(speed(1 << 20, 64), 4.0);
        assert_eq!(speed(1, 0), 1.0);
        assert_eq!(profile.disk_gb_per_s("pread", 1024, 1), None);
    }
}
