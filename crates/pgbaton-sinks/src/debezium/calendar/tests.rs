//! Expected numbers were computed by PostgreSQL 15 (`extract(epoch from ...)`, difference of dates).

use super::*;
use crate::debezium::civil::DAYS_PER_CYCLE;
use crate::debezium::sample::Random;

fn written(write: impl Fn(&[u8], &mut Vec<u8>) -> Result<(), Fault>, text: &str) -> Result<String, Fault> {
    let mut out = Vec::new();
    write(text.as_bytes(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn micros(text: &str) -> Result<String, Fault> {
    written(|text, out| timestamp(Unit::Microseconds, text, out), text)
}

fn zoned(text: &str) -> Result<String, Fault> {
    written(|text, out| timestamp_with_zone(6, text, out), text)
}

#[test]
fn dates_are_days_over_the_whole_range() {
    for (text, days) in [
        ("4713-01-01 BC", "-2440550"),
        ("0001-12-31 BC", "-719163"),
        ("0001-01-01", "-719162"),
        ("0044-03-15 BC", "-735160"),
        ("1900-03-01", "-25508"),
        ("1969-12-31", "-1"),
        ("2000-02-29", "11016"),
        ("2024-02-29", "19782"),
        ("5874897-12-31", "2145042905"),
        ("infinity", "2147483647"),
        ("-infinity", "-2147483648"),
    ] {
        assert_eq!(written(date, text).unwrap(), days, "{text}");
    }
}

#[test]
fn timestamps_are_exact_over_the_whole_range() {
    for (text, expected) in [
        ("4713-01-01 00:00:00 BC", "-210863520000000000"),
        ("0001-01-01 00:00:00 BC", "-62167219200000000"),
        ("0044-03-15 12:34:56.000001 BC", "-63517778703999999"),
        ("1582-10-14 00:00:00", "-12219379200000000"),
        ("1900-02-28 12:00:00", "-2203934400000000"),
        ("1969-12-31 23:59:59.999999", "-1"),
        ("2024-02-29 01:02:03.123456", "1709168523123456"),
        ("10000-01-01 00:00:00", "253402300800000000"),
        ("294247-01-10 04:00:54.775807", "9223372036854775807"),
        ("294276-12-31 23:59:59.999999", "9224318015999999999"),
        ("infinity", "9223372036825200000"),
        ("-infinity", "-9223372036832400000"),
    ] {
        assert_eq!(micros(text).unwrap(), expected, "{text}");
    }
}

#[test]
fn columns_of_three_digits_count_milliseconds() {
    let millis = |text| written(|text, out| timestamp(Unit::Milliseconds, text, out), text).unwrap();
    assert_eq!(millis("2024-02-29 01:02:03.123"), "1709168523123");
    assert_eq!(millis("1969-12-31 23:59:59.5"), "-500");
    assert_eq!(millis("infinity"), "9223372036825200");
    assert_eq!(millis("-infinity"), "-9223372036832400");
    let millis = |text| written(|text, out| time(Unit::Milliseconds, text, out), text).unwrap();
    assert_eq!(millis("01:02:03"), "3723000");
    assert_eq!(millis("24:00:00"), "86400000");
}

#[test]
fn times_count_from_midnight_and_the_end_of_a_day_is_not_its_start() {
    let micros = |text| written(|text, out| time(Unit::Microseconds, text, out), text);
    assert_eq!(micros("00:00:00").unwrap(), "0");
    assert_eq!(micros("04:05:06.789012").unwrap(), "14706789012");
    assert_eq!(micros("23:59:59.1").unwrap(), "86399100000");
    assert_eq!(micros("24:00:00").unwrap(), "86400000000");
    for text in ["", "1:02:03", "24:00:01", "25:00:00", "01:60:00", "01:02:60", "01:02", "01:02:03.", "01:02:03 "] {
        assert!(micros(text).is_err(), "{text:?} was accepted");
    }
}

#[test]
fn times_with_a_zone_are_moved_to_utc() {
    for (text, expected) in [
        ("01:02:03.5+02", "23:02:03.5Z"),
        ("01:02:03.5-03:30", "04:32:03.5Z"),
        ("00:00:00+15:59:59", "08:00:01Z"),
        ("12:00:00.000001+00", "12:00:00.000001Z"),
        ("12:00:00.1+00", "12:00:00.1Z"),
        ("24:00:00+00", "24:00:00Z"),
        ("24:00:00+02", "22:00:00Z"),
    ] {
        assert_eq!(written(time_with_zone, text).unwrap(), format!("\"{expected}\""));
    }
    assert!(written(time_with_zone, "12:00:00").is_err());
}

#[test]
fn timestamps_with_a_zone_are_iso_8601_in_utc() {
    for (text, expected) in [
        ("2024-02-28 23:02:03.123456+00", "2024-02-28T23:02:03.123456Z"),
        ("2024-02-29 01:02:03+00", "2024-02-29T01:02:03.000000Z"),
        ("2024-02-29 01:02:03.5+02", "2024-02-28T23:02:03.500000Z"),
        ("2023-12-31 23:30:00-00:45", "2024-01-01T00:15:00.000000Z"),
        ("0044-03-15 12:34:56.000001+00 BC", "-0043-03-15T12:34:56.000001Z"),
        ("0001-01-01 00:00:00+00 BC", "0000-01-01T00:00:00.000000Z"),
        ("4713-01-01 00:00:00+00 BC", "-4712-01-01T00:00:00.000000Z"),
        ("294276-12-31 23:59:59.999999+00", "+294276-12-31T23:59:59.999999Z"),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
    ] {
        assert_eq!(zoned(text).unwrap(), format!("\"{expected}\""));
    }
    let of_digits = |digits, text| written(|text, out| timestamp_with_zone(digits, text, out), text).unwrap();
    assert_eq!(of_digits(3, "2024-02-28 23:02:03.12+00"), "\"2024-02-28T23:02:03.120Z\"");
    assert_eq!(of_digits(0, "2024-02-28 23:02:03+00"), "\"2024-02-28T23:02:03Z\"");
}

#[test]
fn a_day_that_does_not_exist_is_refused() {
    for text in [
        "2023-02-29",
        "1900-02-29",
        "2024-13-01",
        "2024-00-01",
        "2024-04-31",
        "2024-01-00",
        "0000-01-01",
        "24-01-01",
        "2024-1-1",
        "2024-01-01BC",
        "2024-01-01 AD",
        "20240101",
        "",
        "-2024-01-01",
        "10000-01-01 BC",
        "12345678-01-01",
    ] {
        assert!(written(date, text).is_err(), "{text:?} was accepted");
    }
    for text in ["2024-01-01", "2024-01-01T00:00:00", "2024-01-01 00:00:00+00", "Infinity", "2024-01-01 00:00:00 BC "] {
        assert!(micros(text).is_err(), "{text:?} was accepted");
    }
}

#[test]
fn every_day_comes_back_from_its_number() {
    let mut expected = Date { year: -4800, month: 1, day: 1 }.days();
    // Day after day over more than 400 years, so that every kind of year and century is among them.
    let mut previous = Date::of_days(expected - 1);
    for _ in 0..DAYS_PER_CYCLE + 1000 {
        let date = Date::of_days(expected);
        assert_eq!(date.days(), expected);
        let next_day = date.day == previous.day + 1 && (date.year, date.month) == (previous.year, previous.month);
        assert!(next_day || date.day == 1, "{previous:?} is followed by {date:?}");
        (previous, expected) = (date, expected + 1);
    }
    let mut random = Random::new(7);
    for _ in 0..100_000 {
        let days = random.below(2_150_000_000) as i64 - 2_440_588;
        assert_eq!(Date::of_days(days).days(), days);
    }
}

#[test]
fn a_timestamp_reads_the_same_with_and_without_a_zone() {
    let mut random = Random::new(3);
    for _ in 0..20_000 {
        let date = Date::of_days(random.below(120_000_000) as i64 - 2_440_588);
        let micros_of_day = random.below(MICROS_PER_DAY as u64) as i64;
        let (year, era) = if date.year < 1 { (1 - date.year, " BC") } else { (date.year, "") };
        let mut clock = Vec::new();
        write_clock(micros_of_day, &mut clock);
        let clock = String::from_utf8(clock).unwrap();
        let fraction = micros_of_day % MICROS_PER_SECOND;
        let text = format!("{year:04}-{:02}-{:02} {clock}.{fraction:06}", date.month, date.day);
        let expected = i128::from(date.days()) * i128::from(MICROS_PER_DAY) + i128::from(micros_of_day);
        assert_eq!(micros(&format!("{text}{era}")).unwrap(), expected.to_string());

        let sign = match date.year {
            ..0 => "-",
            0..=9999 => "",
            _ => "+",
        };
        let shown = date.year.abs();
        let expected = format!("\"{sign}{shown:04}-{:02}-{:02}T{clock}.{fraction:06}Z\"", date.month, date.day);
        assert_eq!(zoned(&format!("{text}+00{era}")).unwrap(), expected);
    }
}
