//! The trunk as the backend holds it: handles by role.

use flashmill_checkpoint::{
    AttentionRef, Checkpoint, DeltaNetRef, DeltaNetSpec, FfnKind, FfnRef, GluRef, HeadOrder, LayerRef,
    MatrixRef, MixerKind, MixerRef, ModelSpec, Trunk, VectorMap, VectorRef,
};
use flashmill_kernels::{Backend, Buffer, DeltaShape, Matrix};
use flashmill_layout::MatrixShape;
use flashmill_store::Files;

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

/// Reads the trunk into the backend.
pub(crate) struct Loader<'a> {
    pub backend: &'a mut dyn Backend,
    pub files: &'a Files,
    /// Told the bytes read so far.
    pub progress: &'a mut dyn FnMut(u64),
    pub n_read: u64,
}

impl Loader<'_> {
    pub(crate) fn weights(&mut self, checkpoint: &Checkpoint) -> Result<Weights, ModelError> {
        let trunk = checkpoint.trunk();
        let embed = self.matrix(&trunk.embed)?;
        let head = match &trunk.head {
            Some(head) => self.matrix(head)?,
            None => embed,
        };
        let final_norm = self.vector(&trunk.final_norm)?;
        let (mut n_attention, mut n_delta) = (0, 0);
        let mut layers = Vec::with_capacity(trunk.layers.len());
        for (index, layer) in trunk.layers.iter().enumerate() {
            let mixer = match &layer.mixer {
                MixerRef::Attention(attention) => {
                    n_attention += 1;
                    Mixer::Attention(self.attention(attention, n_attention - 1)?)
                }
                MixerRef::DeltaNet(delta) => {
                    n_delta += 1;
                    Mixer::DeltaNet(self.delta_net(delta, n_delta - 1)?)
                }
            };
            let kind = checkpoint.spec().layers[index].ffn;
            layers.push(Layer {
                input_norm: self.vector(&layer.input_norm)?,
                mixer,
                post_norm: self.vector(&layer.post_norm)?,
                ffn: self.ffn(layer, kind, checkpoint.bundle_shapes(index))?,
            });
        }
        Ok(Weights { embed, layers, final_norm, head })
    }

    fn attention(&mut self, weights: &AttentionRef, ordinal: usize) -> Result<Attention, ModelError> {
        Ok(Attention {
            ordinal,
            q: self.matrix(&weights.q)?,
            k: self.matrix(&weights.k)?,
            v: self.matrix(&weights.v)?,
            o: self.matrix(&weights.o)?,
            q_norm: self.vector(&weights.q_norm)?,
            k_norm: self.vector(&weights.k_norm)?,
        })
    }

    fn delta_net(&mut self, weights: &DeltaNetRef, ordinal: usize) -> Result<DeltaNet, ModelError> {
        Ok(DeltaNet {
            ordinal,
            qkv: self.matrix(&weights.qkv)?,
            z: self.matrix(&weights.z)?,
            b: self.matrix(&weights.b)?,
            a: self.matrix(&weights.a)?,
            conv: self.vector(&weights.conv)?,
            decay: self.vector(&weights.decay)?,
            dt_bias: self.vector(&weights.dt_bias)?,
            norm: self.vector(&weights.norm)?,
            out: self.matrix(&weights.out)?,
        })
    }

    fn ffn(
        &mut self,
        layer: &LayerRef,
        kind: FfnKind,
        bundle: Option<[MatrixShape; 3]>,
    ) -> Result<Ffn, ModelError> {
        match &layer.ffn {
            FfnRef::Dense(glu) => {
                assert_eq!(kind, FfnKind::Dense, "the trunk agrees with the spec");
                Ok(Ffn::Dense(self.glu(glu)?))
            }
            FfnRef::Moe { router, shared } => {
                let shared = match shared {
                    None => None,
                    Some(shared) => Some(Shared {
                        intermediate: shared.glu.gate.shape.rows,
                        glu: self.glu(&shared.glu)?,
                        gate_logit: self.matrix(&shared.gate_logit)?,
                    }),
                };
                let bundle = bundle.expect("a layer with a router has bundles");
                Ok(Ffn::Moe(Moe { router: self.matrix(router)?, shared, bundle }))
            }
        }
    }

    fn glu(&mut self, weights: &GluRef) -> Result<Glu, ModelError> {
        Ok(Glu {
            gate: self.matrix(&weights.gate)?,
            up: self.matrix(&weights.up)?,
            down: self.matrix(&weights.down)?,
        })
    }

    fn matrix(&mut self, weights: &MatrixRef) -> Result<Matrix, ModelError> {
        let matrix = self.backend.matrix(weights.shape);
        for (index, runs) in weights.parts.iter().enumerate() {
            let part = self.backend.matrix_part(matrix, index);
            let mut at = 0;
            for run in runs {
                let len = usize::try_from(run.len).expect("a run fits in memory: the plan has counted it");
                self.files.read_exact(*run, &mut part[at..at + len])?;
                at += len;
                self.n_read += run.len;
                (self.progress)(self.n_read);
            }
            assert_eq!(at, part.len(), "the runs of {} give all its rows", weights.name);
        }
        Ok(matrix)
    }

    fn vector(&mut self, weights: &VectorRef) -> Result<Buffer, ModelError> {
        let mut bytes = vec![0; weights.len * weights.float.bytes()];
        self.files.read_exact(weights.extent, &mut bytes)?;
        self.n_read += bytes.len() as u64;
        let values: Vec<f32> = (0..weights.len)
            .map(|i| {
                let value = weights.float.get(&bytes, i);
                match weights.map {
                    VectorMap::Identity => value,
                    VectorMap::OnePlus => 1.0 + value,
                    VectorMap::NegExp => -value.exp(),
                }
            })
            .collect();
        let buffer = self.backend.buffer(values.len());
        self.backend.write(buffer, 0, &values);
        Ok(buffer)
    }
}
