//! The flags of `pack` and `verify`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use flashmill_pack::{Bits, PackOptions, RecipeOptions, Rule};

use super::low::{LowModel, at_least_one};
use super::size::parse_size;

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
    /// How scales are found: `range` spans the values of each group, as MLX does; `fit` searches for the least error, weighted by
    /// importance if there is any, and never cuts off the largest weights. If not given: fit at 2 and 3 bits, of the trunk at 4 too,
    /// and everywhere with importance
    #[arg(long, value_name = "RECIPE", value_parser = rule())]
    recipe: Option<Rule>,
    /// An importance file of llama-imatrix (GGUF or .dat): scales are fitted to what its text used
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Run the model on this text file first and fit the scales to what it used; the numbers are kept in an importance file beside
    /// OUT. If not given, a built-in text of some 2000 tokens is used where experts or trunk get 2 or 3 bits and there is neither
    /// --imatrix nor --recipe
    #[arg(long, value_name = "TEXT", conflicts_with = "imatrix")]
    calibrate: Option<PathBuf>,
    /// Pack 2 and 3 bits without running the model on the built-in text: sooner, and worse
    #[arg(long, conflicts_with = "calibrate")]
    no_calibrate: bool,
    /// Most memory of the run that calibrates, for example 8G; 80 % of what the machine and its control groups allow if not given
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    ram: Option<u64>,
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

/// The flags of `pull --pack`.
#[derive(Debug, Args)]
pub(crate) struct LowPullPack {
    /// Pack each file as it arrives and remove it again, so that the disk needs room for the packed model and three of its files: 2,
    /// 3, 4, 5, 6, 8 or 16 bits as `pack --bits`, or `keep` for every byte as it is. The model is never there as a whole, so that 2 and
    /// 3 bits are not calibrated as `pack` does by itself: give --imatrix, or pull it and pack it then
    #[arg(long = "pack", value_name = "BITS", value_parser = bits_or_keep())]
    bits: Option<PullBits>,
    /// The directory to make; NAME-4bit here if not given. Files on their way lie beside it, in DIR.pull
    #[arg(long, value_name = "DIR", requires = "bits")]
    out: Option<PathBuf>,
    /// Values that share a scale
    #[arg(long, value_name = "VALUES", default_value = "64", value_parser = group(), requires = "bits")]
    group: u16,
    /// Bits of the routed experts; `down` gets one more at 2 and 3
    #[arg(long, value_name = "BITS", value_parser = bits(), requires = "bits")]
    experts_bits: Option<Bits>,
    /// Bits of everything else but the routers
    #[arg(long, value_name = "BITS", value_parser = bits(), requires = "bits")]
    trunk_bits: Option<Bits>,
    /// How scales are found: `range` spans the values of each group, as MLX does; `fit` searches for the least error, weighted by
    /// importance if there is any, and never cuts off the largest weights. If not given: fit at 2 and 3 bits, of the trunk at 4 too,
    /// and everywhere with importance
    #[arg(long, value_name = "RECIPE", value_parser = rule(), requires = "bits")]
    recipe: Option<Rule>,
    /// An importance file of llama-imatrix (GGUF or .dat)
    #[arg(long, value_name = "FILE", requires = "bits")]
    imatrix: Option<PathBuf>,
    /// Threads that pack; two more than there are cores if not given
    #[arg(long, value_name = "N", value_parser = at_least_one, requires = "bits")]
    threads: Option<usize>,
}

/// Bits, or none to keep every byte.
#[derive(Clone, Copy, Debug)]
struct PullBits(Option<Bits>);

