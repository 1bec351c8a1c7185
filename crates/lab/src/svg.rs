//! Charts as SVG inside of a page, whose style gives the colours: series `n` has the class `sn`, see [`STYLE`].

use std::fmt::Write as _;

/// Text that is no markup, whatever it holds: for elements and for attributes in double quotes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML has no other control characters.
            char if char.is_control() && char != '\n' && char != '\t' => out.push(' '),
            char => out.push(char),
        }
    }
    out
}

/// Colours that can be told apart, in light and in dark, and how the parts of a chart look.
pub(crate) const STYLE: &str = "
:root { color-scheme: light dark; --back: #fff; --text: #1c1e21; --dim: #667; --line: #d8dbe0; --c0: #3268b0; --c1: #c2551d; --c2: #2d8a57; --c3: #8d4ab8;
  --c4: #b8860b; --c5: #c0397a; --c6: #12858f; --c7: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --text: #e6e8eb; --dim: #9aa3ad; --line: #363b43; --c0: #7aaef0; --c1: #f0935f;
  --c2: #6fcf97; --c3: #c79af0; --c4: #e0b84a; --c5: #f07fb2; --c6: #5fd0da; --c7: #b0b0b0; } }
svg { width: 100%; height: auto; display: block; font: 14px system-ui, sans-serif; }
svg text { fill: var(--text); } svg .tick { fill: var(--dim); font-size: 13px; } svg .grid { stroke: var(--line); }
svg path, svg .whisker { fill: none; stroke-width: 2; } svg .whisker { stroke-width: 1.2; opacity: .6; }
.s0 { --c: var(--c0); } .s1 { --c: var(--c1); } .s2 { --c: var(--c2); } .s3 { --c: var(--c3); } .s4 { --c: var(--c4); } .s5 { --c: var(--c5); }
.s6 { --c: var(--c6); } .s7 { --c: var(--c7); } svg g path, svg g .whisker { stroke: var(--c); } svg g circle { fill: var(--c); }
.key { color: var(--c); }
";

/// Series that have a colour of their own.
pub(crate) const N_COLOURS: usize = 8;

/// Points on two axes, the horizontal one logarithmic.
pub(crate) struct Chart {
    /// What it shows, the vertical axis too.
    pub(crate) title: String,
    pub(crate) x_name: String,
    /// The vertical axis is logarithmic.
    pub(crate) log_y: bool,
    pub(crate) series: Vec<Series>,
}

/// Points of one colour, joined by a line in their order.
pub(crate) struct Series {
    /// Its number, for the colour.
    pub(crate) number: usize,
    pub(crate) points: Vec<Point>,
}

/// A point.
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// The bounds of `y`, if they are known.
    pub(crate) bounds: Option<(f64, f64)>,
    /// A few characters beside it.
    pub(crate) label: String,
    /// What it is, in words.
    pub(crate) about: String,
}

/// The size of a chart, and of the room around its axes: left, top, right, bottom.
const SIZE: (f64, f64) = (480.0, 340.0);
const ROOM: (f64, f64, f64, f64) = (62.0, 18.0, 22.0, 52.0);

/// The largest number that a chart shows, and what a logarithmic axis shows.
const MOST: f64 = 1e15;
const ON_LOG: std::ops::RangeInclusive<f64> = 1e-15..=1e15;

impl Chart {
    /// The chart, as wide as what holds it. Numbers that are none, or beyond [`MOST`], are left out.
    pub(crate) fn svg(&self) -> String {
        let points =
            || self.series.iter().flat_map(|series| &series.points).filter(|point| self.is_drawn(point));
        let x = Axis::new(points().map(|point| point.x), true, (ROOM.0, SIZE.0 - ROOM.2));
        let heights = points().flat_map(|point| {
            let (low, high) = point.bounds.unwrap_or((point.y, point.y));
            [low, point.y, high].into_iter().filter(|&y| self.has_place(y))
        });
        let y = Axis::new(heights, self.log_y, (SIZE.1 - ROOM.3, ROOM.1));
        let mut text = format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n",
            SIZE.0,
            SIZE.1,
            escape(&self.title)
        );
        self.axes(&mut text, &x, &y);
        for series in &self.series {
            let drawn: Vec<&Point> = series.points.iter().filter(|point| self.is_drawn(point)).collect();
            let _ = writeln!(text, "<g class=\"s{}\">", series.number % N_COLOURS);
            let places: Vec<String> = drawn
                .iter()
                .map(|point| format!("{:.1} {:.1}", x.place(point.x), y.place(point.y)))
                .collect();
            if places.len() > 1 {
                let _ = writeln!(text, "<path d=\"M{}\"/>", places.join(" L"));
            }
            for point in drawn {
                let (at_x, at_y) = (x.place(point.x), y.place(point.y));
                if let Some((low, high)) =
                    point.bounds.filter(|(low, high)| self.has_place(*low) && self.has_place(*high))
                {
                    let (low, high) = (y.place(low), y.place(high));
                    let _ = writeln!(
                        text,
                        "<line class=\"whisker\" x1=\"{at_x:.1}\" x2=\"{at_x:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\"/>"
                    );
                }
                let _ = writeln!(
                    text,
                    "<circle cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"4.5\"><title>{}</title></circle><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    escape(&point.about),
                    at_x + 6.0,
                    at_y - 5.0,
                    escape(&point.label)
                );
            }
            text.push_str("</g>\n");
        }
        text + "</svg>\n"
    }

    /// Whether a height has a place on the axis.
    fn has_place(&self, y: f64) -> bool {
        if self.log_y { ON_LOG.contains(&y) } else { y.abs() <= MOST }
    }

    fn is_drawn(&self, point: &Point) -> bool {
        ON_LOG.contains(&point.x) && self.has_place(point.y)
    }

    fn axes(&self, text: &mut String, x: &Axis, y: &Axis) {
        for (value, label) in y.ticks() {
            let at = y.place(value);
            let _ = writeln!(
                text,
                "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                ROOM.0,
                SIZE.0 - ROOM.2,
                ROOM.0 - 7.0,
                at + 4.5
            );
        }
        let bottom = SIZE.1 - ROOM.3;
        for (value, label) in x.ticks() {
            let at = x.place(value);
            let _ = writeln!(
                text,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{}\" y2=\"{bottom}\"/><text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                ROOM.1,
                bottom + 18.0
            );
        }
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            0.5 * (ROOM.0 + SIZE.0 - ROOM.2),
            SIZE.1 - 10.0,
            escape(&self.x_name)
        );
    }
}

