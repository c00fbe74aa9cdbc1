//! Working hours: when a machine runs, in the customer's time zone.

use std::collections::BTreeSet;

use jiff::{Timestamp, civil::Time, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::{DomainError, limits, units::UnixMs};

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the days of the week name themselves")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Weekday {
    /// All seven, Monday first (ISO 8601).
    pub const ALL: [Self; 7] =
        [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    const fn index(self) -> u32 {
        self as u32
    }
}

/// One stretch of working hours. Where `stop` is not after `start` it ends on the next day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// IANA time zone (`Europe/Berlin`).
    pub timezone: String,
    /// Local time, minutes since midnight (0 to 1439).
    pub start_minute: u16,
    /// Local time, minutes since midnight (0 to 1439).
    pub stop_minute: u16,
    /// The days on which it starts.
    pub days: BTreeSet<Weekday>,
}

/// Working hours: inside any window the machine runs, outside all of them it is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// One or more.
    pub windows: Vec<Window>,
}

/// Minutes of a week.
const WEEK: u32 = 7 * 24 * 60;
/// Minutes of a day.
const DAY: u32 = 24 * 60;

impl Window {
    /// How long it lasts, in minutes of the local clock (1 to 1440).
    pub fn length_minutes(&self) -> u32 {
        let (start, stop) = (u32::from(self.start_minute), u32::from(self.stop_minute));
        if stop > start { stop - start } else { stop + DAY - start }
    }

    fn zone(&self) -> Result<TimeZone, DomainError> {
        TimeZone::get(&self.timezone).map_err(|_| {
            DomainError::invalid(
                "timezone",
                format!(
                    "`{}` is not known: it has to be a time zone of the IANA database, as `Europe/Berlin` is",
                    self.timezone.escape_debug()
                ),
            )
        })
    }

    /// The stretches of the local week that it covers, as minutes since Monday 00:00.
    fn week_minutes(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.days.iter().flat_map(|day| {
            let start = day.index() * DAY + u32::from(self.start_minute);
            let end = start + self.length_minutes();
            // A stretch over Sunday's midnight goes on at the start of the week.
            let wrapped = (end > WEEK).then(|| (0, end - WEEK));
            [Some((start, end.min(WEEK))), wrapped].into_iter().flatten()
        })
    }
}

impl Schedule {
    /// Checks time zones, times and counts.
    ///
    /// # Errors
    /// `Invalid` with a path like `[0].timezone`.
    pub fn check(&self) -> Result<(), DomainError> {
        if self.windows.is_empty() || self.windows.len() > limits::SCHEDULE_WINDOWS_MAX {
            return Err(DomainError::invalid(
                "schedule",
                format!(
                    "working hours have 1 to {} windows, these are {}",
                    limits::SCHEDULE_WINDOWS_MAX,
                    self.windows.len()
                ),
            ));
        }
        for (index, window) in self.windows.iter().enumerate() {
            let place = format!("[{index}]");
            window.zone().map_err(|error| error.below(&place))?;
            if u32::from(window.start_minute) >= DAY || u32::from(window.stop_minute) >= DAY {
                return Err(DomainError::invalid("start", "a time is 00:00 to 23:59").below(&place));
            }
            if window.days.is_empty() {
                return Err(DomainError::invalid("days", "name at least one day (`mon` to `sun`)")
                    .below(&place));
            }
        }
        Ok(())
    }

