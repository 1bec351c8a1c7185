//! What files say. Opens a checkpoint, reads its headers and configs, and describes the model ([`ModelSpec`]) and where each
//! weight lies ([`Trunk`], [`BundleRef`]). The first station of the corridor; it never reads a weight and never computes.

mod spec;
mod weights;

pub use spec::{
    AttentionSpec, DeltaNetSpec, Family, FfnKind, HeadOrder, LayerKind, MixerKind, ModelSpec, MoeSpec,
};
pub use weights::{
    AttentionRef, BundleRef, DeltaNetRef, FfnRef, GluRef, LayerRef, MatrixRef, MixerRef, SharedExpertRef,
    Trunk, VectorMap, VectorRef,
};
