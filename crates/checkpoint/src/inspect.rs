//! The numbers behind the `inspect` command.

use std::fmt;

use flashmill_layout::{Encoding, MatrixShape};

use crate::checkpoint::Checkpoint;
use crate::spec::{Family, MixerKind};
use crate::trunk::Convention;
use crate::weights::{FfnRef, MatrixRef, MixerRef, VectorRef};

/// A checkpoint in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// The architecture.
    pub family: Family,
    /// Whose habits the files follow.
    pub convention: Convention,
    /// Number of files of weights.
    pub n_files: usize,
    /// Their bytes, headers and unused tensors included.
    pub file_bytes: u64,
    /// What the model's weights are spent on, roles without weights left out.
    pub roles: Vec<RoleSummary>,
    /// Weights of the text model, each counted once.
    pub total_params: u64,
    /// Weights that one token meets with the model's own number of experts: all but the experts not chosen and, unless it is
    /// the head as well, the embedding table.
    pub active_params: u64,
    /// Bytes of the text model's weights.
    pub weight_bytes: u64,
    /// Bits stored for each weight on average, scales included.
    pub bits_per_weight: f64,
    /// Bytes of one routed expert in the layer where they are smallest and in the layer where they are largest.
    pub expert_bytes: Option<(u64, u64)>,
    /// Bytes of the experts that one token uses in all layers, with the model's own number of experts.
    pub expert_bytes_per_token: u64,
    /// Bytes of keys and values for each token of context in 16-bit floats.
    pub kv_bytes_per_token: u64,
    /// Bytes of DeltaNet and convolution state of one sequence in 32-bit floats, whatever its length.
    pub delta_net_state_bytes: u64,
}

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// The embedding table.
    Embed,
    /// The head, where it is stored.
    Head,
    /// Projections of full attention.
    Attention,
    /// Projections, convolution and decay of Gated DeltaNet.
    DeltaNet,
    /// Routers.
    Router,
    /// Shared experts and their gates.
    SharedExpert,
    /// Routed experts.
    RoutedExperts,
    /// Feed-forward networks of dense layers.
    DenseFfn,
    /// All norms.
    Norms,
}

/// The weights of one role.
#[derive(Clone, Debug, PartialEq)]
pub struct RoleSummary {
    /// The role.
    pub role: Role,
    /// Weights.
    pub params: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How they are stored, the most bytes first.
    pub encodings: Vec<EncodingUse>,
}

