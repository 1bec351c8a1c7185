//! Which encoding each matrix gets.
//!
//! The rules: without bits, every byte stays as it is. What is not a routed expert stays at 8 bits or better unless asked
//! otherwise; routers and the shared expert's gate logit are never touched, since they are small and choose; `down` gets one step
//! more than gate and up at 2 and 3 bits. Where bits are few, or importance is known, scales are fitted.

use std::collections::BTreeMap;
use std::fmt;

use flashmill_layout::{Affine, Encoding, Float, MatrixShape};

/// Bits of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Affine codes of 2, 3, 4, 5, 6 or 8 bits.
    Affine(u8),
    /// Floats stay what they are, F32 too; what is quantised becomes BF16.
    Float,
}

/// How the scales of groups are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// MLX's: they span the range of each group.
    Range,
    /// Searched for the least error, weighted by importance if there is any; the largest weights are never cut off.
    Fit,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecipeOptions {
    /// Of everything: the experts get these bits, the trunk as many but 8 at least.
    pub bits: Option<Bits>,
    /// Of the routed experts.
    pub experts: Option<Bits>,
    /// Of the trunk, routers left out.
    pub trunk: Option<Bits>,
    /// Values that share a scale: 32, 64 or 128.
    pub group: u16,
    /// For every matrix that is quantised; if not given, [`Rule::Fit`] where there is importance, at 2 and 3 bits, and in the trunk
    /// at 4.
    pub rule: Option<Rule>,
}

impl Default for RecipeOptions {
    fn default() -> Self {
        RecipeOptions { bits: None, experts: None, trunk: None, group: 64, rule: None }
    }
}

/// What the user should know about the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Warning {
    /// Weights that are quantised already are quantised again.
    Again {
        /// What they were, in hundredths of a bit a weight.
        centibits: u32,
        /// Bits that they get.
        bits: u8,
    },
    /// Rows that are not whole groups stay as they are.
    NotGrouped {
        /// Values of a row.
        cols: usize,
    },
    /// The importance file says nothing of them.
    NoImportance,
}

/// The choice for each matrix, and what to warn of, with the number of matrices.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    options: RecipeOptions,
    warnings: BTreeMap<Warning, usize>,
}

/// The projections of an expert.
const DOWN: usize = 2;

impl Recipe {
    pub(crate) fn new(options: RecipeOptions) -> Recipe {
        Recipe { options, warnings: BTreeMap::new() }
    }

    /// Warnings so far.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = (Warning, usize)> + '_ {
        self.warnings.iter().map(|(&warning, &count)| (warning, count))
    }

    /// The encodings of gate, up and down of `count` experts.
    pub(crate) fn experts(&mut self, shapes: [MatrixShape; 3], count: usize) -> [MatrixShape; 3] {
        let asked = self.options.experts.or(self.options.bits);
        let mut i = 0;
        shapes.map(|shape| {
            let bits = match asked {
                Some(Bits::Affine(bits @ (2 | 3))) if i == DOWN => Some(Bits::Affine(bits + 1)),
                asked => asked,
            };
            i += 1;
            self.choose(shape, bits, count)
        })
    }

    /// The encoding of a matrix of the trunk.
    pub(crate) fn trunk(&mut self, name: &str, shape: MatrixShape) -> MatrixShape {
        let is_float = matches!(shape.encoding, Encoding::Float(_));
        let bits = match (self.options.trunk, self.options.bits) {
            _ if name.ends_with(".router") || name.ends_with(".gate_logit") => None,
            (Some(bits), _) => Some(bits),
            // What is quantised already would only lose.
            (None, Some(_)) if !is_float => None,
            (None, Some(Bits::Affine(bits))) => Some(Bits::Affine(bits.max(8))),
            (None, bits) => bits,
        };
        self.choose(shape, bits, 1)
    }

    fn choose(&mut self, shape: MatrixShape, bits: Option<Bits>, count: usize) -> MatrixShape {
        let encoding = match (bits, shape.encoding) {
            (None, _) | (Some(Bits::Float), Encoding::Float(_)) => return shape,
            (Some(Bits::Float), _) => Encoding::Float(Float::BF16),
            (Some(Bits::Affine(bits)), stored) => {
                let groups =
                    [self.options.group, 64, 32].into_iter().filter(|&group| group <= self.options.group);
                let Some(group) = groups.into_iter().find(|&group| shape.cols.is_multiple_of(group.into()))
                else {
                    self.warn(Warning::NotGrouped { cols: shape.cols }, count);
                    return shape;
                };
                match stored {
                    Encoding::Affine(affine) if (affine.bits, affine.group) == (bits, group) => return shape,
                    Encoding::Float(_) => {}
                    _ => {
                        let centibits = (stored.bits_per_weight(shape.cols) * 100.0).round() as u32;
                        self.warn(Warning::Again { centibits, bits }, count);
                    }
                }
                Encoding::Affine(Affine { bits, group, scales: Float::BF16 })
            }
        };
        MatrixShape { encoding, ..shape }
    }

    /// Adds `count` matrices to what is warned of.
    pub(crate) fn warn(&mut self, warning: Warning, count: usize) {
        *self.warnings.entry(warning).or_default() += count;
    }
}

impl RecipeOptions {
    /// How the scales of the experts are found, all three projections'.
    pub(crate) fn experts_rule(&self, has_importance: bool) -> Rule {
        match self.experts.or(self.bits) {
            Some(Bits::Affine(bits)) => self.rule(bits, false, has_importance),
            None | Some(Bits::Float) => Rule::Range,
        }
    }

    /// How the scales of a matrix of the trunk are found that gets so many bits.
    pub(crate) fn trunk_rule(&self, bits: u8, has_importance: bool) -> Rule {
        self.rule(bits, true, has_importance)
    }

