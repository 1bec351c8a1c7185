//! Fields of /proc/meminfo and /proc/self/status.

/// The value in bytes of a line `name:   123 kB`.
pub(super) fn kib_field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `MemAvailable`; kernels before 3.14 lack it, and there free memory and page cache stand in for it.
pub(super) fn mem_available(meminfo: &str) -> Option<u64> {
    kib_field(meminfo, "MemAvailable")
        .or_else(|| kib_field(meminfo, "MemFree")?.checked_add(kib_field(meminfo, "Cached").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24684084 kB\nMemFree:        20000000 kB\nMemAvailable:   23456789 kB\n\
                           Buffers:           12345 kB\nCached:          1000000 kB\nSwapCached:            0 kB\n\
                           HugePages_Total:       0\n";

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(kib_field(MEMINFO, "MemTotal"), Some(24_684_084 << 10));
        assert_eq!(kib_field(MEMINFO, "Cached"), Some(1_000_000 << 10));
        assert_eq!(kib_field(MEMINFO, "Mem"), None);
        assert_eq!(kib_field(MEMINFO, "HugePages_Total"), None, "not a size");
        assert_eq!(kib_field("VmRSS:\t  1234 kB\n", "VmRSS"), Some(1234 << 10));
        assert_eq!(kib_field("VmRSS: 18446744073709551615 kB", "VmRSS"), None, "larger than any memory");
    }

    #[test]
    fn old_kernels_have_no_mem_available() {
        assert_eq!(mem_available(MEMINFO), Some(23_456_789 << 10));
        assert_eq!(mem_available("MemFree: 20 kB\nCached: 3 kB\n"), Some(23 << 10));
        assert_eq!(mem_available("nothing of use"), None);
    }
}
