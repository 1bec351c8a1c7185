//! `/metrics`: what Prometheus reads.

use std::fmt::{Display, Write as _};

use flashmill_engine::serving::ServingStats;

/// What the server itself counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HttpStats {
    pub(crate) connections: u64,
    pub(crate) refused_connections: u64,
    /// Responses with a status of 2xx or 3xx, 4xx, and 5xx.
    pub(crate) responses: [u64; 3],
}

/// Prometheus' text format. `cache_aware` is the share of the router's probability that may be given up.
pub(crate) fn text(stats: &ServingStats, http: &HttpStats, cache_aware: f64) -> String {
    let mut out = Metrics(String::with_capacity(8 << 10));
    out.one("uptime_seconds", GAUGE, "Time since the start", stats.uptime.as_secs_f64());
    let outcomes = [("finished", stats.finished), ("cancelled", stats.cancelled), ("failed", stats.failed)];
    out.many("requests_total", COUNTER, "Requests by outcome", "outcome", &outcomes);
    out.one("requests_running", GAUGE, "Answers and prompts in work", stats.running);
    out.one("requests_queued", GAUGE, "Requests that wait", stats.queued);
    out.one(
        "answers_preempted_total",
        COUNTER,
        "Answers that made room for others for a while",
        stats.preempted,
    );
    out.one("prompt_tokens_total", COUNTER, "Prompt tokens that the model read", stats.prompt_tokens);
    out.one(
        "cached_prompt_tokens_total",
        COUNTER,
        "Prompt tokens that were known from before",
        stats.cached_tokens,
    );
    out.one("generated_tokens_total", COUNTER, "Tokens of answers", stats.generated_tokens);
    out.one("passes_total", COUNTER, "Forward passes", stats.passes);
    out.one("rows_total", COUNTER, "Rows of forward passes: tokens of prompts and answers", stats.rows);
    out.one(
        "prompt_seconds_total",
        COUNTER,
        "Time of passes with prompt tokens in them",
        stats.prompt_time.as_secs_f64(),
    );
    out.one(
        "decode_seconds_total",
        COUNTER,
        "Time of passes for answers alone",
        stats.decode_time.as_secs_f64(),
    );
    out.one(
        "cache_aware_share",
        GAUGE,
        "Share of the router's choice that may be given up for experts in the cache; 0: answers are the model's own",
        cache_aware,
    );
    prefixes(stats, &mut out);
    experts(stats, &mut out);
    out.one("http_connections", GAUGE, "Open connections", http.connections);
    out.one(
        "http_refused_connections_total",
        COUNTER,
        "Connections that found no place",
        http.refused_connections,
    );
    let [good, client, server] = http.responses;
    let classes = [("2xx", good), ("4xx", client), ("5xx", server)];
    out.many("http_responses_total", COUNTER, "Responses by class of status", "class", &classes);
    out.0
}

fn prefixes(stats: &ServingStats, out: &mut Metrics) {
    let prefixes = &stats.prefixes;
    let places = [("ram", prefixes.in_ram as u64), ("disk", prefixes.on_disk as u64)];
    out.many("prefix_snapshots", GAUGE, "Saved prompts", "place", &places);
    out.one("prefix_disk_bytes", GAUGE, "Bytes of saved prompts on disk", prefixes.disk_bytes);
    let lookups = [("ram", prefixes.ram_hits), ("disk", prefixes.disk_hits), ("none", prefixes.misses)];
    out.many(
        "prefix_lookups_total",
        COUNTER,
        "Prompts by where their beginning was found",
        "found",
        &lookups,
    );
    out.one("prefix_written_total", COUNTER, "Prompts saved to disk", prefixes.written);
    out.one(
        "prefix_errors_total",
        COUNTER,
        "Saved prompts that were damaged or could not be read or written",
        prefixes.errors,
    );
}

fn experts(stats: &ServingStats, out: &mut Metrics) {
    let store = &stats.store;
    let picks = [("hit", store.hits), ("miss", store.misses)];
    out.many(
        "expert_picks_total",
        COUNTER,
        "Picks of experts that were in memory, or had to be read",
        "result",
        &picks,
    );
    let n_picks = store.hits + store.misses;
    let rate = if n_picks == 0 { 1.0 } else { store.hits as f64 / n_picks as f64 };
    out.one("expert_hit_rate", GAUGE, "Share of picks that were in memory, since the start", rate);
    out.one("expert_evictions_total", COUNTER, "Experts that made room for others", store.evictions);
    out.one("read_bytes_total", COUNTER, "Bytes of experts that were asked for", store.bytes_read);
    out.one(
        "read_device_bytes_total",
        COUNTER,
        "Bytes that came from the disk for them",
        store.bytes_from_device,
    );
    out.one("reads_total", COUNTER, "Reads", store.reads);
    out.one("read_failures_total", COUNTER, "Reads that failed", store.failures);
    out.one(
        "read_wait_seconds_total",
        COUNTER,
        "Time that computing waited for reads",
        seconds(store.wait_ns),
    );
    out.one("read_busy_seconds_total", COUNTER, "Time in which a read was in flight", seconds(store.busy_ns));
    let name = "read_latency_seconds";
    out.head(name, "summary", "Time of one read");
    for (quantile, permille) in [("0.5", 500), ("0.9", 900), ("0.99", 990)] {
        let value = store.latency.percentile_us(permille) as f64 / 1e6;
        out.line(name, &format!("{{quantile=\"{quantile}\"}}"), value);
    }
    out.line(&format!("{name}_count"), "", store.latency.count());
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

struct Metrics(String);

impl Metrics {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP flashmill_{name} {help}\n# TYPE flashmill_{name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "flashmill_{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(name, "", value);
    }

    fn many(&mut self, name: &str, kind: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        self.head(name, kind, help);
        for (key, value) in values {
            self.line(name, &format!("{{{label}=\"{key}\"}}"), value);
        }
    }
}
