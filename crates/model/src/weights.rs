//! The trunk as the backend holds it: handles by role.

use flashmill_checkpoint::{
    AttentionRef, Checkpoint, DeltaNetRef, DeltaNetSpec, FfnKind, FfnRef, GluRef, HeadOrder, LayerRef,
    MatrixRef, MixerKind, MixerRef, ModelSpec, Trunk, VectorMap, VectorRef,
};
use flashmill_kernels::{Backend, Buffer, DeltaShape, Matrix};
use flashmill_layout::MatrixShape;
use flashmill_store::{Files, Wanted};

use crate::ModelError;

pub(crate) struct Weights {
    pub embed: Matrix,
    pub layers: Vec<Layer>,
    pub final_norm: Buffer,
    pub head: Matrix,
}

pub(crate) struct Layer {
    pub input_norm: Buffer,
    pub mixer: Mixer,
    pub post_norm: Buffer,
    pub ffn: Ffn,
}

pub(crate) enum Mixer {
    Attention(Attention),
    DeltaNet(DeltaNet),
}

pub(crate) struct Attention {
    /// Which of the attention layers this is: its place in a KV page.
    pub ordinal: usize,
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    pub o: Matrix,
    pub q_norm: Buffer,
    pub k_norm: Buffer,
}

pub(crate) struct DeltaNet {
    /// Which of the DeltaNet layers this is: its place in a sequence's state.
    pub ordinal: usize,
    pub qkv: Matrix,
    pub z: Matrix,
    pub b: Matrix,
    pub a: Matrix,
    pub conv: Buffer,
    pub decay: Buffer,
    pub dt_bias: Buffer,
    pub norm: Buffer,
    pub out: Matrix,
}

pub(crate) enum Ffn {
    Moe(Moe),
    Dense(Glu),
}

pub(crate) struct Moe {
    pub router: Matrix,
    pub shared: Option<Shared>,
    /// Shapes of gate, up and down of each routed expert of this layer.
    pub bundle: [MatrixShape; 3],
}

pub(crate) struct Shared {
    pub glu: Glu,
    pub gate_logit: Matrix,
    pub intermediate: usize,
}

pub(crate) struct Glu {
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

pub(crate) fn n_attention_layers(spec: &ModelSpec) -> usize {
    spec.layers.iter().filter(|layer| layer.mixer == MixerKind::Attention).count()
}

pub(crate) fn n_delta_layers(spec: &ModelSpec) -> usize {
    spec.layers.len() - n_attention_layers(spec)
}

pub(crate) fn delta_shape(spec: &DeltaNetSpec) -> DeltaShape {
    DeltaShape {
        n_key_heads: spec.n_key_heads,
        n_value_heads: spec.n_value_heads,
        key_dim: spec.key_dim,
        value_dim: spec.value_dim,
        conv_kernel: spec.conv_kernel,
        tiled: spec.head_order == HeadOrder::Tiled,
    }
}

/// Every matrix of the trunk, for the plan's sum and for the widest input.
pub(crate) fn trunk_matrices(trunk: &Trunk) -> Vec<&MatrixRef> {
    let mut all = vec![&trunk.embed];
    all.extend(&trunk.head);
    for layer in &trunk.layers {
        match &layer.mixer {
            MixerRef::Attention(a) => all.extend([&a.q, &a.k, &a.v, &a.o]),
            MixerRef::DeltaNet(d) => all.extend([&d.qkv, &d.z, &d.b, &d.a, &d.out]),
        }
        match &layer.ffn {
            FfnRef::Moe { router, shared } => {
                all.push(router);
                if let Some(shared) = shared {
                    all.extend([&shared.glu.gate, &shared.glu.up, &shared.glu.down, &shared.gate_logit]);
                }
            }
            FfnRef::Dense(glu) => all.extend([&glu.gate, &glu.up, &glu.down]),
        }
    }
    all
}

/// Every vector of the trunk.
pub(crate) fn trunk_vectors(trunk: &Trunk) -> Vec<&VectorRef> {
    let mut all = vec![&trunk.final_norm];
    for layer in &trunk.layers {
        all.extend([&layer.input_norm, &layer.post_norm]);
        match &layer.mixer {
            MixerRef::Attention(a) => all.extend([&a.q_norm, &a.k_norm]),
            MixerRef::DeltaNet(d) => all.extend([&d.conv, &d.decay, &d.dt_bias, &d.norm]),
        }
    }
    all
}

/// Makes room for the trunk in the backend, then reads all of it at once.
pub(crate) struct Loader<'a> {
    backend: &'a mut dyn Backend,
    /// Room was made for these, and they have not been read.
    matrices: Vec<(Matrix, &'a MatrixRef)>,
    vectors: Vec<(Buffer, &'a VectorRef)>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(backend: &'a mut dyn Backend) -> Loader<'a> {
        Loader { backend, matrices: Vec::new(), vectors: Vec::new() }
    }

