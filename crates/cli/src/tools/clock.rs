//! The time of day.

use anyhow::{Context as _, Result};
use jiff::Zoned;
use jiff::tz::{self, TimeZone};
use serde_json::{Value, json};

/// Date, time, weekday and zone now: in the named IANA zone (`Europe/Oslo`, or `Oslo` for short), or in the machine's own.
pub(crate) fn now(zone: Option<&str>) -> Result<Value> {
    let now = match zone.map(str::trim).filter(|zone| !zone.is_empty()) {
        Some(name) => Zoned::now().with_time_zone(find(name)?),
        None => Zoned::now(),
    };
    Ok(describe(&now))
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

fn describe(time: &Zoned) -> Value {
    let zone = time.time_zone().iana_name().unwrap_or("local time");
    json!({
        "time": time.strftime("%H:%M").to_string(),
        "date": time.strftime("%Y-%m-%d").to_string(),
        "weekday": time.strftime("%A").to_string(),
        "zone": format!("{zone} (UTC{})", time.strftime("%:z")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_in_two_zones() {
        let moment: jiff::Timestamp = "2026-07-01T10:30:00Z".parse().expect("a timestamp");
        let oslo = describe(&moment.to_zoned(find("Europe/Oslo").expect("a zone that the program carries")));
        let expected = json!({"time": "12:30", "date": "2026-07-01", "weekday": "Wednesday", "zone": "Europe/Oslo (UTC+02:00)"});
        assert_eq!(oslo, expected);
        let utc = describe(&moment.to_zoned(find("UTC").expect("a zone that the program carries")));
        assert_eq!(utc["time"], "10:30");
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
