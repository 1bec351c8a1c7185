//! A report as Markdown, which a terminal shows as well.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{ArmReport, CHANGED_NATS, Comparison, Finding, Report};

/// A table in words: heads, then rows.
pub(super) struct Table {
    pub(super) heads: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Report {
    /// Tables of all arms, and what they say.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n\n", plain(&self.model));
        for (suite, about) in &self.about {
            let _ = writeln!(text, "- {}: {}", plain(suite), plain(about));
        }
        text.push_str(&self.summary().markdown());
        for (what, table) in self.details() {
            let _ = write!(text, "\n## {}\n{}", plain(&what), table.markdown());
        }
        let verdicts = self.verdicts();
        if !verdicts.is_empty() {
            text.push_str("\n## What it says\n\n");
            for line in verdicts {
                let _ = writeln!(text, "- {}", plain(&line));
            }
        }
        text
    }

    /// The names of what was found in any arm.
    pub(super) fn names(&self) -> BTreeSet<&String> {
        self.arms.iter().flat_map(|arm| arm.suites.keys()).collect()
    }

    /// A row an arm.
    pub(super) fn summary(&self) -> Table {
        let mut heads: Vec<String> =
            ["arm", "bits of experts / trunk", "MB a token"].map(str::to_owned).to_vec();
        let mut rows: Vec<Vec<String>> = self.arms.iter().map(about).collect();
        for suite in self.names() {
            let Some(kind) = self.arms.iter().find_map(|arm| arm.suites.get(suite)) else { continue };
            heads.extend(heads_of(suite, kind));
            for (row, arm) in rows.iter_mut().zip(&self.arms) {
                row.extend(match arm.suites.get(suite) {
                    Some(finding) => cells(finding, arm.against_first.get(suite)),
                    None => heads_of(suite, kind).into_iter().map(|_| "-".to_owned()).collect(),
                });
            }
        }
        if self.arms.iter().any(|arm| arm.is_safe.is_some()) {
            heads.push("beside the first".to_owned());
            rows.iter_mut().zip(&self.arms).for_each(|(row, arm)| row.push(verdict(arm)));
        }
        Table { heads, rows }
    }

    /// Each suite of several categories, or of several positions in a text: a row for each, a column for each arm.
    pub(super) fn details(&self) -> Vec<(String, Table)> {
        let mut tables = Vec::new();
        for suite in self.names() {
            let found = || self.arms.iter().filter_map(|arm| Some((&arm.name, arm.suites.get(suite)?)));
            let columns: Vec<(&String, Vec<[String; 3]>)> =
                found().map(|(name, finding)| (name, parts(finding))).collect();
            let Some((_, first)) = columns.first().filter(|(_, parts)| parts.len() > 1) else { continue };
            let (what, of) = match found().next() {
                Some((_, Finding::Divergence(_))) => ("mean divergence by position", "positions"),
                _ => ("right answers by category", "category"),
            };
            let arms = columns.iter().map(|(name, _)| (*name).clone());
            let heads = [of.to_owned(), "cases".to_owned()].into_iter().chain(arms).collect();
            let rows = first.iter().enumerate().map(|(i, [name, n, _])| {
                let values = columns.iter().map(|(_, parts)| parts[i][2].clone());
                [name.clone(), n.clone()].into_iter().chain(values).collect()
            });
            tables.push((format!("{suite}: {what}"), Table { heads, rows: rows.collect() }));
        }
        tables
    }

    /// Which arms lose something, which do not, and how sure that is.
    pub(super) fn verdicts(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for arm in &self.arms {
            if arm.is_safe.is_none() {
                continue;
            }
            let why: Vec<String> =
                arm.against_first.iter().map(|(suite, comparison)| said(suite, comparison)).collect();
            lines.push(format!("{}: {}. {}", arm.name, verdict(arm), why.join("; ")));
        }
        lines
    }
}

impl Table {
    fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| plain(cell)).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("\n{}|{}\n{rows}", line(&self.heads), "---|".repeat(self.heads.len()))
    }
}

/// Text that is no Markdown, whatever it holds.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for char in text.chars() {
        match char {
            '\\' | '|' | '`' | '*' | '<' | '[' | ']' | '#' => out.extend(['\\', char]),
            char if char.is_control() => out.push(' '),
            char => out.push(char),
        }
    }
    out
}

/// Whether an arm loses something, and where.
fn verdict(arm: &ArmReport) -> String {
    let lossy = arm.against_first.iter().filter(|(_, comparison)| comparison.is_loss());
    match arm.is_safe {
        None => "-".to_owned(),
        Some(true) => "no loss seen".to_owned(),
        Some(false) => {
            format!("loses: {}", lossy.map(|(suite, _)| suite.as_str()).collect::<Vec<_>>().join(", "))
        }
    }
}

