//! The time of day.

use anyhow::{Context as _, Result};
use jiff::Zoned;
use jiff::tz::{self, TimeZone};
use serde_json::{Value, json};

/// Time, weekday and date now: in the named IANA zone (`Europe/Oslo`, or `Oslo` for short), or in the machine's own, which is then
/// named too.
pub(crate) fn now(zone: Option<&str>) -> Result<Value> {
    let now = Zoned::now();
    let text = match zone.map(str::trim).filter(|zone| !zone.is_empty()) {
        Some(name) => describe(&now.with_time_zone(find(name)?)),
        None => format!("{}, {}", describe(&now), now.time_zone().iana_name().unwrap_or("local time")),
    };
    Ok(json!({"time": text}))
}

/// A zone by its name, or by the city in its name.
fn find(name: &str) -> Result<TimeZone> {
    let by_city = || {
        let city = name.replace(' ', "_");
        let names = tz::db().available();
        let mut names = names.map(|known| known.to_string());
        let known = names
            .find(|known| known.rsplit('/').next().is_some_and(|last| last.eq_ignore_ascii_case(&city)))?;
        TimeZone::get(&known).ok()
    };
    TimeZone::get(name)
        .ok()
        .or_else(by_city)
        .with_context(|| format!("{name:?} is no time zone; give an IANA name such as Europe/Oslo or UTC"))
}

/// The time comes first: small models repeat the start of it.
fn describe(time: &Zoned) -> String {
    time.strftime("%H:%M, %A %-d %B %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_in_two_zones() {
        let moment: jiff::Timestamp = "2026-07-01T10:30:00Z".parse().expect("a timestamp");
        let oslo = describe(&moment.to_zoned(find("Europe/Oslo").expect("a zone that the program carries")));
        assert_eq!(oslo, "12:30, Wednesday 1 July 2026");
        let utc = describe(&moment.to_zoned(find("UTC").expect("a zone that the program carries")));
        assert_eq!(utc, "10:30, Wednesday 1 July 2026");
    }

    #[test]
    fn a_city_names_its_zone() {
        for (city, zone) in [("oslo", "Europe/Oslo"), ("New York", "America/New_York")] {
            assert_eq!(find(city).expect("a city").iana_name(), Some(zone));
        }
    }

    #[test]
    fn unknown_zones_are_errors() {
        assert!(now(Some("Europe/Nowhere")).is_err_and(|error| error.to_string().contains("no time zone")));
        assert!(now(Some("../../etc/passwd")).is_err());
        assert!(now(Some(" ")).is_ok(), "an empty name is the machine's zone");
    }
}
