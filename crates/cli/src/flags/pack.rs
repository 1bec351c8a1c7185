//! The flags of `pack` and `verify`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use flashmill_pack::{Bits, PackOptions, RecipeOptions};

use super::low::{LowModel, at_least_one};

/// As they are typed.
#[derive(Debug, Args)]
pub(crate) struct LowPack {
    /// The model to pack: a directory, a GGUF file, or `demo`
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// The directory to make; give the same command again to go on after an interruption
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Bits of the routed experts; the rest gets as many but 8 at least, routers stay as they are. 16 keeps floats. Without
    /// bits every byte is kept
    #[arg(long, value_name = "BITS", value_parser = bits())]
    bits: Option<Bits>,
    /// Values that share a scale
    #[arg(long, value_name = "VALUES", default_value = "64", value_parser = group())]
    group: u16,
    /// Bits of the routed experts; `down` gets one more at 2 and 3
    #[arg(long, value_name = "BITS", value_parser = bits())]
    experts_bits: Option<Bits>,
    /// Bits of everything else but the routers
    #[arg(long, value_name = "BITS", value_parser = bits())]
    trunk_bits: Option<Bits>,
    /// An importance file of llama-imatrix (GGUF or .dat): scales are fitted to what its text used
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Threads; two more than there are cores if not given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
    /// Print what the time went into
    #[arg(long)]
    timing: bool,
}

/// As they are typed.
#[derive(Debug, Args)]
pub(crate) struct LowVerify {
    #[command(flatten)]
    pub(crate) model: LowModel,
}

/// Pack a model.
pub(crate) struct PackCommand {
    pub(crate) options: PackOptions,
    pub(crate) timing: bool,
}

impl From<LowPack> for PackCommand {
    fn from(low: LowPack) -> PackCommand {
        let recipe = RecipeOptions {
            bits: low.bits,
            experts: low.experts_bits,
            trunk: low.trunk_bits,
            group: low.group,
        };
        let options = PackOptions {
            source: low.source,
            out: low.out,
            recipe,
            importance: low.imatrix,
            threads: low.threads,
        };
        PackCommand { options, timing: low.timing }
    }
}

fn bits() -> impl clap::builder::TypedValueParser<Value = Bits> {
    PossibleValuesParser::new(["2", "3", "4", "5", "6", "8", "16"]).map(|text| match text.as_str() {
        "16" => Bits::Float,
        bits => Bits::Affine(bits.parse().expect("one of the possible values")),
    })
}

fn group() -> impl clap::builder::TypedValueParser<Value = u16> {
    PossibleValuesParser::new(["32", "64", "128"])
        .map(|text| text.parse().expect("one of the possible values"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        pack: LowPack,
    }

    fn parse(line: &str) -> Result<PackCommand, clap::Error> {
        Line::try_parse_from(line.split_whitespace()).map(|line| line.pack.into())
    }

    #[test]
    fn bits_and_groups() {
        let recipe = |line| parse(line).expect("valid").options.recipe;
        assert_eq!(recipe("pack a b"), RecipeOptions::default());
        let mixed = recipe("pack a b --bits 16 --experts-bits 3 --trunk-bits 8 --group 32");
        let affine = |bits| Some(Bits::Affine(bits));
        let expected =
            RecipeOptions { bits: Some(Bits::Float), experts: affine(3), trunk: affine(8), group: 32 };
        assert_eq!(mixed, expected);
        for line in ["pack a b --bits 7", "pack a b --bits 1", "pack a b --group 16", "pack a", "pack a b c"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
