//! Packs the fixtures and looks at what came out.

mod arrival;
mod files;
mod importance;
mod logits;
mod mlx;
mod places;
mod support;
