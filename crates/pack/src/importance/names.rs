/// The name in an importance file of a weight of the packed form, or of gate, up or down of a layer's experts.
///
/// The output projection of DeltaNet is left out: llama.cpp's converter changes the order of its inputs in some families.
pub(crate) fn gguf_name(name: &str) -> Option<String> {
    match name {
        "embed" => return Some("token_embd.weight".to_owned()),
        "head" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    let name = match rest {
        "attention.q" => "attn_q",
        "attention.k" => "attn_k",
        "attention.v" => "attn_v",
        "attention.o" => "attn_output",
        "delta_net.qkv" => "attn_qkv",
        "delta_net.z" => "attn_gate",
        "delta_net.b" => "ssm_beta",
        "delta_net.a" => "ssm_alpha",
        "shared.gate" => "ffn_gate_shexp",
        "shared.up" => "ffn_up_shexp",
        "shared.down" => "ffn_down_shexp",
        "dense.gate" => "ffn_gate",
        "dense.up" => "ffn_up",
        "dense.down" => "ffn_down",
        "experts.gate" => "ffn_gate_exps",
        "experts.up" => "ffn_up_exps",
        "experts.down" => "ffn_down_exps",
        _ => return None,
    };
    Some(format!("blk.{layer}.{name}.weight"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = |text| gguf_name(text).unwrap_or_default();
        assert_eq!(name("layers.12.experts.down"), "blk.12.ffn_down_exps.weight");
        assert_eq!(name("layers.0.attention.o"), "blk.0.attn_output.weight");
        assert_eq!(name("head"), "output.weight");
        for other in ["layers.0.delta_net.out", "layers.0.router", "final_norm", "layers"] {
            assert_eq!(gguf_name(other), None, "{other}");
        }
    }
}
