//! Floats of 4 and 8 bits, and MLX's groups of them. The types are those of the OCP 8-bit floating point specification and of
//! the Microscaling specification 1.0.

/// E4M3 of the "fn" kind: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, all ones is NaN, at most 448.
pub fn e4m3(code: u8) -> f32 {
    let magnitude = match (code >> 3 & 15, code & 7) {
        (15, 7) => f32::NAN,
        // 2^-9 a step below the least exponent.
        (0, mantissa) => f32::from(mantissa) / 512.0,
        // The same fields in a binary32, whose bias is 127.
        (exponent, mantissa) => f32::from_bits((u32::from(exponent) + 120) << 23 | u32::from(mantissa) << 20),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// E8M0: the power of two with exponent `code - 127`; 255 is NaN.
pub fn e8m0(code: u8) -> f32 {
    match code {
        0 => 2f32.powi(-127),
        255 => f32::NAN,
        code => f32::from_bits(u32::from(code) << 23),
    }
}

/// E2M1, in the low four bits: sign, 2 bits of exponent, 1 of mantissa; at most 6.
pub fn e2m1(code: u8) -> f32 {
    const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let magnitude = MAGNITUDES[usize::from(code & 7)];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// MLX's modes of small floats: codes in low-to-high fields of a row's little-endian bit stream, one 8-bit scale a group, no biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatGroups {
    /// E2M1 codes in groups of 32, E8M0 scales.
    Mxfp4,
    /// E4M3 codes in groups of 32, E8M0 scales.
    Mxfp8,
    /// E2M1 codes in groups of 16, E4M3 scales.
    Nvfp4,
}

impl FloatGroups {
    /// The mode of this name in an MLX config.
    pub fn from_mode(mode: &str) -> Option<FloatGroups> {
        match mode {
            "mxfp4" => Some(FloatGroups::Mxfp4),
            "mxfp8" => Some(FloatGroups::Mxfp8),
            "nvfp4" => Some(FloatGroups::Nvfp4),
            _ => None,
        }
    }

    /// Bits of a code.
    pub fn bits(self) -> usize {
        match self {
            FloatGroups::Mxfp4 | FloatGroups::Nvfp4 => 4,
            FloatGroups::Mxfp8 => 8,
        }
    }

    /// Values that share a scale.
    pub fn group(self) -> usize {
        match self {
            FloatGroups::Mxfp4 | FloatGroups::Mxfp8 => 32,
            FloatGroups::Nvfp4 => 16,
        }
    }

    /// The naive truth: a row of `out.len()` values from its codes and scales.
    pub fn decode_row(self, codes: &[u8], scales: &[u8], out: &mut [f32]) {
        for (i, value) in out.iter_mut().enumerate() {
            let code = match self {
                FloatGroups::Mxfp8 => e4m3(codes[i]),
                FloatGroups::Mxfp4 | FloatGroups::Nvfp4 => e2m1(codes[i / 2] >> (4 * (i % 2))),
            };
            let scale = scales[i / self.group()];
            let scale = match self {
                FloatGroups::Mxfp4 | FloatGroups::Mxfp8 => e8m0(scale),
                FloatGroups::Nvfp4 => e4m3(scale),
            };
            *value = code * scale;
        }
    }
}
