//! Scales by range are MLX's: the fixture that mlx-lm's converter would write has the same bytes.

use flashmill_pack::{Bits, RecipeOptions, Rule};

use crate::support::{fixture, matrices, open, packed};

/// Routers and gate logits are at 8 bits there and stay floats here.
fn is_choice(name: &str) -> bool {
    name.ends_with(".router") || name.ends_with(".gate_logit")
}

#[test]
fn four_bits_are_the_bytes_of_mlx() {
    let four = Some(Bits::Affine(4));
    let rule = Some(Rule::Range);
    let recipe = RecipeOptions { experts: four, trunk: four, rule, ..RecipeOptions::default() };
    let out = packed("qwen3_5_moe", recipe);
    let (ours, theirs) =
        (matrices(&open(&out.path().join("out"))), matrices(&open(&fixture("qwen3_5_moe_mlx4"))));
    assert_eq!(ours.len(), theirs.len());
    let mut n_compared = 0;
    for ((name, ours), (other, theirs)) in ours.iter().zip(&theirs).filter(|((name, _), _)| !is_choice(name))
    {
        assert_eq!(name, other);
        assert_eq!(ours.len(), theirs.len(), "{name}: parts");
        for (part, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            assert!(ours == theirs, "{name}, part {part}: the bytes differ");
            n_compared += ours.len();
        }
    }
    assert!(n_compared > 500_000, "{n_compared} bytes were compared");
}

/// Experts at 2 bits, their `down` at 3, where the fixture has 2: gate and up are comparable.
#[test]
fn two_bits_of_gate_and_up_are_the_bytes_of_mlx() {
    let (experts, rule) = (Some(Bits::Affine(2)), Some(Rule::Range));
    let out = packed("qwen3_5_moe", RecipeOptions { experts, rule, ..RecipeOptions::default() });
    let (ours, theirs) = (open(&out.path().join("out")), open(&fixture("qwen3_5_moe_mlx2")));
    for layer in 0..ours.spec().layers.len() {
        let shapes = ours.bundle_shapes(layer).unwrap();
        assert_eq!(shapes[2].encoding.to_string(), "affine 3-bit, group 64, BF16 scales");
        for expert in 0..ours.spec().moe.unwrap().n_experts {
            let (ours_at, theirs_at) = (ours.bundle(layer, expert).glu, theirs.bundle(layer, expert).glu);
            for (a, b) in [(&ours_at.gate, &theirs_at.gate), (&ours_at.up, &theirs_at.up)] {
                assert_eq!(a.shape, b.shape);
                for (a, b) in a.parts.iter().flatten().zip(b.parts.iter().flatten()) {
                    assert_eq!(crate::support::bytes(&ours, *a), crate::support::bytes(&theirs, *b));
                }
            }
        }
    }
}
