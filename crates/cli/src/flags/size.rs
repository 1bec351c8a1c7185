//! Amounts of memory as people write them.

/// Bytes of `8G`, `8GiB`, `8GB`, `1.5g`, `512M`, `4096`.
///
/// A bare letter and `KiB`, `MiB` ... are powers of 1024, `KB`, `MB` ... powers of 1000, and no unit is bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = unit_bytes(unit.trim()).ok_or_else(|| wrong(text))?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| format!("{text:?} is more than 2^64 bytes"));
    }
    let number: f64 = number.parse().map_err(|_| wrong(text))?;
    let bytes = number * factor as f64;
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(format!("{text:?} is more than 2^64 bytes")) }
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    if matches!(unit.as_str(), "" | "b") {
        return Some(1);
    }
    let power = 1 + "kmgt".find(unit.chars().next()?)? as u32;
    match &unit[1..] {
        "" | "i" | "ib" => Some(1024u64.pow(power)),
        "b" => Some(1000u64.pow(power)),
        _ => None,
    }
}

fn wrong(text: &str) -> String {
    format!("{text:?} is not a size; write a number and K, M, G or T, for example 8G or 512M")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("8G", 8 << 30),
            ("8g", 8 << 30),
            ("8GiB", 8 << 30),
            ("8 Gi", 8 << 30),
            ("8GB", 8_000_000_000),
            ("512M", 512 << 20),
            ("1.5K", 1536),
            ("0.5G", 512 << 20),
            (".5G", 512 << 20),
            ("2T", 2 << 40),
            ("4096", 4096),
            ("4096b", 4096),
            ("0", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in
            ["", "G", "-1G", "8X", "8GG", "8Gix", "1.2.3G", ".", "1e9", "\u{663}G", "8\u{20ac}", "inf"]
        {
            let error = parse_size(text).expect_err(text);
            assert!(error.contains("is not a size"), "{error}");
        }
        for text in ["18446744073709551616", "99999999T", "1e9999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