fn about(arm: &ArmReport) -> Vec<String> {
    let facts = &arm.facts;
    vec![
        arm.name.clone(),
        format!("{:.2} / {:.2}", facts.expert_bits, facts.trunk_bits),
        format!("{:.2}", arm.bytes_per_token as f64 / 1e6),
    ]
}

/// The parts of a finding: name, cases, value. All arms have the same ones.
fn parts(finding: &Finding) -> Vec<[String; 3]> {
    match finding {
        Finding::Accuracy(found) => found
            .categories
            .iter()
            .map(|(name, share)| [name.clone(), share.n.to_string(), share.to_string()])
            .collect(),
        Finding::Divergence(found) => found
            .by_position
            .iter()
            .map(|bucket| {
                let positions = format!("{} to {}", bucket.from, bucket.to - 1);
                [positions, bucket.n.to_string(), nats(bucket.mean)]
            })
            .collect(),
        Finding::Perplexity { .. } | Finding::Speed(_) => Vec::new(),
    }
}

/// The heads of a suite's columns.
fn heads_of(suite: &str, kind: &Finding) -> Vec<String> {
    let heads = |list: &[&str]| list.iter().map(|head| format!("{suite}{head}")).collect();
    match kind {
        Finding::Perplexity { .. } => heads(&["", ", change", ", rms change of a token", ", tokens changed"]),
        Finding::Divergence(_) => heads(&[", mean", ", median", ", 99 %", ", 99.9 %", ", same top"]),
        Finding::Accuracy(_) => heads(&["", ", lost / won, p"]),
        Finding::Speed(_) => heads(&[", prompt tok/s", ", decode tok/s"]),
    }
}

/// The cells of a suite's columns.
fn cells(finding: &Finding, comparison: Option<&Comparison>) -> Vec<String> {
    match finding {
        Finding::Perplexity { perplexity, .. } => {
            let mut cells = vec![format!("{perplexity:.4}")];
            cells.extend(match comparison {
                Some(comparison @ Comparison::Perplexity { change_rms_nats, changed, .. }) => {
                    [beside(comparison), nats(*change_rms_nats), format!("{:.1} %", 100.0 * changed)]
                }
                _ => ["-"; 3].map(str::to_owned),
            });
            cells
        }
        Finding::Divergence(found) => vec![
            nats(found.mean),
            nats(found.median),
            nats(found.p99),
            nats(found.p999),
            format!("{:.2} %", 100.0 * found.same_top),
        ],
        Finding::Accuracy(found) => {
            vec![found.right.to_string(), comparison.map_or_else(|| "-".to_owned(), beside)]
        }
        Finding::Speed(speed) => {
            vec![format!("{:.1}", speed.prefill_tok_per_s), format!("{:.1}", speed.decode_tok_per_s)]
        }
    }
}

/// Three digits of a divergence.
fn nats(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        small if small < 1e-3 => format!("{small:.1e}"),
        value => format!("{value:.4}"),
    }
}

/// How an arm stands beside the first, in a few words.
fn beside(comparison: &Comparison) -> String {
    let percent = |ratio: f64| 100.0 * (ratio - 1.0);
    match *comparison {
        Comparison::Perplexity { ratio, low, high, .. } => {
            format!("{:+.2} % ({:+.2} to {:+.2})", percent(ratio), percent(low), percent(high))
        }
        Comparison::Accuracy { n_lost, n_won, p_value, .. } => format!("{n_lost} / {n_won}, {p_value:.2}"),
    }
}

/// The same as a sentence.
fn said(suite: &str, comparison: &Comparison) -> String {
    match *comparison {
        Comparison::Perplexity { change_rms_nats: 0.0, .. } => format!("{suite} the same to the bit"),
        Comparison::Perplexity { change_rms_nats, changed, .. } => format!(
            "{suite} {}, tokens by {} nats (rms), {:.1} % of them by more than {CHANGED_NATS}",
            beside(comparison),
            nats(change_rms_nats),
            100.0 * changed
        ),
        Comparison::Accuracy { n_lost, n_won, n, p_value, difference, low, .. } => format!(
            "{suite} {:+.1} points: {n_lost} lost, {n_won} won of {n} (p = {p_value:.2}), a loss of more than {:.1} points would have shown",
            100.0 * difference,
            -100.0 * low.min(0.0)
        ),
    }
}
