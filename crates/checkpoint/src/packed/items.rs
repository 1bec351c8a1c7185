use crate::weights::{FfnRef, GluRef, MatrixRef, MixerRef, Trunk, VectorRef};

/// A weight of the trunk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TrunkItem<'a> {
    /// A matrix.
    Matrix(&'a MatrixRef),
    /// A vector.
    Vector(&'a VectorRef),
}

use TrunkItem::{Matrix, Vector};

/// The weights of a trunk with their names in the packed form, in the order of the manifest.
pub fn trunk_items(trunk: &Trunk) -> Vec<(String, TrunkItem<'_>)> {
    let mut items = Vec::new();
    items.push(("embed".to_owned(), Matrix(&trunk.embed)));
    for (i, layer) in trunk.layers.iter().enumerate() {
        let mut add = |name: &str, item| items.push((format!("layers.{i}.{name}"), item));
        add("input_norm", Vector(&layer.input_norm));
        match &layer.mixer {
            MixerRef::Attention(a) => {
                add("attention.q", Matrix(&a.q));
                add("attention.k", Matrix(&a.k));
                add("attention.v", Matrix(&a.v));
                add("attention.o", Matrix(&a.o));
                add("attention.q_norm", Vector(&a.q_norm));
                add("attention.k_norm", Vector(&a.k_norm));
            }
            MixerRef::DeltaNet(d) => {
                add("delta_net.qkv", Matrix(&d.qkv));
                add("delta_net.z", Matrix(&d.z));
                add("delta_net.b", Matrix(&d.b));
                add("delta_net.a", Matrix(&d.a));
                add("delta_net.conv", Vector(&d.conv));
                add("delta_net.decay", Vector(&d.decay));
                add("delta_net.dt_bias", Vector(&d.dt_bias));
                add("delta_net.norm", Vector(&d.norm));
                add("delta_net.out", Matrix(&d.out));
            }
        }
        add("post_norm", Vector(&layer.post_norm));
        match &layer.ffn {
            FfnRef::Moe { router, shared } => {
                add("router", Matrix(router));
                if let Some(shared) = shared {
                    glu(&mut add, "shared", &shared.glu);
                    add("shared.gate_logit", Matrix(&shared.gate_logit));
                }
            }
            FfnRef::Dense(dense) => glu(&mut add, "dense", dense),
        }
    }
    items.push(("final_norm".to_owned(), Vector(&trunk.final_norm)));
    items.extend(trunk.head.as_ref().map(|head| ("head".to_owned(), Matrix(head))));
    items
}

fn glu<'a>(add: &mut impl FnMut(&str, TrunkItem<'a>), at: &str, glu: &'a GluRef) {
    add(&format!("{at}.gate"), Matrix(&glu.gate));
    add(&format!("{at}.up"), Matrix(&glu.up));
    add(&format!("{at}.down"), Matrix(&glu.down));
}
