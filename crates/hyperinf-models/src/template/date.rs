use std::time::{SystemTime, UNIX_EPOCH};

use super::error::{Outcome, fail};

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug)]
pub(super) struct Date {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const SECONDS_PER_DAY: u64 = 86_400;

impl Date {
    pub(super) fn of(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut days = (seconds / SECONDS_PER_DAY) as i64;
        let weekday = ((days + 4) % 7) as usize;
        let mut year = 1970;
        while days >= year_length(year) {
            days -= year_length(year);
            year += 1;
        }
        let mut month = 0;
        while days >= month_length(year, month) {
            days -= month_length(year, month);
            month += 1;
        }
        Self { year, month, day: days + 1, weekday }
    }

    /// The date in a format of C's `strftime`. Times of day are refused.
    pub(super) fn format(self, format: &str) -> Outcome<String> {
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            match characters.next() {
                Some('d') => text += &format!("{:02}", self.day),
                Some('m') => text += &format!("{:02}", self.month + 1),
                Some('Y') => text += &self.year.to_string(),
                Some('y') => text += &format!("{:02}", self.year % 100),
                Some('B') => text += MONTHS[self.month],
                Some('b') => text += &MONTHS[self.month][..3],
                Some('A') => text += WEEKDAYS[self.weekday],
                Some('a') => text += &WEEKDAYS[self.weekday][..3],
                Some('F') => text += &self.format("%Y-%m-%d")?,
                Some('%') => text.push('%'),
                other => {
                    let code = other.map(String::from).unwrap_or_default();
                    return fail(format!("strftime_now does not know `%{code}`"));
                }
            }
        }
        Ok(text)
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn year_length(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn month_length(year: i64, month: usize) -> i64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}
