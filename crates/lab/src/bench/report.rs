//! What a bench found: JSON for programs, a table for people, a chart.

use std::fmt::Write as _;
use std::path::Path;

use flashmill_engine::cost::Prediction;
use flashmill_engine::{Plan, human_bytes, machine};
use serde::Serialize;

use super::BenchOptions;
use crate::routing::Drawn;
use crate::svg::escape;

/// Everything a bench found. The first five fields are of the first warm row.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Tokens decoded a second.
    pub decode_tok_per_s: f64,
    /// Prompt tokens read a second.
    pub prefill_tok_per_s: f64,
    /// Bytes from the device for each decoded token.
    pub bytes_per_token: f64,
    /// Picks that were in a slot, 0 to 1.
    pub hit_rate: f64,
    /// The most memory that the process held, where the system says.
    pub peak_rss_bytes: Option<u64>,
    /// Experts of a token that ran.
    pub experts_per_token: usize,
    /// Experts of a token that the model would use by itself.
    pub model_experts_per_token: usize,
    /// What was measured.
    pub model: String,
    /// The machine.
    pub machine: Machine,
    /// What the machine gives, if that was measured.
    pub peaks: Option<Peaks>,
    /// How the model was opened.
    pub settings: Settings,
    /// Each context, the cold run first.
    pub rows: Vec<Row>,
}

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub system: String,
    /// Processors that may be used.
    pub cores: usize,
    /// Memory of the machine.
    pub ram_bytes: Option<u64>,
}

/// What the machine gives, measured in the same run.
#[derive(Clone, Debug, Serialize)]
pub struct Peaks {
    /// A plain read of memory by as many threads as compute.
    pub memory_gb_per_s: f64,
    /// Random reads of 4 MiB of the model's files, 16 in flight; none where the files are too small to tell.
    pub disk_gb_per_s: Option<f64>,
}

/// How the model was opened.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// The ceiling of memory.
    pub ram_bytes: u64,
    /// Memory for experts.
    pub slot_bytes: u64,
    /// Share of the experts that it holds, 0 to 1.
    pub resident_share: f64,
    /// Prompt tokens of one pass.
    pub chunk: usize,
    /// What computes.
    pub backend: String,
    /// How experts are read.
    pub reader: String,
    /// The share of the router's probability that a token's layer may give up for experts in the cache; 0 if results do not depend on it.
    pub cache_aware: f64,
    /// Skew and reuse of drawn picks, if they were drawn.
    pub routing: Option<(f64, f64)>,
    /// Time for opening the model.
    pub load_seconds: f64,
}

/// One context.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Tokens before the prompt.
    pub context: usize,
    /// With an empty cache of experts.
    pub cold: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens read a second.
    pub prefill_tok_per_s: f64,
    /// Tokens that were decoded.
    pub decode_tokens: usize,
    /// Tokens decoded a second.
    pub decode_tok_per_s: f64,
    /// Bytes from the device for each decoded token.
    pub bytes_per_token: f64,
    /// Picks that were in a slot, 0 to 1.
    pub hit_rate: f64,
    /// The median read, in microseconds.
    pub read_us_p50: u64,
    /// The slowest read but for one in a hundred, in microseconds.
    pub read_us_p99: u64,
    /// Time for which decoding waited for reads.
    pub wait_ms_per_token: f64,
    /// Bytes from the device while at least one read of a decoded token was in flight.
    pub disk_gb_per_s: f64,
    /// Share of the time of decoding with nothing in flight, 0 to 1.
    pub disk_idle_share: f64,
    /// Bytes of weights and state that a decoded token touches.
    pub active_bytes_per_token: u64,
    /// Share of the picks that cache-aware routing replaced.
    pub picks_replaced_share: f64,
    /// Mean share of the router's probability that it gave up in a token's layer.
    pub router_share_given_up: f64,
    /// Where the time of a decoded token went.
    pub parts: Vec<PartTime>,
    /// Where the time of a prompt token went.
    pub prompt_parts: Vec<PartTime>,
    /// What the plan's formula says of this row, with the machine as measured in the same run; none where that was not possible.
    pub predicted: Option<Prediction>,
}

