//! A report as Markdown, which a terminal shows as well.

use std::fmt::Write as _;

use flashmill_engine::human_bytes;

use super::{ArmReport, Comparison, Finding, Report};

impl Report {
    /// A table of all arms, and what it says.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", self.model);
        for (suite, about) in &self.about {
            let _ = writeln!(text, "- {suite}: {about}");
        }
        let mut columns: Vec<Column<'_>> = vec![
            ("arm", Box::new(|arm| arm.name.clone())),
            (
                "bits of experts / trunk",
                Box::new(|arm| format!("{:.2} / {:.2}", arm.facts.expert_bits, arm.facts.trunk_bits)),
            ),
            ("bytes a token", Box::new(|arm| human_bytes(arm.bytes_per_token))),
        ];
        for suite in self.about.keys() {
            columns.extend(columns_of(suite, self));
        }
        let heads: Vec<&str> = columns.iter().map(|(head, _)| *head).collect();
        let _ = writeln!(text, "\n| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
        for arm in &self.arms {
            let cells: Vec<String> = columns.iter().map(|(_, cell)| cell(arm).replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text
    }
}

/// The head of a column, and a cell of it.
type Column<'a> = (&'a str, Box<dyn Fn(&ArmReport) -> String + 'a>);

/// The columns of a suite.
fn columns_of<'a>(suite: &'a str, report: &'a Report) -> Vec<Column<'a>> {
    let kind = report.arms.iter().find_map(|arm| arm.suites.get(suite));
    let cell = |of: fn(&Finding) -> String| -> Box<dyn Fn(&ArmReport) -> String + 'a> {
        Box::new(move |arm| arm.suites.get(suite).map_or_else(|| "-".to_owned(), of))
    };
    match kind {
        None => Vec::new(),
        Some(Finding::Perplexity { .. }) => vec![
            (
                suite,
                cell(|finding| match finding {
                    Finding::Perplexity { perplexity, .. } => format!("{perplexity:.4}"),
                    Finding::Divergence(_) => String::new(),
                }),
            ),
            (
                "beside the first",
                Box::new(move |arm| arm.against_first.get(suite).map_or_else(|| "-".to_owned(), beside)),
            ),
        ],
        Some(Finding::Divergence(_)) => {
            let number = |of: fn(&super::Divergence) -> String| -> Box<dyn Fn(&ArmReport) -> String + 'a> {
                Box::new(move |arm| match arm.suites.get(suite) {
                    Some(Finding::Divergence(found)) => of(found),
                    _ => "-".to_owned(),
                })
            };
            vec![
                ("KLD, mean", number(|found| format!("{:.5}", found.mean))),
                ("median", number(|found| format!("{:.5}", found.median))),
                ("99 %", number(|found| format!("{:.4}", found.p99))),
                ("99.9 %", number(|found| format!("{:.4}", found.p999))),
                ("same top", number(|found| format!("{:.2} %", 100.0 * found.same_top))),
            ]
        }
    }
}

/// How an arm stands beside the first, in a few words.
fn beside(comparison: &Comparison) -> String {
    let percent = |ratio: f64| 100.0 * (ratio - 1.0);
    match *comparison {
        Comparison::Perplexity { ratio, low, high } => {
            format!("{:+.2} % ({:+.2} to {:+.2})", percent(ratio), percent(low), percent(high))
        }
    }
}