impl LowPullPack {
    /// How to pack the model `name`, if that was asked for; the source is where its files come.
    pub(crate) fn options(self, name: &str) -> Option<PackOptions> {
        let PullBits(bits) = self.bits?;
        let ending = match bits {
            None => "packed".to_owned(),
            Some(Bits::Float) => "16bit".to_owned(),
            Some(Bits::Affine(bits)) => format!("{bits}bit"),
        };
        let recipe = RecipeOptions {
            bits,
            experts: self.experts_bits,
            trunk: self.trunk_bits,
            group: self.group,
            rule: self.recipe,
        };
        Some(PackOptions {
            source: PathBuf::new(),
            out: self.out.unwrap_or_else(|| PathBuf::from(format!("{name}-{ending}"))),
            recipe,
            importance: self.imatrix,
            importance_name: None,
            threads: self.threads,
        })
    }
}

/// Pack a model.
pub(crate) struct PackCommand {
    pub(crate) options: PackOptions,
    pub(crate) calibrate: Calibrate,
    /// The most memory that calibrating may take.
    pub(crate) ram_bytes: Option<u64>,
    pub(crate) timing: bool,
}

/// What the model is run on first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Calibrate {
    /// On this text.
    On(PathBuf),
    /// On the built-in one, where weights get 2 or 3 bits.
    FewBits,
    Never,
}

impl From<LowPack> for PackCommand {
    fn from(low: LowPack) -> PackCommand {
        let recipe = RecipeOptions {
            bits: low.bits,
            experts: low.experts_bits,
            trunk: low.trunk_bits,
            group: low.group,
            rule: low.recipe,
        };
        let has_way = low.imatrix.is_some() || low.recipe.is_some() || low.no_calibrate;
        let calibrate = match low.calibrate {
            Some(text) => Calibrate::On(text),
            None if has_way => Calibrate::Never,
            None => Calibrate::FewBits,
        };
        let options = PackOptions {
            source: low.source,
            out: low.out,
            recipe,
            importance: low.imatrix,
            importance_name: None,
            threads: low.threads,
        };
        PackCommand { options, calibrate, ram_bytes: low.ram, timing: low.timing }
    }
}

fn bits() -> impl clap::builder::TypedValueParser<Value = Bits> {
    PossibleValuesParser::new(["2", "3", "4", "5", "6", "8", "16"]).map(|text| bits_of(&text))
}

fn bits_or_keep() -> impl clap::builder::TypedValueParser<Value = PullBits> {
    PossibleValuesParser::new(["2", "3", "4", "5", "6", "8", "16", "keep"])
        .map(|text| PullBits((text != "keep").then(|| bits_of(&text))))
}

fn bits_of(text: &str) -> Bits {
    match text {
        "16" => Bits::Float,
        bits => Bits::Affine(bits.parse().expect("one of the possible values")),
    }
}

fn rule() -> impl clap::builder::TypedValueParser<Value = Rule> {
    PossibleValuesParser::new(["range", "fit"]).map(|text| match text.as_str() {
        "range" => Rule::Range,
        _ => Rule::Fit,
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
        let expected = RecipeOptions {
            bits: Some(Bits::Float),
            experts: affine(3),
            trunk: affine(8),
            group: 32,
            rule: None,
        };
        assert_eq!(mixed, expected);
        assert_eq!(recipe("pack a b --recipe range").rule, Some(Rule::Range));
        assert_eq!(recipe("pack a b --recipe fit").rule, Some(Rule::Fit));
        let calibrate = |line: &str| parse(line).expect("valid").calibrate;
        assert_eq!(calibrate("pack a b --bits 2 --ram 1G"), Calibrate::FewBits);
        assert_eq!(calibrate("pack a b --bits 8 --calibrate c"), Calibrate::On("c".into()));
        for way in ["--recipe fit", "--recipe range", "--imatrix c", "--no-calibrate"] {
            assert_eq!(calibrate(&format!("pack a b --bits 2 {way}")), Calibrate::Never);
        }
        for line in [
            "pack a b --bits 7",
            "pack a b --bits 1",
            "pack a b --group 16",
            "pack a b --recipe hqq",
            "pack a",
            "pack a b c",
            "pack a b --calibrate c --no-calibrate",
            "pack a b --calibrate c --imatrix d",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