    /// Makes room for everything.
    pub(crate) fn weights(&mut self, checkpoint: &'a Checkpoint) -> Weights {
        let trunk = checkpoint.trunk();
        let embed = self.matrix(&trunk.embed);
        let head = match &trunk.head {
            Some(head) => self.matrix(head),
            None => embed,
        };
        let final_norm = self.vector(&trunk.final_norm);
        let (mut n_attention, mut n_delta) = (0, 0);
        let mut layers = Vec::with_capacity(trunk.layers.len());
        for (index, layer) in trunk.layers.iter().enumerate() {
            let mixer = match &layer.mixer {
                MixerRef::Attention(attention) => {
                    n_attention += 1;
                    Mixer::Attention(self.attention(attention, n_attention - 1))
                }
                MixerRef::DeltaNet(delta) => {
                    n_delta += 1;
                    Mixer::DeltaNet(self.delta_net(delta, n_delta - 1))
                }
            };
            let kind = checkpoint.spec().layers[index].ffn;
            layers.push(Layer {
                input_norm: self.vector(&layer.input_norm),
                mixer,
                post_norm: self.vector(&layer.post_norm),
                ffn: self.ffn(layer, kind, checkpoint.bundle_shapes(index)),
            });
        }
        Weights { embed, layers, final_norm, head }
    }

    fn attention(&mut self, weights: &'a AttentionRef, ordinal: usize) -> Attention {
        Attention {
            ordinal,
            q: self.matrix(&weights.q),
            k: self.matrix(&weights.k),
            v: self.matrix(&weights.v),
            o: self.matrix(&weights.o),
            q_norm: self.vector(&weights.q_norm),
            k_norm: self.vector(&weights.k_norm),
        }
    }

    fn delta_net(&mut self, weights: &'a DeltaNetRef, ordinal: usize) -> DeltaNet {
        DeltaNet {
            ordinal,
            qkv: self.matrix(&weights.qkv),
            z: self.matrix(&weights.z),
            b: self.matrix(&weights.b),
            a: self.matrix(&weights.a),
            conv: self.vector(&weights.conv),
            decay: self.vector(&weights.decay),
            dt_bias: self.vector(&weights.dt_bias),
            norm: self.vector(&weights.norm),
            out: self.matrix(&weights.out),
        }
    }

    fn ffn(&mut self, layer: &'a LayerRef, kind: FfnKind, bundle: Option<[MatrixShape; 3]>) -> Ffn {
        match &layer.ffn {
            FfnRef::Dense(glu) => {
                assert_eq!(kind, FfnKind::Dense, "the trunk agrees with the spec");
                Ffn::Dense(self.glu(glu))
            }
            FfnRef::Moe { router, shared } => {
                let shared = shared.as_ref().map(|shared| Shared {
                    intermediate: shared.glu.gate.shape.rows,
                    glu: self.glu(&shared.glu),
                    gate_logit: self.matrix(&shared.gate_logit),
                });
                let bundle = bundle.expect("a layer with a router has bundles");
                Ffn::Moe(Moe { router: self.matrix(router), shared, bundle })
            }
        }
    }

    fn glu(&mut self, weights: &'a GluRef) -> Glu {
        Glu {
            gate: self.matrix(&weights.gate),
            up: self.matrix(&weights.up),
            down: self.matrix(&weights.down),
        }
    }

    fn matrix(&mut self, weights: &'a MatrixRef) -> Matrix {
        let matrix = self.backend.matrix(weights.shape);
        self.matrices.push((matrix, weights));
        matrix
    }

    fn vector(&mut self, weights: &'a VectorRef) -> Buffer {
        let buffer = self.backend.buffer(weights.len);
        self.vectors.push((buffer, weights));
        buffer
    }

    /// Reads everything that room was made for; `progress` is told the bytes read so far.
    pub(crate) fn read(
        self,
        files: &Files,
        direct: bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ModelError> {
        let mut wanted = Vec::new();
        let mut vectors: Vec<Vec<u8>> =
            self.vectors.iter().map(|(_, vector)| vec![0; vector.len * vector.float.bytes()]).collect();
        for ((_, vector), into) in self.vectors.iter().zip(&mut vectors) {
            wanted.push(Wanted { extent: vector.extent, into });
        }
        let mut parts = self.backend.all_parts();
        for (matrix, weights) in &self.matrices {
            for (part, runs) in parts[matrix.0 as usize].iter_mut().zip(&weights.parts) {
                let mut rest = std::mem::take(part);
                for &extent in runs {
                    let (into, after) = rest.split_at_mut(extent.len as usize);
                    wanted.push(Wanted { extent, into });
                    rest = after;
                }
                assert!(rest.is_empty(), "the runs of {} give all its rows", weights.name);
            }
        }
        files.read_many(wanted, direct, progress)?;
        for ((buffer, vector), bytes) in self.vectors.iter().zip(&vectors) {
            let values: Vec<f32> = (0..vector.len).map(|i| value(vector, bytes, i)).collect();
            self.backend.write(*buffer, 0, &values);
        }
        Ok(())
    }
}

/// A value of a vector as the forward pass wants it.
fn value(vector: &VectorRef, bytes: &[u8], i: usize) -> f32 {
    let value = vector.float.get(bytes, i);
    match vector.map {
        VectorMap::Identity => value,
        VectorMap::OnePlus => 1.0 + value,
        VectorMap::NegExp => -value.exp(),
    }
}