    /// Whether `now` is inside the working hours, daylight-saving changes included: the local
    /// clock decides.
    ///
    /// # Errors
    /// `Invalid` when a time zone is unknown or `now` is outside the calendar.
    pub fn runs_at(&self, now: UnixMs) -> Result<bool, DomainError> {
        let instant = Timestamp::from_millisecond(now.0)
            .map_err(|_| DomainError::invalid("now", "the time is outside the calendar"))?;
        for window in &self.windows {
            let local = instant.to_zoned(window.zone()?);
            let minute = (local.weekday().to_monday_zero_offset().unsigned_abs()) as u32 * DAY
                + minute_of(local.time());
            if window.week_minutes().any(|(start, end)| (start..end).contains(&minute)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Minutes of a normal week inside the working hours; windows that overlap count once
    /// (those of different time zones are compared by their local clocks).
    pub fn minutes_per_week(&self) -> u32 {
        let mut stretches: Vec<_> = self.windows.iter().flat_map(Window::week_minutes).collect();
        stretches.sort_unstable();
        let (mut total, mut reached) = (0, 0);
        for (start, end) in stretches {
            let start = start.max(reached);
            if end > start {
                total += end - start;
                reached = end;
            }
        }
        total
    }
}

fn minute_of(time: Time) -> u32 {
    u32::from(time.hour().unsigned_abs()) * 60 + u32::from(time.minute().unsigned_abs())
}

/// Reads `HH:MM` (00:00 to 23:59) as minutes since midnight.
///
/// # Errors
/// `Invalid` without a field.
pub fn parse_time(text: &str) -> Result<u16, DomainError> {
    let error = || {
        DomainError::new(
            crate::ErrorKind::Invalid,
            format!("`{}` is not a time of the day, as `08:30` is", text.escape_debug()),
        )
    };
    let (hours, minutes) = text.split_once(':').ok_or_else(error)?;
    let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(hours) || !two_digits(minutes) {
        return Err(error());
    }
    let hours: u16 = hours.parse().map_err(|_| error())?;
    let minutes: u16 = minutes.parse().map_err(|_| error())?;
    if hours > 23 || minutes > 59 { Err(error()) } else { Ok(hours * 60 + minutes) }
}

/// Writes minutes since midnight as `HH:MM`.
pub fn format_time(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn office(days: &[Weekday], start: &str, stop: &str) -> Schedule {
        Schedule {
            windows: vec![Window {
                timezone: "Europe/Berlin".into(),
                start_minute: parse_time(start).unwrap(),
                stop_minute: parse_time(stop).unwrap(),
                days: days.iter().copied().collect(),
            }],
        }
    }

    fn at(text: &str) -> UnixMs {
        UnixMs(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn the_local_clock_decides_across_daylight_saving() {
        let schedule = office(&[Weekday::Mon, Weekday::Fri], "08:00", "18:00");
        // Friday in winter: 08:00 in Berlin is 07:00 UTC; Monday in summer time: 06:00 UTC.
        assert!(!schedule.runs_at(at("2026-03-27T06:59:00Z")).unwrap());
        assert!(schedule.runs_at(at("2026-03-27T07:00:00Z")).unwrap());
        assert!(schedule.runs_at(at("2026-03-30T06:00:00Z")).unwrap());
        assert!(!schedule.runs_at(at("2026-03-30T16:00:00Z")).unwrap());
    }

    /// The stretches of nearly two days that a window of every day runs in, in UTC.
    fn stretches(zone: &str, from: &str, start: &str, stop: &str) -> Vec<String> {
        let mut schedule = office(&Weekday::ALL, start, stop);
        schedule.windows[0].timezone = zone.into();
        let begin = at(from).0;
        let (mut changes, mut ran) = (Vec::new(), false);
        // The second day may be an hour shorter.
        for minute in 0..2 * i64::from(DAY) - 120 {
            let now = UnixMs(begin + minute * 60_000);
            let runs = schedule.runs_at(now).unwrap();
            if runs != ran {
                let time = Timestamp::from_millisecond(now.0).unwrap();
                changes.push(time.strftime("%d %H:%M").to_string());
            }
            ran = runs;
        }
        changes.chunks(2).map(|pair| pair.join(" to ")).collect()
    }

    /// Both changes of the year, in both hemispheres. The day before is a usual one.
    #[test]
    fn the_days_on_which_clocks_change() {
        // Berlin: 02:00 becomes 03:00, on 29 March at 01:00 UTC.
        let spring = |start, stop| stretches("Europe/Berlin", "2026-03-27T23:00:00Z", start, stop);
        assert_eq!(spring("01:00", "06:00"), ["28 00:00 to 28 05:00", "29 00:00 to 29 04:00"]);
        // What begins in the hour that is left out begins when that would have been over.
        assert_eq!(spring("02:30", "06:00"), ["28 01:30 to 28 05:00", "29 01:00 to 29 04:00"]);
        assert_eq!(spring("01:00", "02:30"), ["28 00:00 to 28 01:30", "29 00:00 to 29 01:00"]);
        // What lies within it is left out with it.
        assert_eq!(spring("02:15", "02:45"), ["28 01:15 to 28 01:45"]);
        // Berlin: 03:00 becomes 02:00, on 25 October at 01:00 UTC.
        let autumn = |start, stop| stretches("Europe/Berlin", "2026-10-23T22:00:00Z", start, stop);
        assert_eq!(autumn("01:00", "06:00"), ["23 23:00 to 24 04:00", "24 23:00 to 25 05:00"]);
        // Each of the two hours counts by its clock.
        assert_eq!(
            autumn("02:15", "02:45"),
            ["24 00:15 to 24 00:45", "25 00:15 to 25 00:45", "25 01:15 to 25 01:45"]
        );
        assert_eq!(
            autumn("01:00", "02:30"),
            ["23 23:00 to 24 00:30", "24 23:00 to 25 00:30", "25 01:00 to 25 01:30"]
        );
        assert_eq!(
            autumn("02:30", "06:00"),
            ["24 00:30 to 24 04:00", "25 00:30 to 25 01:00", "25 01:30 to 25 05:00"]
        );
        // Sydney: 03:00 becomes 02:00 on 5 April, 02:00 becomes 03:00 on 4 October, both at
        // 16:00 UTC of the day before.
        let autumn =
            |start, stop| stretches("Australia/Sydney", "2026-04-03T13:00:00Z", start, stop);
        assert_eq!(autumn("01:00", "06:00"), ["03 14:00 to 03 19:00", "04 14:00 to 04 20:00"]);
        assert_eq!(
            autumn("02:15", "02:45"),
            ["03 15:15 to 03 15:45", "04 15:15 to 04 15:45", "04 16:15 to 04 16:45"]
        );
        let spring =
            |start, stop| stretches("Australia/Sydney", "2026-10-02T14:00:00Z", start, stop);
        assert_eq!(spring("01:00", "06:00"), ["02 15:00 to 02 20:00", "03 15:00 to 03 19:00"]);
        assert_eq!(spring("02:30", "06:00"), ["02 16:30 to 02 20:00", "03 16:00 to 03 19:00"]);
        assert_eq!(spring("02:15", "02:45"), ["02 16:15 to 02 16:45"]);
    }

    /// A night that wraps over the change is an hour shorter or longer, and never interrupted.
    #[test]
    fn nights_in_which_clocks_change() {
        let spring = stretches("Europe/Berlin", "2026-03-28T12:00:00Z", "22:00", "06:00");
        assert_eq!(spring, ["28 21:00 to 29 04:00", "29 20:00 to 30 04:00"]);
        let autumn = stretches("Europe/Berlin", "2026-10-24T12:00:00Z", "22:00", "06:00");
        assert_eq!(autumn, ["24 20:00 to 25 05:00", "25 21:00 to 26 05:00"]);
        let spring = stretches("Australia/Sydney", "2026-10-03T06:00:00Z", "22:00", "06:00");
        assert_eq!(spring, ["03 12:00 to 03 19:00", "04 11:00 to 04 19:00"]);
        let autumn = stretches("Australia/Sydney", "2026-04-04T06:00:00Z", "22:00", "06:00");
        assert_eq!(autumn, ["04 11:00 to 04 20:00", "05 12:00 to 05 20:00"]);
    }

    #[test]
    fn nights_and_the_week_wrap() {
        let schedule = office(&[Weekday::Sun], "22:00", "06:00");
        assert!(schedule.runs_at(at("2026-11-22T22:00:00Z")).unwrap());
        assert!(schedule.runs_at(at("2026-11-23T04:59:00Z")).unwrap());
        assert!(!schedule.runs_at(at("2026-11-23T05:00:00Z")).unwrap());
        assert_eq!(schedule.minutes_per_week(), 8 * 60);
    }

    #[test]
    fn overlapping_windows_count_once() {
        let mut schedule = office(&[Weekday::Mon], "08:00", "12:00");
        schedule.windows.extend(office(&[Weekday::Mon], "10:00", "14:00").windows);
        assert_eq!(schedule.minutes_per_week(), 6 * 60);
        assert_eq!(office(&Weekday::ALL, "00:00", "00:00").minutes_per_week(), WEEK);
    }

    #[test]
    fn wrong_forms_name_their_place() {
        let mut schedule = office(&[Weekday::Mon], "08:00", "12:00");
        schedule.windows[0].timezone = "Mars/Olympus".into();
        assert_eq!(schedule.check().unwrap_err().field.as_deref(), Some("[0].timezone"));
        for bad in ["8:00", "24:00", "08:60", "", "+8:00", "08:00:00"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
