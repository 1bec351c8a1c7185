//! A plan as text.

use flashmill_model::Prefetch;

use super::Plan;
use crate::cost;

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut row = |what: &str, bytes: u64, note: &str| {
            let line = format!("{what:<22}{:>11}  {note}", human_bytes(bytes));
            writeln!(f, "{}", line.trim_end())
        };
        row("budget", self.ram_bytes, &self.ram_source)?;
        row("  process", self.process_bytes, "code, tokenizer, stacks")?;
        if self.serving_bytes > 0 {
            row("  requests", self.serving_bytes, "samplers, and the vocabulary for forms of answers")?;
        }
        row("  trunk", self.trunk_bytes, "resident: weights that every token uses")?;
        row("  KV cache", self.kv_bytes, &format!("{} positions", self.context))?;
        row(
            "  states",
            self.state_bytes,
            &format!("{} sequences, saved prefixes included; {} run at once", self.n_states, self.sessions),
        )?;
        row("  activations", self.work_bytes, &format!("prompt chunks of {} tokens", self.chunk))?;
        let share = format!("cache: holds {:.1} % of the experts", 100.0 * self.resident_share);
        row("  expert slots", self.slot_bytes, &share)?;
        row("  unused", self.ram_bytes.saturating_sub(self.used_bytes()), "")?;
        row("floor", self.floor_bytes, "the least --ram with this context")?;
        row("experts on disk", self.bundle_bytes, "read when the router picks them")?;
        let read = (self.expert_bytes_per_token as f64 * (1.0 - self.resident_share)) as u64;
        row("read per token", read, "if picks were uniform; repeats make it less")?;
        row(
            "used per token",
            self.expert_bytes_per_token,
            &format!("{} experts a layer", self.experts_per_token),
        )?;
        writeln!(f, "backend               {}", self.backend)?;
        let note = match self.model.prefetch {
            // No measurement of docs/EXPERIMENTS.md has it pay, so that no plan chooses it.
            Prefetch::Off => "what it would read in vain costs what it gains",
            Prefetch::Router | Prefetch::Router2 => "by --prefetch",
        };
        write!(f, "prefetch              {} ({note})", self.model.prefetch)?;
        if self.cache_aware > 0.0 {
            write!(
                f,
                "\ncache-aware           {} (answers depend on what is in the cache)",
                self.cache_aware
            )?;
        }
        let Some(predicted) = &self.predicted else { return Ok(()) };
        write!(
            f,
            "\npredicted             {:>7.1} tok/s  answer, if {:.0} % of the picks hit: {} read for a token",
            predicted.decode_tok_per_s,
            100.0 * predicted.hit_rate,
            human_bytes(predicted.bytes_per_token as u64)
        )?;
        write!(
            f,
            "\n                      {:>7.1} tok/s  prompt of {} tokens",
            predicted.prefill_tok_per_s,
            cost::PROMPT
        )
    }
}

/// A size for people: `1.5 GiB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(217 << 30), "217.0 GiB");
    }
}
