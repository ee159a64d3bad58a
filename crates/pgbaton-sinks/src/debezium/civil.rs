//! Days by date and by number, over the whole Gregorian calendar and beyond its beginning. No clock, no time of day.

use super::value::Fault;

/// A day of the proleptic Gregorian calendar, the year counted astronomically once the era is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: i64,
    pub(super) month: i64,
    pub(super) day: i64,
}

/// The calendar repeats itself after so many days, 400 years.
pub(super) const DAYS_PER_CYCLE: i64 = 146_097;

/// From 0000-03-01, where the arithmetic below counts from, to 1970-01-01.
const DAYS_TO_EPOCH: i64 = 719_468;

impl Date {
    /// Takes the year as one before Christ if it is, and checks that the day exists.
    pub(super) fn in_era(self, before_christ: bool) -> Result<Date, Fault> {
        let year = if before_christ { 1 - self.year } else { self.year };
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return Err(Fault::Malformed),
        };
        // PostgreSQL's calendar begins in 4714 BC; what is written of a year before Christ has four digits.
        let years = if before_christ { 1..=9999 } else { 1..=9_999_999 };
        if !years.contains(&self.year) || !(1..=length).contains(&self.day) {
            return Err(Fault::Malformed);
        }
        Ok(Date { year, ..self })
    }

    /// Since 1970-01-01. Years are counted from March on, so that a leap day is a year's last day.
    pub(super) fn days(self) -> i64 {
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let month_from_march = (self.month + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + self.day - 1;
        let cycle = year.div_euclid(400);
        let year_of_cycle = year.rem_euclid(400);
        let day_of_cycle = year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
        cycle * DAYS_PER_CYCLE + day_of_cycle - DAYS_TO_EPOCH
    }

    pub(super) fn of_days(days_since_epoch: i64) -> Date {
        let days = days_since_epoch + DAYS_TO_EPOCH;
        let cycle = days.div_euclid(DAYS_PER_CYCLE);
        let day_of_cycle = days.rem_euclid(DAYS_PER_CYCLE);
        let leap_days = day_of_cycle / 1460 - day_of_cycle / 36_524 + day_of_cycle / 146_096;
        let year_of_cycle = (day_of_cycle - leap_days) / 365;
        let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Date {
            year: cycle * 400 + year_of_cycle + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
        }
    }
}
