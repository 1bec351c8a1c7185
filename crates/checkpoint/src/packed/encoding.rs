use flashmill_layout::{Affine, Encoding, FP8_BLOCK, Float, GgmlType, MatrixShape};

/// A part of a matrix as a tensor of the trunk's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartTensor {
    /// What follows the matrix's name: `weight`, `scales`, `biases`.
    pub suffix: &'static str,
    /// Its type, as safetensors names it.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: [u64; 2],
}

/// The name of an encoding in a manifest.
pub fn encoding_name(encoding: Encoding) -> String {
    match encoding {
        Encoding::Float(float) => float.to_string(),
        Encoding::Affine(Affine { bits, group, scales }) => format!("affine:{bits}:{group}:{scales}"),
        Encoding::Ggml(ty) => format!("ggml:{}", ty.name()),
        Encoding::Fp8 { scales } => format!("fp8:{scales}"),
    }
}

/// The encoding of that name.
pub fn parse_encoding(name: &str) -> Option<Encoding> {
    if let Some(float) = parse_float(name) {
        return Some(Encoding::Float(float));
    }
    if let Some(name) = name.strip_prefix("ggml:") {
        let ty = GgmlType::ALL.into_iter().find(|ty| ty.name() == name && ty.float().is_none());
        return ty.map(Encoding::Ggml);
    }
    if let Some(scales) = name.strip_prefix("fp8:") {
        return parse_float(scales).map(|scales| Encoding::Fp8 { scales });
    }
    let mut fields = name.strip_prefix("affine:")?.split(':');
    let bits =
        fields.next().and_then(|bits| [2u8, 3, 4, 5, 6, 8].into_iter().find(|b| b.to_string() == bits))?;
    let group =
        fields.next().and_then(|group| [32u16, 64, 128].into_iter().find(|g| g.to_string() == group))?;
    let scales = fields.next().and_then(parse_float)?;
    fields.next().is_none().then_some(Encoding::Affine(Affine { bits, group, scales }))
}

/// The tensors of a matrix, one a part.
pub fn part_tensors(shape: MatrixShape) -> Vec<PartTensor> {
    let (rows, cols) = (shape.rows as u64, shape.cols as u64);
    let part = |suffix, dtype, cols| PartTensor { suffix, dtype, shape: [rows, cols] };
    match shape.encoding {
        Encoding::Float(float) => vec![part("weight", float_name(float), cols)],
        Encoding::Affine(Affine { bits, group, scales }) => {
            let groups = cols / u64::from(group);
            vec![
                part("weight", "U32", cols * u64::from(bits) / 32),
                part("scales", float_name(scales), groups),
                part("biases", float_name(scales), groups),
            ]
        }
        Encoding::Ggml(ty) => vec![part("weight", "U8", ty.row_bytes(shape.cols) as u64)],
        Encoding::Fp8 { scales } => {
            let shape = [rows, cols].map(|size| size.div_ceil(FP8_BLOCK as u64));
            vec![
                part("weight", "F8_E4M3", cols),
                PartTensor { suffix: "scales", dtype: float_name(scales), shape },
            ]
        }
    }
}

fn float_name(float: Float) -> &'static str {
    match float {
        Float::F32 => "F32",
        Float::F16 => "F16",
        Float::BF16 => "BF16",
    }
}

fn parse_float(name: &str) -> Option<Float> {
    [Float::F32, Float::F16, Float::BF16].into_iter().find(|&float| float_name(float) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        let floats = [Float::F32, Float::F16, Float::BF16];
        let mut all: Vec<Encoding> = floats.into_iter().map(Encoding::Float).collect();
        for (bits, group, scales) in [(2, 32, Float::F16), (3, 64, Float::BF16), (8, 128, Float::F32)] {
            all.push(Encoding::Affine(Affine { bits, group, scales }));
        }
        all.extend(floats.map(|scales| Encoding::Fp8 { scales }));
        all.extend(GgmlType::ALL.into_iter().map(Encoding::of_ggml));
        for encoding in all {
            assert_eq!(parse_encoding(&encoding_name(encoding)), Some(encoding), "{encoding}");
        }
    }

    #[test]
    fn other_names_are_none() {
        for name in [
            "",
            "bf16",
            "affine:7:64:BF16",
            "affine:4:63:BF16",
            "affine:4:64",
            "affine:4:64:BF16:1",
            "affine:04:64:BF16",
            "affine:4:64:F64",
            "ggml:F32",
            "ggml:Q9_K",
            "ggml:",
        ] {
            assert_eq!(parse_encoding(name), None, "{name}");
        }
    }

    #[test]
    fn the_tensors_have_the_bytes_of_the_parts() {
        for name in ["F16", "affine:3:32:F32", "affine:8:64:BF16", "ggml:Q4_K", "fp8:BF16"] {
            let encoding = parse_encoding(name).unwrap();
            let shape = MatrixShape { rows: 130, cols: 512, encoding };
            for (i, part) in part_tensors(shape).iter().enumerate() {
                let size = match part.dtype {
                    "U8" | "F8_E4M3" => 1,
                    "F16" | "BF16" => 2,
                    _ => 4,
                };
                assert_eq!(part.shape[0] * part.shape[1] * size, shape.part_bytes(i) as u64, "{name} {i}");
            }
        }
    }
}
