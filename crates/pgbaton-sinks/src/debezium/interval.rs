//! Intervals as one number of microseconds. Months have no length, so they get a year's average, 30.4375 days, as
//! Debezium gives them; the number does not tell a month from its days.

use super::reader::Reader;
use super::value::{Fault, integer, quoted};

const MICROS_PER_HOUR: i128 = 3_600_000_000;
const MICROS_PER_DAY: i128 = 24 * MICROS_PER_HOUR;

/// 365.25 days / 12.
const MICROS_PER_MONTH: i128 = 2_629_800_000_000;

/// Appends an interval in the style `1 year 2 mons -3 days +04:05:06.78`. What exceeds 64 bits is still exact; an
/// infinite one (PostgreSQL 17) is the string `infinity` or `-infinity`.
pub(super) fn write(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    if let b"infinity" | b"-infinity" = text {
        quoted(text, out);
        return Ok(());
    }
    let mut micros: i128 = 0;
    let mut words = text.split(|byte| *byte == b' ');
    while let Some(word) = words.next() {
        let (sign, digits) = match word {
            [b'-', digits @ ..] => (-1, digits),
            [b'+', digits @ ..] => (1, digits),
            digits => (1, digits),
        };
        let mut reader = Reader::new(digits);
        let count = i128::from(reader.number(1, 10)?);
        let part = if reader.starts_with(b':') {
            count * MICROS_PER_HOUR + i128::from(reader.minutes_and_seconds()?)
        } else {
            count * micros_of(words.next().ok_or(Fault::Malformed)?)?
        };
        reader.end()?;
        micros += sign * part;
    }
    match i64::try_from(micros) {
        Ok(micros) => integer(micros, out),
        Err(_) => integer(micros, out),
    }
    Ok(())
}

fn micros_of(unit: &[u8]) -> Result<i128, Fault> {
    match unit {
        b"year" | b"years" => Ok(12 * MICROS_PER_MONTH),
        b"mon" | b"mons" => Ok(MICROS_PER_MONTH),
        b"day" | b"days" => Ok(MICROS_PER_DAY),
        _ => Err(Fault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<String, Fault> {
        let mut out = Vec::new();
        write(text.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// Texts as PostgreSQL 15 prints them.
    #[test]
    fn intervals_are_exact_microseconds() {
        for (text, expected) in [
            ("1 year 2 mons 3 days 04:05:06.78", "37091106780000"),
            ("-1 years -2 mons +3 days -04:05:06.78", "-36572706780000"),
            ("1 mon -1 days", "2543400000000"),
            ("1 day -00:00:01", "86399000000"),
            ("00:00:00", "0"),
            ("-00:00:00.000001", "-1"),
            ("2 days", "172800000000"),
            ("2562047788:00:54.775807", "9223372036854775807"),
            ("178000000 years", "5617252800000000000000"),
            ("infinity", "\"infinity\""),
        ] {
            assert_eq!(written(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn another_interval_style_is_refused() {
        for text in ["", "P1Y2M", "@ 1 year ago", "1", "1 fortnight", "1-2 3 4:05:06", "1 year ", " 1 year", "4:5:6"] {
            assert!(written(text).is_err(), "{text:?} was accepted");
        }
    }
}