/// How often an encoding is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EncodingUse {
    /// The encoding.
    pub encoding: Encoding,
    /// Matrices and vectors.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Checkpoint {
    /// The checkpoint in numbers.
    pub fn inspect(&self) -> Inspection {
        let mut roles = Roles::default();
        self.count_trunk(&mut roles);
        let spec = self.spec();
        let moe = spec.moe.as_ref();
        let (n_experts, top_k) = moe.map_or((0, 0), |moe| (moe.n_experts as u64, moe.top_k as u64));
        let mut idle_params = 0;
        let mut expert_bytes: Option<(u64, u64)> = None;
        let mut expert_bytes_per_token = 0;
        for shapes in (0..spec.layers.len()).filter_map(|layer| self.bundle_shapes(layer)) {
            for shape in shapes {
                roles.add(Role::RoutedExperts, shape, n_experts);
                idle_params += params(shape) * (n_experts - top_k);
            }
            let bytes = shapes.iter().map(|shape| shape.bytes() as u64).sum();
            let (least, most) = expert_bytes.unwrap_or((bytes, bytes));
            expert_bytes = Some((least.min(bytes), most.max(bytes)));
            expert_bytes_per_token += bytes * top_k;
        }
        if self.trunk().head.is_some() {
            idle_params += params(self.trunk().embed.shape);
        }

        let roles = roles.0;
        let total_params = roles.iter().map(|role| role.params).sum();
        let weight_bytes: u64 = roles.iter().map(|role| role.bytes).sum();
        Inspection {
            family: spec.family,
            convention: self.convention(),
            n_files: self.files().len(),
            file_bytes: self.files().iter().map(|file| file.len).sum(),
            roles,
            total_params,
            active_params: total_params - idle_params,
            weight_bytes,
            bits_per_weight: weight_bytes as f64 * 8.0 / total_params as f64,
            expert_bytes,
            expert_bytes_per_token,
            kv_bytes_per_token: self.kv_bytes_per_token(),
            delta_net_state_bytes: self.delta_net_state_bytes(),
        }
    }

    fn count_trunk(&self, roles: &mut Roles) {
        let trunk = self.trunk();
        roles.matrix(Role::Embed, &trunk.embed);
        if let Some(head) = &trunk.head {
            roles.matrix(Role::Head, head);
        }
        roles.vector(Role::Norms, &trunk.final_norm);
        for layer in &trunk.layers {
            roles.vector(Role::Norms, &layer.input_norm);
            roles.vector(Role::Norms, &layer.post_norm);
            match &layer.mixer {
                MixerRef::Attention(attention) => {
                    for matrix in [&attention.q, &attention.k, &attention.v, &attention.o] {
                        roles.matrix(Role::Attention, matrix);
                    }
                    roles.vector(Role::Norms, &attention.q_norm);
                    roles.vector(Role::Norms, &attention.k_norm);
                }
                MixerRef::DeltaNet(delta) => {
                    for matrix in [&delta.qkv, &delta.z, &delta.b, &delta.a, &delta.out] {
                        roles.matrix(Role::DeltaNet, matrix);
                    }
                    for vector in [&delta.conv, &delta.decay, &delta.dt_bias] {
                        roles.vector(Role::DeltaNet, vector);
                    }
                    roles.vector(Role::Norms, &delta.norm);
                }
            }
            match &layer.ffn {
                FfnRef::Moe { router, shared } => {
                    roles.matrix(Role::Router, router);
                    if let Some(shared) = shared {
                        let glu = &shared.glu;
                        for matrix in [&glu.gate, &glu.up, &glu.down, &shared.gate_logit] {
                            roles.matrix(Role::SharedExpert, matrix);
                        }
                    }
                }
                FfnRef::Dense(glu) => {
                    for matrix in [&glu.gate, &glu.up, &glu.down] {
                        roles.matrix(Role::DenseFfn, matrix);
                    }
                }
            }
        }
    }

    fn kv_bytes_per_token(&self) -> u64 {
        let sizes = &self.spec().attention;
        let one = 2 * sizes.n_kv_heads * sizes.head_dim * 2;
        self.n_layers_of(MixerKind::Attention) * one as u64
    }

    /// S of each value head, and the last taps but one of each channel.
    fn delta_net_state_bytes(&self) -> u64 {
        self.spec().delta_net.as_ref().map_or(0, |sizes| {
            let state = sizes.n_value_heads * sizes.key_dim * sizes.value_dim;
            let conv = sizes.conv_channels() * (sizes.conv_kernel - 1);
            self.n_layers_of(MixerKind::DeltaNet) * 4 * (state + conv) as u64
        })
    }

    fn n_layers_of(&self, mixer: MixerKind) -> u64 {
        self.spec().layers.iter().filter(|layer| layer.mixer == mixer).count() as u64
    }
}

/// Summaries by role, in the order of `Role`.
#[derive(Default)]
struct Roles(Vec<RoleSummary>);

impl Roles {
    fn matrix(&mut self, role: Role, matrix: &MatrixRef) {
        self.add(role, matrix.shape, 1);
    }

    fn vector(&mut self, role: Role, vector: &VectorRef) {
        let encoding = Encoding::Float(vector.float);
        self.add(role, MatrixShape { rows: 1, cols: vector.len, encoding }, 1);
    }

    fn add(&mut self, role: Role, shape: MatrixShape, count: u64) {
        let at = self.0.binary_search_by_key(&role, |summary| summary.role).unwrap_or_else(|at| {
            self.0.insert(at, RoleSummary { role, params: 0, bytes: 0, encodings: Vec::new() });
            at
        });
        let summary = &mut self.0[at];
        let bytes = shape.bytes() as u64 * count;
        summary.params += params(shape) * count;
        summary.bytes += bytes;
        match summary.encodings.iter_mut().find(|used| used.encoding == shape.encoding) {
            Some(used) => {
                used.count += count;
                used.bytes += bytes;
            }
            None => summary.encodings.push(EncodingUse { encoding: shape.encoding, count, bytes }),
        }
        summary.encodings.sort_by_key(|used| std::cmp::Reverse(used.bytes));
    }
}

fn params(shape: MatrixShape) -> u64 {
    shape.rows as u64 * shape.cols as u64
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Embed => "embedding",
            Role::Head => "head",
            Role::Attention => "attention",
            Role::DeltaNet => "DeltaNet",
            Role::Router => "router",
            Role::SharedExpert => "shared expert",
            Role::RoutedExperts => "routed experts",
            Role::DenseFfn => "dense network",
            Role::Norms => "norms",
        })
    }
}
