//! The routed experts of a layer, kept small: a large model has tens of thousands, each with up to nine extents.

use flashmill_layout::{Extent, MatrixShape};

use crate::error::CheckpointError;
use crate::modules::{Modules, Stored};
use crate::spec::MoeSpec;
use crate::transposed::Transposed;
use crate::weights::{BundleRef, GluRef, MatrixRef};

/// All routed experts of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerBundles {
    pub(crate) n_experts: usize,
    /// Gate, up, down.
    pub(crate) shapes: [MatrixShape; 3],
    place: Place,
    /// Gate, up, down: see [`MatrixRef`].
    transposed: [Option<Transposed>; 3],
}

/// The projections of a GLU, in the order of a bundle.
const PROJECTIONS: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
const NEEDED_BY: &str = "the routed experts";

#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// Expert `e` lies `e` strides behind the first: MLX's stacks and the fused tensors of transformers.
    Stacked { names: [String; 3], runs: Vec<Stride> },
    /// One tensor an expert, projection and part: `[expert][gate parts, up parts, down parts]`.
    Single { module: String, extents: Vec<Extent> },
}

/// The run of the first expert and the distance to the next one's.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stride {
    first: Extent,
    bytes: u64,
}

impl LayerBundles {
    /// Finds the experts below `mlp` in whichever of the three forms they are stored.
    pub(crate) fn find(
        modules: &mut Modules<'_>,
        mlp: &str,
        hidden: usize,
        moe: &MoeSpec,
    ) -> Result<LayerBundles, CheckpointError> {
        if modules.contains(&format!("{mlp}.experts.gate_up_proj")) {
            LayerBundles::fused(modules, mlp, hidden, moe)
        } else if modules.contains(&format!("{mlp}.switch_mlp.gate_proj.weight")) {
            LayerBundles::stacked(modules, mlp, hidden, moe)
        } else {
            LayerBundles::single(modules, mlp, hidden, moe)
        }
    }

    /// `experts.gate_up_proj [E, 2I, H]`, gate rows first, and `experts.down_proj [E, H, I]`.
    fn fused(
        modules: &mut Modules<'_>,
        mlp: &str,
        hidden: usize,
        moe: &MoeSpec,
    ) -> Result<LayerBundles, CheckpointError> {
        let (n, size) = (Some(moe.n_experts), moe.intermediate_size);
        let gate_up = format!("{mlp}.experts.gate_up_proj");
        let down = format!("{mlp}.experts.down_proj");
        let both = modules.stored(&gate_up, &gate_up, n, (2 * size, hidden), NEEDED_BY)?;
        let down = modules.stored(&down, &down, n, (hidden, size), NEEDED_BY)?;
        let half = MatrixShape { rows: size, ..both.shape };
        let mut runs = Vec::new();
        for (stored, first, rows) in [(&both, 0, size), (&both, size, size), (&down, 0, hidden)] {
            runs.extend(stored.strides(first, rows).ok_or_else(|| modules.torn(stored))?);
        }
        let names = [both.name.clone(), both.name, down.name];
        let place = Place::Stacked { names, runs };
        Ok(LayerBundles {
            n_experts: moe.n_experts,
            shapes: [half, half, down.shape],
            place,
            transposed: [None; 3],
        })
    }

    /// `switch_mlp.{gate,up}_proj [E, I, H]` and `switch_mlp.down_proj [E, H, I]`.
    fn stacked(
        modules: &mut Modules<'_>,
        mlp: &str,
        hidden: usize,
        moe: &MoeSpec,
    ) -> Result<LayerBundles, CheckpointError> {
        let mut find = |i: usize| {
            let module = format!("{mlp}.switch_mlp.{}", PROJECTIONS[i]);
            let weight = format!("{module}.weight");
            modules.stored(&module, &weight, Some(moe.n_experts), sizes(hidden, moe)[i], NEEDED_BY)
        };
        let all = [find(0)?, find(1)?, find(2)?];
        let shapes = [all[0].shape, all[1].shape, all[2].shape];
        let mut runs = Vec::new();
        for stored in &all {
            runs.extend(stored.strides(0, stored.shape.rows).ok_or_else(|| modules.torn(stored))?);
        }
        let place = Place::Stacked { names: all.map(|stored| stored.name), runs };
        Ok(LayerBundles { n_experts: moe.n_experts, shapes, place, transposed: [None; 3] })
    }

    /// Gate, up and down as rows of stacks of `n_experts` matrices: the stack, the first row, the number of rows.
    ///
    /// # Panics
    /// If rows of the stacks share anything, as GGML's never do.
    pub(crate) fn of_stacks(n_experts: usize, all: [(&Stored, usize, usize); 3]) -> LayerBundles {
        let shapes = all.map(|(stored, _, rows)| MatrixShape { rows, ..stored.shape });
        let strides = |&(stored, first, rows): &(&Stored, usize, usize)| {
            stored.strides(first, rows).expect("rows that share nothing")
        };
        let runs = all.iter().flat_map(strides).collect();
        let place = Place::Stacked { names: all.map(|(stored, ..)| stored.name.clone()), runs };
        LayerBundles { n_experts, shapes, place, transposed: [None; 3] }
    }