/// Time of one part of the forward pass.
#[derive(Clone, Debug, Serialize)]
pub struct PartTime {
    /// Its name.
    pub part: String,
    /// Of one token.
    pub ms_per_token: f64,
}

impl std::fmt::Display for Peaks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "memory {:.1} GB/s, disk ", self.memory_gb_per_s)?;
        match self.disk_gb_per_s {
            Some(gb) => write!(f, "{gb:.2} GB/s"),
            None => f.write_str("not measured"),
        }
    }
}

impl BenchReport {
    #[expect(clippy::too_many_arguments, reason = "what the report is made of")]
    pub(super) fn new(
        path: &Path,
        options: &BenchOptions,
        reader: String,
        plan: &Plan,
        peaks: Option<Peaks>,
        load_seconds: f64,
        rows: Vec<Row>,
        peak_rss_bytes: Option<u64>,
    ) -> BenchReport {
        let first = rows.iter().find(|row| !row.cold).unwrap_or(&rows[0]).clone();
        BenchReport {
            decode_tok_per_s: first.decode_tok_per_s,
            prefill_tok_per_s: first.prefill_tok_per_s,
            bytes_per_token: first.bytes_per_token,
            hit_rate: first.hit_rate,
            peak_rss_bytes,
            experts_per_token: plan.experts_per_token,
            model_experts_per_token: plan.model_experts_per_token,
            model: path.display().to_string(),
            machine: Machine {
                system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
                cores: machine::allowed_cores(),
                ram_bytes: machine::total_ram_bytes(),
            },
            peaks,
            settings: Settings {
                ram_bytes: plan.ram_bytes,
                slot_bytes: plan.slot_bytes,
                resident_share: plan.resident_share,
                chunk: plan.chunk,
                backend: plan.backend.clone(),
                reader,
                cache_aware: plan.cache_aware,
                routing: options.routing.map(|Drawn { skew, reuse, .. }| (skew, reuse)),
                load_seconds,
            },
            rows,
        }
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |what: &str, value: String| {
            let _ = writeln!(text, "{what:<10}{value}");
        };
        let Settings {
            ram_bytes,
            slot_bytes,
            resident_share,
            chunk,
            backend,
            reader,
            routing,
            load_seconds,
            ..
        } = &self.settings;
        let ram =
            self.machine.ram_bytes.map_or_else(String::new, |bytes| format!(", {}", human_bytes(bytes)));
        line("model", self.model.clone());
        line("machine", format!("{}, {} cores{ram}", self.machine.system, self.machine.cores));
        line("peaks", self.peaks.as_ref().map_or_else(|| "not measured".to_owned(), Peaks::to_string));
        line("backend", format!("{backend}, reader {reader}, prompt chunks of {chunk}"));
        line(
            "memory",
            format!(
                "budget {}, slots {} for {:.1} % of the experts, peak {}",
                human_bytes(*ram_bytes),
                human_bytes(*slot_bytes),
                100.0 * resident_share,
                self.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), human_bytes)
            ),
        );
        let own = self.model_experts_per_token;
        let note = if self.experts_per_token == own { "the model's own" } else { "NOT the model's own" };
        line("experts", format!("{} of {own} a token: {note}", self.experts_per_token));
        line(
            "routing",
            routing.map_or_else(
                || "the model's".to_owned(),
                |(skew, reuse)| format!("drawn, skew {skew}, reuse {reuse}; no predictor"),
            ),
        );
        if self.settings.cache_aware > 0.0 {
            line(
                "warning",
                format!(
                    "cache-aware routing, {} at most: NOT the model's own choice of experts",
                    self.settings.cache_aware
                ),
            );
        }
        line("load", format!("{load_seconds:.2} s"));
        text += "\n context  prompt tok/s  decode tok/s  read/token   hits  read p50/p99 ms  wait ms  in flight GB/s    idle  memory GB/s  of peak\n";
        for row in &self.rows {
            let gb = row.active_bytes_per_token as f64 * row.decode_tok_per_s / 1e9;
            let _ = writeln!(
                text,
                "{:>8}  {:>12.1}  {:>12.2}  {:>10} {:>5.1}%  {:>15}  {:>7.1}  {:>14.2}  {:>4.0} %  {gb:>11.1}  {:>7}",
                if row.cold { format!("{} cold", row.context) } else { row.context.to_string() },
                row.prefill_tok_per_s,
                row.decode_tok_per_s,
                human_bytes(row.bytes_per_token as u64),
                100.0 * row.hit_rate,
                format!("{:.1} / {:.1}", row.read_us_p50 as f64 / 1e3, row.read_us_p99 as f64 / 1e3),
                row.wait_ms_per_token,
                row.disk_gb_per_s,
                100.0 * row.disk_idle_share,
                self.peaks.as_ref().map_or_else(
                    || "-".to_owned(),
                    |peaks| format!("{:.1} %", 100.0 * gb / peaks.memory_gb_per_s)
                ),
            );
        }
        if self.peaks.is_some() {
            text += "\npredicted from the machine as measured in this run\n";
        }
        for row in &self.rows {
            let Some(predicted) = &row.predicted else { continue };
            let _ = writeln!(
                text,
                "{:>8}  {:>12.1}  {:>12.2}  {:>10} {:>5.1}%  measured / predicted: prompt {:.2}, decode {:.2}",
                row.context,
                predicted.prefill_tok_per_s,
                predicted.decode_tok_per_s,
                human_bytes(predicted.bytes_per_token as u64),
                100.0 * predicted.hit_rate,
                row.prefill_tok_per_s / predicted.prefill_tok_per_s,
                row.decode_tok_per_s / predicted.decode_tok_per_s,
            );
        }
        for row in self.rows.iter().filter(|_| self.settings.cache_aware > 0.0) {
            let _ = writeln!(
                text,
                "{:>8}  cache-aware: {:.1} % of the picks replaced, {:.2} % of the router's choice given up",
                row.context,
                100.0 * row.picks_replaced_share,
                100.0 * row.router_share_given_up
            );
        }
        for (what, parts) in [
            ("decoded", (|row| &row.parts) as fn(&Row) -> &Vec<PartTime>),
            ("prompt", |row| &row.prompt_parts),
        ] {
            let _ = writeln!(text, "\nms of a {what} token");
            for row in &self.rows {
                let _ = write!(text, "{:>8} ", row.context);
                for part in parts(row).iter().filter(|part| part.ms_per_token > 0.0) {
                    let _ = write!(text, " {} {:.2}", part.part, part.ms_per_token);
                }
                text.push('\n');
            }
        }
        text
    }

    /// A bar chart as SVG: prompt and decode speed of each row, each kind on its own scale.
    pub fn svg(&self) -> String {
        const WIDTH: usize = 760;
        const LEFT: usize = 190;
        const BAR: usize = 22;
        let kinds: [Series<'_>; 2] = [
            ("prompt", "#4878a8", |row| row.prefill_tok_per_s),
            ("decode", "#c8643c", |row| row.decode_tok_per_s),
        ];
        let height = 60 + kinds.len() * (self.rows.len() + 1) * BAR;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <text x=\"10\" y=\"22\" font-size=\"15\">{}: tokens a second, {} of {} experts</text>\n",
            escape(&self.model),
            self.experts_per_token,
            self.model_experts_per_token
        );
        let mut y = 40;
        for (name, colour, value) in kinds {
            let most = self.rows.iter().map(value).fold(f64::MIN_POSITIVE, f64::max);
            for row in &self.rows {
                let width = value(row) / most * (WIDTH - LEFT - 90) as f64;
                let label =
                    format!("{name}, context {}{}", row.context, if row.cold { ", cold" } else { "" });
                let _ = writeln!(
                    text,
                    "<text x=\"10\" y=\"{}\">{label}</text><rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                     <text x=\"{:.1}\" y=\"{}\">{:.2}</text>",
                    y + 14,
                    BAR - 5,
                    LEFT as f64 + width + 6.0,
                    y + 14,
                    value(row)
                );
                y += BAR;
            }
            y += BAR;
        }
        text + "</svg>\n"
    }
}

/// Name, colour and value of a kind of bar.
type Series<'a> = (&'a str, &'a str, fn(&Row) -> f64);
