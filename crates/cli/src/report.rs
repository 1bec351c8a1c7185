//! What a run did: one line for people, JSON for programs, a table of where the time went.

use std::fmt::Write as _;
use std::time::Duration;

use flashmill_engine::{
    Opening, Overlap, Part, Prefetch, Session, SessionStats, StoreStats, Swaps, human_bytes, machine,
};
use serde_json::{Value, json};

/// The numbers of a session so far.
pub(crate) struct Report {
    session: SessionStats,
    store: StoreStats,
    experts: (usize, usize),
    peak_rss_bytes: Option<u64>,
    budget_bytes: u64,
    backend: String,
    reader: String,
    /// The share that may be given up, and what was.
    cache_aware: (f64, Swaps),
}

impl Report {
    /// Takes them now.
    pub(crate) fn of(session: &Session<'_>) -> Report {
        let plan = session.engine().plan();
        Report {
            session: session.stats(),
            store: session.engine().model().store_stats(),
            experts: (plan.experts_per_token, plan.model_experts_per_token),
            peak_rss_bytes: machine::peak_rss_bytes(),
            budget_bytes: plan.ram_bytes,
            backend: plan.backend.clone(),
            reader: session.engine().model().store().reader_name().to_owned(),
            cache_aware: (plan.cache_aware, session.engine().model().swaps()),
        }
    }

    /// `prompt 512 tokens, 230.1 tok/s | answer 40 tokens, 12.3 tok/s | read 1.2 GiB, hit rate 81.0 % | peak memory 3.4 GiB`.
    pub(crate) fn line(&self) -> String {
        let stats = &self.session;
        let mut line = format!("prompt {} tokens", stats.prompt_tokens);
        if stats.reused_tokens > 0 {
            let _ = write!(line, " (and {} kept)", stats.reused_tokens);
        }
        let _ = write!(line, "{}", speed(stats.prompt_tokens, stats.prompt_time));
        let _ = write!(
            line,
            " | answer {} tokens{}",
            stats.decode_tokens,
            speed(stats.decode_tokens, stats.decode_time)
        );
        let _ = write!(line, " | read {}", human_bytes(self.store.bytes_read));
        if let Some(rate) = self.hit_rate() {
            let _ = write!(line, ", hit rate {:.1} %", 100.0 * rate);
        }
        if let Some(bytes) = self.peak_rss_bytes {
            let _ =
                write!(line, " | peak memory {} of {}", human_bytes(bytes), human_bytes(self.budget_bytes));
        }
        let (used, own) = self.experts;
        if used != own {
            let _ = write!(line, " | {used} experts per token instead of {own}");
        }
        let (share, swaps) = self.cache_aware;
        if share > 0.0 {
            let _ = write!(
                line,
                " | cache-aware {share}: {:.1} % of the picks replaced, {:.2} % of the router's choice given up",
                100.0 * swaps.swapped_share(),
                100.0 * swaps.mean_given_up()
            );
        }
        line
    }

    /// The same as an object; times in seconds, sizes in bytes.
    pub(crate) fn json(&self) -> Value {
        let stats = &self.session;
        json!({
            "prompt_tokens": stats.prompt_tokens,
            "reused_tokens": stats.reused_tokens,
            "prompt_seconds": stats.prompt_time.as_secs_f64(),
            "prompt_tokens_per_second": rate(stats.prompt_tokens, stats.prompt_time),
            "decode_tokens": stats.decode_tokens,
            "decode_seconds": stats.decode_time.as_secs_f64(),
            "decode_tokens_per_second": rate(stats.decode_tokens, stats.decode_time),
            "bytes_read": self.store.bytes_read,
            "bytes_from_device": self.store.bytes_from_device,
            "hits": self.store.hits,
            "misses": self.store.misses,
            "hit_rate": self.hit_rate(),
            "read_wait_seconds": Duration::from_nanos(self.store.wait_ns).as_secs_f64(),
            "read_busy_seconds": Duration::from_nanos(self.store.busy_ns).as_secs_f64(),
            "experts_read_ahead": self.store.ahead,
            "experts_read_ahead_and_picked": self.store.ahead_used,
            "read_latency_us_p50": self.store.latency.percentile_us(500),
            "read_latency_us_p99": self.store.latency.percentile_us(990),
            "peak_rss_bytes": self.peak_rss_bytes,
            "ram_bytes": self.budget_bytes,
            "experts_per_token": self.experts.0,
            "model_experts_per_token": self.experts.1,
            "cache_aware": self.cache_aware.0,
            "picks_replaced_share": self.cache_aware.1.swapped_share(),
            "router_share_given_up": self.cache_aware.1.mean_given_up(),
            "router_share_given_up_most": self.cache_aware.1.most,
            "backend": self.backend,
            "reader": self.reader,
        })
    }

