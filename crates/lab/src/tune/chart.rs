//! The progress of tuning as a picture.

use std::fmt::Write as _;

use super::duel::Verdict;
use super::journal::Experiment;
use crate::svg::escape;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 46.0;

/// An SVG: the speed of each challenger, and the line of the incumbents that they had to pass.
pub fn chart(title: &str, experiments: &[Experiment]) -> String {
    let mean = |runs: &[f64]| (!runs.is_empty()).then(|| runs.iter().sum::<f64>() / runs.len() as f64);
    let speeds =
        experiments.iter().flat_map(|experiment| [&experiment.incumbent_runs, &experiment.challenger_runs]);
    let most = speeds.filter_map(|runs| mean(runs)).fold(f64::MIN_POSITIVE, f64::max);
    let step = nice(most / 5.0);
    let top = (most / step).ceil().max(1.0) * step;
    let x = |at: usize| LEFT + (WIDTH - LEFT - RIGHT) * (at as f64 + 0.5) / experiments.len().max(1) as f64;
    let y = |speed: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - speed / top);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    for line in 0..=(top / step).round() as usize {
        let speed = line as f64 * step;
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{speed}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y(speed) + 4.0,
            y = y(speed)
        );
    }
    let mut incumbents = String::new();
    let mut marks = String::new();
    for (at, experiment) in experiments.iter().enumerate() {
        if let Some(speed) = mean(&experiment.incumbent_runs) {
            let _ = write!(incumbents, "{:.1},{:.1} ", x(at), y(speed));
        }
        let about =
            escape(&format!("{}: {}, {}", experiment.change(), experiment.verdict.name(), experiment.why));
        let colour = if experiment.verdict == Verdict::Kept { "#2e8b57" } else { "#b0b0b0" };
        match mean(&experiment.challenger_runs) {
            Some(speed) => {
                let _ = writeln!(
                    marks,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{colour}\"><title>{about}</title></circle>",
                    x(at),
                    y(speed)
                );
            }
            None => {
                let _ = writeln!(
                    marks,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#c8643c\">x<title>{about}</title></text>",
                    x(at),
                    y(0.0) - 4.0
                );
            }
        }
    }
    let _ = writeln!(
        text,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#4878a8\" stroke-width=\"2\"/>\n{marks}\
         <text x=\"{LEFT}\" y=\"{:.1}\">tokens a second, experiment by experiment: line, the best so far in the same minutes; green, kept; grey, discarded; x, did not run</text>\n</svg>",
        incumbents.trim_end(),
        HEIGHT - 14.0
    );
    text
}

/// The next larger of 1, 2, 5, 10, 20, ..
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|&nice| nice >= value)
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::Why;

    #[test]
    fn every_experiment_is_drawn() {
        let settings = |text: &str| vec![text.parse().unwrap()];
        let experiment = |runs: &[f64], verdict| Experiment {
            when: String::new(),
            incumbent: settings("depth=32"),
            challenger: settings("depth=8"),
            incumbent_runs: vec![10.0],
            challenger_runs: runs.to_vec(),
            gain: None,
            hit_rate: None,
            bytes_per_token: None,
            loss: None,
            seconds: 0.0,
            verdict,
            why: Why::Failed("<gone>".into()),
        };
        let svg =
            chart("a & b", &[experiment(&[12.0, 14.0], Verdict::Kept), experiment(&[], Verdict::Discarded)]);
        assert_eq!((svg.matches("<circle").count(), svg.matches(">x<title>").count()), (1, 1));
        assert!(svg.contains("a &amp; b") && svg.contains("&lt;gone&gt;") && !svg.contains("NaN"), "{svg}");
        assert!(chart("none", &[]).ends_with("</svg>\n"));
        assert_eq!([0.7, 1.0, 1.1, 2.2, 51.0].map(nice), [1.0, 1.0, 2.0, 5.0, 100.0]);
    }
}
