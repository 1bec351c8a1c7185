//! A report as one page that takes nothing from elsewhere: charts, tables, and what they say.

use std::fmt::Write as _;

use super::markdown::Table;
use super::{ArmReport, Finding, Report};
use crate::svg::{Chart, N_COLOURS, Point, STYLE, Series, escape};

/// The look of everything but the charts.
const PAGE_STYLE: &str = "
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 1080px; margin: 0 auto; padding: 1rem; } h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.dim { color: var(--dim); font-size: .9rem; } .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .5rem; } figcaption { font-weight: 600; padding: 0 .25rem .25rem; }
.keys { padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; } th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; } .verdicts li { margin: .3rem 0; }
";

impl Report {
    /// The page. Every text in it is escaped, and its policy allows no script and no request.
    pub fn html(&self) -> String {
        let title = escape(&format!("{}: quality and what it costs", self.model));
        let mut text = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <title>{title}</title>\n<style>{STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
        );
        let _ = writeln!(
            text,
            "<p class=\"dim\">{}. Bytes are those of the weights that a decoded token uses: the trunk, and its experts as though none was in memory. \
             Intervals are of 95 %.</p>\n<ul>",
            escape(&self.program)
        );
        for (suite, about) in &self.about {
            let _ = writeln!(text, "<li><b>{}</b>: {}</li>", escape(suite), escape(about));
        }
        text.push_str("</ul>\n");
        self.write_charts(&mut text);
        let _ = write!(text, "<h2>All arms</h2>\n{}", self.summary().html());
        for (what, table) in self.details() {
            let _ = write!(text, "<h2>{}</h2>\n{}", escape(&what), table.html());
        }
        let verdicts = self.verdicts();
        if !verdicts.is_empty() {
            text.push_str("<h2>What it says</h2>\n<ul class=\"verdicts\">\n");
            for line in verdicts {
                let _ = writeln!(text, "<li>{}</li>", escape(&line));
            }
            text.push_str("</ul>\n");
        }
        text + "</main>\n</body>\n</html>\n"
    }

    fn write_charts(&self, text: &mut String) {
        let mut weights: Vec<&str> = Vec::new();
        for arm in &self.arms {
            if !weights.contains(&arm.weights.as_str()) {
                weights.push(&arm.weights);
            }
        }
        text.push_str("<section class=\"quality\">\n<h2>Quality against bytes</h2>\n<ul class=\"keys\">\n");
        for (i, name) in weights.iter().enumerate() {
            let _ = writeln!(
                text,
                "<li class=\"s{}\"><span class=\"key\">&#9679;</span> {}</li>",
                i % N_COLOURS,
                escape(name)
            );
        }
        text.push_str("</ul>\n<p class=\"dim\">The numbers at the ends of a line: experts a token.</p>\n<div class=\"charts\">\n");
        for suite in self.names() {
            let Some(kind) = self.arms.iter().find_map(|arm| arm.suites.get(suite)) else { continue };
            let name = axis_name(suite, kind);
            let series = weights.iter().enumerate().map(|(number, weights)| {
                let arms = self.arms.iter().filter(|arm| arm.weights == *weights);
                let mut points: Vec<Point> =
                    arms.filter_map(|arm| point(arm, arm.suites.get(suite)?)).collect();
                // Those between the ends would lie on each other.
                let last = points.len().saturating_sub(1);
                points.iter_mut().take(last).skip(1).for_each(|point| point.label.clear());
                Series { number, points }
            });
            let chart = Chart {
                title: format!("{name} against megabytes of weights a token"),
                x_name: "MB of weights a token".to_owned(),
                log_y: matches!(kind, Finding::Divergence(_)),
                series: series.collect(),
            };
            let _ = write!(
                text,
                "<figure>\n<figcaption>{}</figcaption>\n{}</figure>\n",
                escape(&name),
                chart.svg()
            );
        }
        text.push_str("</div>\n</section>\n");
    }
}

/// What a chart of a suite shows.
fn axis_name(suite: &str, kind: &Finding) -> String {
    match kind {
        Finding::Perplexity { .. } => format!("{suite}: perplexity"),
        Finding::Divergence(_) => format!("{suite}: mean divergence, nats"),
        Finding::Accuracy(_) => format!("{suite}: right, %"),
        Finding::Speed(_) => format!("{suite}: decoded tok/s"),
    }
}

fn point(arm: &ArmReport, finding: &Finding) -> Option<Point> {
    let (y, bounds) = match finding {
        Finding::Perplexity { perplexity, .. } => (*perplexity, None),
        Finding::Divergence(found) => (found.mean, None),
        Finding::Accuracy(found) => {
            (100.0 * found.accuracy, Some((100.0 * found.right.low, 100.0 * found.right.high)))
        }
        Finding::Speed(speed) => (speed.decode_tok_per_s, None),
    };
    let x = arm.bytes_per_token as f64 / 1e6;
    let about = format!("{}: {y:.4} at {x:.2} MB", arm.name);
    Some(Point { x, y, bounds, label: arm.facts.experts_per_token.to_string(), about })
}

impl Table {
    fn html(&self) -> String {
        let line = |tag: &str, cells: &[String]| -> String {
            let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let rows: String = self.rows.iter().map(|row| line("td", row)).collect();
        format!(
            "<div class=\"scroll\"><table>\n<thead>{}</thead>\n<tbody>{rows}</tbody>\n</table></div>\n",
            line("th", &self.heads)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::*;

    /// Names from outside are text in every form of the report.
    #[test]
    fn names_are_no_markup() {
        let evil = "<script>alert(1)</script>\"'&|";
        let found = Finding::Perplexity { n_tokens: 5, nll: 0.5, perplexity: 0.5_f64.exp() };
        let suites = BTreeMap::from([(evil.to_owned(), found)]);
        let arm = ArmReport {
            name: evil.into(),
            weights: evil.into(),
            facts: ArmFacts::default(),
            bytes_per_token: 1_000_000,
            suites: suites.clone(),
            against_first: BTreeMap::from([(
                evil.to_owned(),
                Comparison::Perplexity {
                    ratio: 1.0,
                    low: 1.0,
                    high: 1.0,
                    change_rms_nats: 0.5,
                    changed: 0.25,
                },
            )]),
            is_safe: Some(true),
        };
        let about = BTreeMap::from([(evil.to_owned(), evil.to_owned())]);
        let report = Report { model: evil.into(), program: evil.into(), about, suites, arms: vec![arm] };
        let html = report.html();
        assert!(!html.contains("<script") && !html.contains("</script") && html.contains("&lt;script&gt;"));
        assert!(html.contains("<svg") && html.contains("<circle"));
        for outside in ["http://", "https://", "url(", "src=", "href=", "@import"] {
            assert!(!html.contains(outside), "{outside}");
        }
        let markdown = report.markdown();
        assert!(!markdown.replace("\\<", "").contains('<'), "{markdown}");
        let rows: Vec<&str> = markdown.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 3, "a bar in a name makes no cell: {markdown}");
    }
}
