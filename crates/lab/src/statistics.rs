//! How sure a measurement is: intervals, and comparisons of the same cases done in two ways.
//!
//! | what was measured | how sure |
//! |---|---|
//! | yes or no, of many cases | [`wilson`] |
//! | yes or no, twice of the same cases | [`Pairs`]: McNemar's exact test, Tango's interval |
//! //! | differences of numbers, case by case | [`mean`]: Student's interval; [`center`]: Hodges and Lehmann's, by ranks, where some are far off; [`bootstrap`] for anything else |
//!
//! Cases have to be independent. The tokens of one text are not: whoever compares texts token by token takes the mean of each text, or
//! of pieces long enough, as a case.

mod distributions;
mod proportions;
#[cfg(test)]
mod tests;
mod values;

pub use distributions::{normal_quantile, student_quantile};
pub use proportions::{Pairs, wilson};
pub use values::{bootstrap, center, mean};

/// An estimate, and the bounds between which the truth lies with the confidence that was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// What was seen.
    pub estimate: f64,
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}
