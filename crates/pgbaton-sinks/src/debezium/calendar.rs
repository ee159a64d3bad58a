//! Dates and times, exactly, over all of PostgreSQL's range: 4713 BC to 5874897, `infinity` and `24:00:00` included.
//! No clock and no time zone but UTC.

use super::civil::Date;
use super::reader::{MICROS_PER_DAY, MICROS_PER_SECOND, Reader};
use super::types::Unit;
use super::value::{Fault, integer, quoted};

/// What Debezium sends for an infinite timestamp, in microseconds. A millisecond column gets a thousandth of it.
const INFINITY_MICROS: i128 = 9_223_372_036_825_200_000;
const MINUS_INFINITY_MICROS: i128 = -9_223_372_036_832_400_000;

/// Days since 1970-01-01. An infinite date is the largest or smallest 32-bit number, as inside PostgreSQL.
pub(super) fn date(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let days = match text {
        b"infinity" => i64::from(i32::MAX),
        b"-infinity" => i64::from(i32::MIN),
        text => {
            let mut reader = Reader::new(text);
            let date = reader.date()?;
            let date = date.in_era(reader.before_christ())?;
            reader.end()?;
            date.days()
        }
    };
    integer(days, out);
    Ok(())
}

/// Since midnight.
pub(super) fn time(unit: Unit, text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut reader = Reader::new(text);
    let micros = reader.time()?;
    reader.end()?;
    write_in(unit, i128::from(micros), out);
    Ok(())
}

/// `HH:MM:SS[.ffffff]Z`, moved to UTC within the day. Only the end of a day that is UTC's is `24:00:00Z`.
pub(super) fn time_with_zone(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut reader = Reader::new(text);
    let local = reader.time()?;
    let offset = reader.offset()?;
    reader.end()?;
    let micros = match (local, offset) {
        (MICROS_PER_DAY, 0) => MICROS_PER_DAY,
        (local, offset) => (local - offset).rem_euclid(MICROS_PER_DAY),
    };
    out.push(b'"');
    write_clock(micros, out);
    let mut fraction = micros % MICROS_PER_SECOND;
    if fraction != 0 {
        let mut digits = 6;
        while fraction % 10 == 0 {
            fraction /= 10;
            digits -= 1;
        }
        out.push(b'.');
        write_digits(fraction, digits, out);
    }
    out.extend_from_slice(b"Z\"");
    Ok(())
}

/// Since 1970-01-01T00:00:00. The last 29 years of PostgreSQL's range, from 294247 on, exceed 64 bits in microseconds;
/// JSON can still say them.
pub(super) fn timestamp(unit: Unit, text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let micros = match text {
        b"infinity" => INFINITY_MICROS,
        b"-infinity" => MINUS_INFINITY_MICROS,
        text => {
            let mut reader = Reader::new(text);
            let (date, micros) = reader.date_and_time()?;
            let date = date.in_era(reader.before_christ())?;
            reader.end()?;
            i128::from(date.days()) * i128::from(MICROS_PER_DAY) + i128::from(micros)
        }
    };
    write_in(unit, micros, out);
    Ok(())
}

/// ISO 8601 in UTC with so many digits of a second, or `infinity`, `-infinity`. A year before 1 is astronomical
/// (1 BC is 0000, 2 BC is -0001), one after 9999 has a plus sign.
pub(super) fn timestamp_with_zone(digits: u8, text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    if let b"infinity" | b"-infinity" = text {
        quoted(text, out);
        return Ok(());
    }
    let mut reader = Reader::new(text);
    let (date, local) = reader.date_and_time()?;
    let offset = reader.offset()?;
    let date = date.in_era(reader.before_christ())?;
    reader.end()?;
    let micros = (local - offset).rem_euclid(MICROS_PER_DAY);
    // With TimeZone UTC the day is already the right one.
    let date = match (local - offset).div_euclid(MICROS_PER_DAY) {
        0 => date,
        days => Date::of_days(date.days() + days),
    };

    out.push(b'"');
    match date.year {
        0..=9999 => write_digits(date.year, 4, out),
        10_000.. => {
            out.push(b'+');
            integer(date.year, out);
        }
        ..0 => {
            out.push(b'-');
            write_digits(-date.year, 4, out);
        }
    }
    let [[m, mm], [d, dd]] = [date.month, date.day].map(two_digits);
    out.extend_from_slice(&[b'-', m, mm, b'-', d, dd, b'T']);
    write_clock(micros, out);
    if digits > 0 {
        out.push(b'.');
        let fraction = micros % MICROS_PER_SECOND;
        write_digits(fraction / 10_i64.pow(6 - u32::from(digits)), usize::from(digits), out);
    }
    out.extend_from_slice(b"Z\"");
    Ok(())
}

fn write_in(unit: Unit, micros: i128, out: &mut Vec<u8>) {
    let number = match unit {
        Unit::Milliseconds => micros.div_euclid(1000),
        Unit::Microseconds => micros,
    };
    match i64::try_from(number) {
        Ok(number) => integer(number, out),
        Err(_) => integer(number, out),
    }
}

fn write_clock(micros_of_day: i64, out: &mut Vec<u8>) {
    let seconds = micros_of_day / MICROS_PER_SECOND;
    let [[h, hh], [m, mm], [s, ss]] = [seconds / 3600, seconds / 60 % 60, seconds % 60].map(two_digits);
    out.extend_from_slice(&[h, hh, b':', m, mm, b':', s, ss]);
}

fn two_digits(number: i64) -> [u8; 2] {
    [number / 10, number % 10].map(|digit| b'0' + digit as u8)
}

/// The last `count` decimal digits of a number, at most eight, zeros in front.
fn write_digits(number: i64, count: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 8];
    let mut left = number;
    for digit in digits[8 - count..].iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    out.extend_from_slice(&digits[8 - count..]);
}

#[cfg(test)]
mod tests;