    /// At 4 bits those of the experts follow the range, for speed; the trunk is small.
    fn rule(&self, bits: u8, is_trunk: bool, has_importance: bool) -> Rule {
        let is_fitted = has_importance || bits <= if is_trunk { 4 } else { 3 };
        self.rule.unwrap_or(if is_fitted { Rule::Fit } else { Rule::Range })
    }

    /// What is done to the experts and to the trunk, for people and for the settings of a run.
    pub(crate) fn describe(&self, has_importance: bool) -> (String, String) {
        let text = |bits: Option<Bits>, is_trunk: bool| match bits {
            None => "as stored".to_owned(),
            Some(Bits::Float) => "floats kept".to_owned(),
            Some(Bits::Affine(bits)) => {
                let down = match bits {
                    2 | 3 if !is_trunk => format!(", down {} bits", bits + 1),
                    _ => String::new(),
                };
                let scales = match self.rule(bits, is_trunk, has_importance) {
                    Rule::Range => "",
                    Rule::Fit => ", scales fitted",
                };
                format!("{bits} bits, groups of {}{down}{scales}", self.group)
            }
        };
        let trunk = match (self.trunk, self.bits) {
            (Some(bits), _) => text(Some(bits), true),
            (None, Some(Bits::Affine(bits))) => {
                format!("{} where not quantised before", text(Some(Bits::Affine(bits.max(8))), true))
            }
            (None, bits) => text(bits, true),
        };
        (text(self.experts.or(self.bits), false), trunk)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Again { centibits, bits } => {
                let stored = f64::from(*centibits) / 100.0;
                write!(
                    f,
                    "weights that are quantised to {stored:.2} bits are quantised again, to {bits} bits; \
                     pack from the 16-bit files if you can, or leave out the bits to keep every byte"
                )
            }
            Warning::NotGrouped { cols } => {
                write!(f, "rows of {cols} values are not whole groups and stay as they are")
            }
            Warning::NoImportance => {
                f.write_str("the importance file has no numbers for them, they are packed as without it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(cols: usize) -> MatrixShape {
        MatrixShape { rows: 4, cols, encoding: Encoding::Float(Float::BF16) }
    }

    fn bits(shape: MatrixShape) -> Option<(u8, u16)> {
        match shape.encoding {
            Encoding::Affine(affine) => Some((affine.bits, affine.group)),
            _ => None,
        }
    }

    #[test]
    fn the_rules() {
        let options = |bits| RecipeOptions { bits: Some(bits), ..RecipeOptions::default() };
        let mut three = Recipe::new(options(Bits::Affine(3)));
        assert_eq!(
            three.experts([float(128); 3], 2).map(bits),
            [Some((3, 64)), Some((3, 64)), Some((4, 64))]
        );
        assert_eq!(bits(three.trunk("layers.0.attention.q", float(128))), Some((8, 64)));
        assert_eq!(bits(three.trunk("layers.0.router", float(128))), None);
        assert_eq!(bits(three.trunk("embed", float(96))), Some((8, 32)), "the largest group that fits");
        assert_eq!(three.warnings().count(), 0);
        assert_eq!(bits(three.trunk("embed", float(80))), None);
        assert_eq!(three.warnings().collect::<Vec<_>>(), [(Warning::NotGrouped { cols: 80 }, 1)]);
    }

    #[test]
    fn few_bits_and_importance_are_fitted() {
        let of =
            |bits, rule| RecipeOptions { bits: Some(Bits::Affine(bits)), rule, ..RecipeOptions::default() };
        let rules = |options: RecipeOptions, has| (options.experts_rule(has), options.trunk_rule(8, has));
        assert_eq!(rules(of(2, None), false), (Rule::Fit, Rule::Range));
        assert_eq!(rules(of(4, None), false), (Rule::Range, Rule::Range));
        assert_eq!(rules(of(4, None), true), (Rule::Fit, Rule::Fit));
        assert_eq!(rules(of(2, Some(Rule::Range)), false), (Rule::Range, Rule::Range));
        assert_eq!(of(4, None).trunk_rule(4, false), Rule::Fit);
        let (experts, trunk) = of(3, None).describe(false);
        assert_eq!(experts, "3 bits, groups of 64, down 4 bits, scales fitted");
        assert_eq!(trunk, "8 bits, groups of 64 where not quantised before");
        assert_eq!(of(3, Some(Rule::Range)).describe(false).0, "3 bits, groups of 64, down 4 bits");
        assert_eq!(of(6, None).describe(true).0, "6 bits, groups of 64, scales fitted");
    }

    #[test]
    fn nothing_is_quantised_twice_unasked() {
        let stored = Encoding::Affine(Affine { bits: 6, group: 64, scales: Float::F16 });
        let stored = MatrixShape { encoding: stored, ..float(128) };
        let four = RecipeOptions { bits: Some(Bits::Affine(4)), ..RecipeOptions::default() };
        let mut recipe = Recipe::new(four);
        assert_eq!(recipe.trunk("embed", stored), stored);
        assert_eq!(recipe.warnings().count(), 0);
        assert_eq!(recipe.experts([stored; 3], 5).map(bits), [Some((4, 64)); 3]);
        assert_eq!(recipe.warnings().collect::<Vec<_>>(), [(Warning::Again { centibits: 650, bits: 4 }, 15)]);
        let mut same = Recipe::new(RecipeOptions { bits: Some(Bits::Affine(6)), ..four });
        assert_eq!(same.experts([stored; 3], 5), [stored; 3]);
        assert_eq!(Recipe::new(RecipeOptions::default()).experts([stored; 3], 5), [stored; 3]);
    }
}
