//! The time of day.

use anyhow::{Context as _, Result};
use jiff::Zoned;
use jiff::tz::TimeZone;

/// Date, time, weekday and zone now: in the named IANA zone (`Europe/Oslo`), or in the machine's own.
pub(crate) fn now(zone: Option<&str>) -> Result<String> {
    let now = match zone.map(str::trim).filter(|zone| !zone.is_empty()) {
        Some(name) => {
            let zone = TimeZone::get(name).with_context(|| {
                format!("{name:?} is no time zone; give an IANA name such as Europe/Oslo or UTC")
            })?;
            Zoned::now().with_time_zone(zone)
        }
        None => Zoned::now(),
    };
    Ok(describe(&now))
}

fn describe(time: &Zoned) -> String {
    let zone = time.time_zone().iana_name().unwrap_or("local time");
    format!("{} ({zone})", time.strftime("%A, %Y-%m-%d %H:%M:%S %:z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_in_two_zones() {
        let moment: jiff::Timestamp = "2026-07-01T10:30:00Z".parse().expect("a timestamp");
        let oslo = moment.in_tz("Europe/Oslo").expect("a zone that the program carries");
        assert_eq!(describe(&oslo), "Wednesday, 2026-07-01 12:30:00 +02:00 (Europe/Oslo)");
        let utc = moment.in_tz("UTC").expect("a zone that the program carries");
        assert_eq!(describe(&utc), "Wednesday, 2026-07-01 10:30:00 +00:00 (UTC)");
    }

    #[test]
    fn unknown_zones_are_errors() {
        assert!(now(Some("Europe/Nowhere")).is_err_and(|error| error.to_string().contains("no time zone")));
        assert!(now(Some("../../etc/passwd")).is_err());
        assert!(now(Some(" ")).is_ok(), "an empty name is the machine's zone");
    }
}