    /// Share of the picks that were in memory; `None` if nothing was picked.
    fn hit_rate(&self) -> Option<f64> {
        let picks = self.store.hits + self.store.misses;
        (picks > 0).then(|| self.store.hits as f64 / picks as f64)
    }
}

/// How busy the disk was in `whole`, the time of all forward passes, and what was read ahead.
fn disk_line(store: &StoreStats, whole: Duration) -> String {
    let busy = Duration::from_nanos(store.busy_ns).as_secs_f64();
    let idle = (1.0 - busy / whole.as_secs_f64().max(1e-9)).clamp(0.0, 1.0);
    let mut line = format!(
        "disk: {} at {:.2} GB/s while something was in flight; nothing was {:.1} % of the time\n",
        human_bytes(store.bytes_from_device),
        store.bytes_from_device as f64 / 1e9 / busy.max(1e-9),
        100.0 * idle,
    );
    if store.ahead > 0 {
        let _ = writeln!(
            line,
            "read ahead: {} experts, {} of them picked, {} in vain",
            store.ahead,
            store.ahead_used,
            store.ahead - store.ahead_used
        );
    }
    line
}

/// Decode beside what it could have taken.
fn overlap_lines(overlap: Overlap) -> String {
    if overlap.n_passes == 0 {
        return String::new();
    }
    let ms = |time: Duration| 1e3 * time.as_secs_f64() / overlap.n_passes as f64;
    format!(
        "decode: {:.2} ms a token; time up to routers + max(read, experts) {:.2}, ratio {:.3}; max(all reads {:.2}, all computing {:.2}) {:.2}\n",
        ms(overlap.measured),
        ms(overlap.bound),
        overlap.measured.as_secs_f64() / overlap.bound.as_secs_f64().max(1e-9),
        ms(overlap.reads),
        ms(overlap.compute),
        ms(overlap.ideal()),
    )
}

/// What opening the model took, in one line.
pub(crate) fn opening_line(opening: &Opening) -> String {
    let Opening { headers, text, trunk, trunk_bytes, plan, buffers, whole, .. } = opening;
    let gb_per_s = *trunk_bytes as f64 / 1e9 / trunk.as_secs_f64().max(1e-9);
    format!(
        "opened in {:.3} s: headers {:.3}, tokenizer {:.3}, trunk {:.3} ({} at {gb_per_s:.2} GB/s), plan {:.3}, buffers {:.3}",
        whole.as_secs_f64(),
        headers.as_secs_f64(),
        text.as_secs_f64(),
        trunk.as_secs_f64(),
        human_bytes(*trunk_bytes),
        plan.as_secs_f64(),
        buffers.as_secs_f64(),
    )
}

/// What the plan predicted beside what was measured; `None` where the machine was not measured (`flashmill plan` does) or nothing was
/// decoded.
fn prediction_line(session: &Session<'_>) -> Option<String> {
    let predicted = session.engine().plan().predicted?;
    let report = Report::of(session);
    let measured = rate(report.session.decode_tokens, report.session.decode_time)?;
    Some(format!(
        "predicted {:.1} tok/s with {:.0} % of hits, measured {measured:.1} tok/s with {:.0} %",
        predicted.decode_tok_per_s,
        100.0 * predicted.hit_rate,
        100.0 * report.hit_rate().unwrap_or(1.0)
    ))
}

/// Where the time of all forward passes went, in milliseconds: a row a layer, then the whole.
pub(crate) fn timing_table(session: &Session<'_>) -> String {
    let timing = session.engine().model().timing();
    let mut table = format!("{:<8}", "ms");
    for part in Part::ALL {
        let _ = write!(table, "{:>11}", part.name());
    }
    table.push_str("        all\n");
    for layer in 0..timing.n_layers() {
        row(&mut table, &format!("layer {layer}"), Part::ALL.map(|part| timing.layer(layer, part)));
    }
    row(&mut table, "whole", Part::ALL.map(|part| timing.total(part)));
    let store = session.engine().model().store_stats();
    let whole = Part::ALL.iter().map(|&part| timing.total(part)).sum();
    table += &disk_line(&store, whole);
    if session.engine().model().options().prefetch == Prefetch::Off {
        // With reads ahead some of a layer's reading is over before its router: the bound would count it twice.
        table += &overlap_lines(timing.overlap());
    }
    table += &opening_line(session.engine().opening());
    if let Some(line) = prediction_line(session) {
        let _ = write!(table, "\n{line}");
    }
    table
}

fn row(table: &mut String, name: &str, times: [Duration; Part::ALL.len()]) {
    let _ = write!(table, "{name:<8}");
    for time in times.iter().copied().chain([times.iter().sum()]) {
        let _ = write!(table, "{:>11.2}", 1e3 * time.as_secs_f64());
    }
    table.push('\n');
}

fn speed(tokens: u64, time: Duration) -> String {
    rate(tokens, time).map_or_else(String::new, |rate| format!(", {rate:.1} tok/s"))
}

fn rate(tokens: u64, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}