    /// Records of the packed form: all parts of an expert in one run, `stride` bytes from one record to the next.
    pub(crate) fn of_records(
        n_experts: usize,
        shapes: [MatrixShape; 3],
        name: &str,
        first: Extent,
        stride: u64,
    ) -> LayerBundles {
        let mut at = 0;
        let mut runs = Vec::new();
        for shape in shapes {
            for part in 0..shape.encoding.n_parts() {
                let len = shape.part_bytes(part) as u64;
                runs.push(Stride { first: first.slice(at, len), bytes: stride });
                at += len;
            }
        }
        let names = ["gate", "up", "down"].map(|part| format!("{name} ({part})"));
        LayerBundles { n_experts, shapes, place: Place::Stacked { names, runs }, transposed: [None; 3] }
    }

    /// `experts.E.{gate,up,down}_proj`, a matrix each.
    fn single(
        modules: &mut Modules<'_>,
        mlp: &str,
        hidden: usize,
        moe: &MoeSpec,
    ) -> Result<LayerBundles, CheckpointError> {
        let module = format!("{mlp}.experts");
        let mut first: Option<[(MatrixShape, Option<Transposed>); 3]> = None;
        let mut extents = Vec::new();
        for expert in 0..moe.n_experts {
            let mut find = |i: usize| {
                let module = format!("{module}.{expert}.{}", PROJECTIONS[i]);
                modules.stored(&module, &format!("{module}.weight"), None, sizes(hidden, moe)[i], NEEDED_BY)
            };
            let all = [find(0)?, find(1)?, find(2)?];
            let expected =
                *first.get_or_insert_with(|| all.each_ref().map(|stored| (stored.shape, stored.transposed)));
            for (stored, (expected, words)) in all.into_iter().zip(expected) {
                if (stored.shape.encoding, stored.transposed) != (expected.encoding, words) {
                    return Err(CheckpointError::ExpertsDiffer {
                        path: modules.path(stored.parts[0]),
                        tensor: stored.name,
                        found: stored.shape.encoding,
                        expected: expected.encoding,
                    });
                }
                extents.extend(stored.parts);
            }
        }
        let first = first.expect("a layer of experts has at least one, the config's bounds say");
        let (shapes, transposed) = (first.map(|(shape, _)| shape), first.map(|(_, words)| words));
        let place = Place::Single { module, extents };
        Ok(LayerBundles { n_experts: moe.n_experts, shapes, place, transposed })
    }

    /// The extents of one expert: gate's parts, up's parts, down's parts.
    pub(crate) fn extents(&self, expert: usize) -> impl Iterator<Item = Extent> + '_ {
        assert!(expert < self.n_experts, "expert {expert} of {}", self.n_experts);
        let n_parts = self.n_parts();
        (0..n_parts).map(move |part| match &self.place {
            Place::Stacked { runs, .. } => {
                let Stride { first, bytes } = runs[part];
                Extent { offset: first.offset + expert as u64 * bytes, ..first }
            }
            Place::Single { extents, .. } => extents[expert * n_parts + part],
        })
    }

    /// One expert.
    pub(crate) fn bundle(&self, expert: usize) -> BundleRef {
        let mut extents = self.extents(expert);
        let [gate, up, down] = std::array::from_fn(|i| MatrixRef {
            name: match &self.place {
                Place::Stacked { names, .. } => names[i].clone(),
                Place::Single { module, .. } => format!("{module}.{expert}.{}.weight", PROJECTIONS[i]),
            },
            shape: self.shapes[i],
            parts: extents.by_ref().take(self.n_parts_of(i)).map(|run| vec![run]).collect(),
            transposed: self.transposed[i],
        });
        BundleRef { glu: GluRef { gate, up, down } }
    }

    fn n_parts(&self) -> usize {
        (0..3).map(|i| self.n_parts_of(i)).sum()
    }

    /// Extents of gate (0), up (1) or down (2).
    fn n_parts_of(&self, i: usize) -> usize {
        self.transposed[i].map_or_else(|| self.shapes[i].encoding.n_parts(), |words| words.n_parts())
    }
}

impl Stored {
    /// Rows `first..first + n` of each matrix of a stack, one stride a part; `None` where that would tear rows apart that share
    /// their scales.
    fn strides(&self, first: usize, n: usize) -> Option<Vec<Stride>> {
        let part = |(i, extent): (usize, &Extent)| {
            let bytes = self.shape.part_bytes(i) as u64;
            Some(Stride { first: self.slice(i, extent, first, n)?, bytes })
        };
        self.parts.iter().enumerate().map(part).collect()
    }
}

/// Rows and columns of gate, up, down.
fn sizes(hidden: usize, moe: &MoeSpec) -> [(usize, usize); 3] {
    let size = moe.intermediate_size;
    [(size, hidden), (size, hidden), (hidden, size)]
}