/// From values to places.
struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    places: (f64, f64),
}

impl Axis {
    /// An axis that holds all values, with some room.
    fn new(values: impl Iterator<Item = f64>, is_log: bool, places: (f64, f64)) -> Axis {
        let of = |value: f64| if is_log { value.log10() } else { value };
        let (mut low, mut high) =
            values.map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let room = match high - low {
            width if width > 0.0 => 0.06 * width,
            _ => 0.05 * high.abs().max(1.0),
        };
        Axis { low: low - room, high: high + room, is_log, places }
    }

    fn place(&self, value: f64) -> f64 {
        let value = if self.is_log { value.log10() } else { value };
        let (from, to) = self.places;
        from + (value - self.low) / (self.high - self.low) * (to - from)
    }

    /// Round values on the axis, and how they are written.
    fn ticks(&self) -> Vec<(f64, String)> {
        if self.is_log { self.log_ticks() } else { self.even_ticks() }
    }

    /// Multiples of 1, 2 or 5 times a power of ten: some five.
    fn even_ticks(&self) -> Vec<(f64, String)> {
        let rough = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].iter().map(|step| step * power).find(|&step| step >= rough);
        let step = step.unwrap_or(10.0 * power);
        let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        let value = |i: i64| i as f64 * step;
        (first..=last.min(first + 20)).map(|i| (value(i), format!("{:.digits$}", value(i)))).collect()
    }

    /// Powers of ten, every second or third one of many; where there are few, twice and five times each as well.
    fn log_ticks(&self) -> Vec<(f64, String)> {
        let step = ((self.high - self.low) / 6.0).ceil().max(1.0) as i64;
        let factors: &[u32] = if self.high - self.low < 2.0 { &[1, 2, 5] } else { &[1] };
        let powers = (self.low.floor() as i64..=self.high.ceil() as i64).filter(|power| power % step == 0);
        powers
            .flat_map(|power| factors.iter().map(move |&factor| (factor, power)))
            .map(|(factor, power)| {
                let value = f64::from(factor) * 10_f64.powi(power as i32);
                let digits = (-power).max(0) as usize;
                let is_short = (-3..=4).contains(&power);
                (value, if is_short { format!("{value:.digits$}") } else { format!("{factor}e{power}") })
            })
            .filter(|(value, _)| (self.low..=self.high).contains(&value.log10()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup() {
        assert_eq!(escape("<a href=\"x\">'&\u{1}"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp; ");
    }

    #[test]
    fn ticks_are_round() {
        let ticks = |low: f64, high: f64, is_log| {
            let axis = Axis { low, high, is_log, places: (0.0, 1.0) };
            axis.ticks().into_iter().map(|(_, label)| label).collect::<Vec<_>>()
        };
        assert_eq!(ticks(0.3, 9.6, false), ["2", "4", "6", "8"]);
        assert_eq!(ticks(97.1, 100.2, false), ["98", "99", "100"]);
        assert_eq!(ticks(0.011, 0.032, false), ["0.015", "0.020", "0.025", "0.030"]);
        assert_eq!(ticks(-4.5, 0.2, true), ["1e-4", "0.001", "0.01", "0.1", "1"]);
        assert_eq!(ticks(-2.6, -1.1, true), ["0.005", "0.01", "0.02", "0.05"]);
        assert_eq!(ticks(-9.5, 3.0, true), ["1e-9", "1e-6", "0.001", "1", "1000"]);
    }

    #[test]
    fn every_number_can_be_drawn() {
        let values = [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300, 1e-300, 3.0];
        for log_y in [false, true] {
            for n in 0..=values.len() {
                let point = |&value: &f64| Point {
                    x: value,
                    y: value,
                    bounds: Some((value, value)),
                    label: "<6>".into(),
                    about: "<b>".into(),
                };
                let series = vec![Series { number: 9, points: values[..n].iter().map(point).collect() }];
                let name = || "<x>".to_owned();
                let text = Chart { title: name(), x_name: name(), log_y, series }.svg();
                assert!(!text.contains("NaN") && !text.contains("inf") && !text.contains("<x>"), "{text}");
            }
        }
    }
}
