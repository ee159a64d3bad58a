//! One value in PostgreSQL's text form, written as JSON. What the text cannot mean is a [`Fault`], never a guess.
//!
//! The text is what a session with `DateStyle` ISO, `TimeZone` UTC, `IntervalStyle` postgres, `extra_float_digits` 3
//! and `bytea_output` hex prints.

use super::types::{Kind, Scalar};
use super::{array, binary, calendar, decimal, interval};

/// Why a value could not be written. It does not carry the value, which must never reach a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A text that is not UTF-8, as a SQL_ASCII database can send it.
    NotUtf8,
    /// Not what PostgreSQL prints for the type.
    Malformed,
}

/// Appends a value. `scratch` is for taking apart array elements; what it holds before and after does not matter.
/// After a fault `out` may end in an incomplete value.
pub(super) fn write(kind: Kind, text: &[u8], out: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Result<(), Fault> {
    match kind {
        Kind::Scalar(kind) => scalar(kind, text, out),
        Kind::Array(element) => array::write(element, text, out, scratch),
    }
}

pub(super) fn scalar(kind: Scalar, text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    match kind {
        Scalar::Text | Scalar::Uuid => string(text, out),
        Scalar::Bool => boolean(text, [b"f", b"t"], out),
        Scalar::Bit => boolean(text, [b"0", b"1"], out),
        Scalar::Integer => whole_number(text, out),
        Scalar::Float => float(text, out),
        Scalar::Decimal { scale } => decimal::fixed(scale, text, out),
        Scalar::VariableDecimal => decimal::variable(text, out),
        Scalar::Bytes => binary::bytes(text, out),
        Scalar::Bits => binary::bits(text, out),
        Scalar::Date => calendar::date(text, out),
        Scalar::Time(unit) => calendar::time(unit, text, out),
        Scalar::TimeTz => calendar::time_with_zone(text, out),
        Scalar::Timestamp(unit) => calendar::timestamp(unit, text, out),
        Scalar::TimestampTz { digits } => calendar::timestamp_with_zone(digits, text, out),
        Scalar::Interval => interval::write(text, out),
        Scalar::Point => point(text, out),
    }
}

/// Appends a string that needs no escaping.
pub(super) fn quoted(plain: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(plain);
    out.push(b'"');
}

/// Appends a number of ours.
pub(super) fn integer(number: impl serde::Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, &number).expect("a number can be written to memory");
}

/// Appends a text of ours, escaped.
pub(super) fn escaped(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a text can be written to memory");
}

fn string(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    if is_plain(text) {
        quoted(text, out);
        return Ok(());
    }
    escaped(std::str::from_utf8(text).map_err(|_| Fault::NotUtf8)?, out);
    Ok(())
}

/// ASCII without anything that JSON escapes: most texts, and checked in a fraction of the time that validating and
/// escaping take. The loop has no early exit so that the compiler can take many bytes at once.
fn is_plain(text: &[u8]) -> bool {
    let is_special = |byte: u8| !(0x20..0x80).contains(&byte) | (byte == b'"') | (byte == b'\\');
    let (blocks, rest) = text.as_chunks::<16>();
    let in_block = |block: &[u8; 16]| block.iter().fold(false, |found, byte| found | is_special(*byte));
    !blocks.iter().any(in_block) && !rest.iter().fold(false, |found, byte| found | is_special(*byte))
}

fn boolean(text: &[u8], [no, yes]: [&[u8]; 2], out: &mut Vec<u8>) -> Result<(), Fault> {
    if text == yes {
        out.extend_from_slice(b"true");
    } else if text == no {
        out.extend_from_slice(b"false");
    } else {
        return Err(Fault::Malformed);
    }
    Ok(())
}

fn whole_number(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    match NumberShape::of(text)? {
        NumberShape::Whole => out.extend_from_slice(text),
        NumberShape::Real => return Err(Fault::Malformed),
    }
    Ok(())
}

/// JSON has no NaN and no infinity. As strings they are what Kafka Connect's JSON converter writes, too.
fn float(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    if let b"NaN" | b"Infinity" | b"-Infinity" = text {
        quoted(text, out);
        return Ok(());
    }
    let shape = NumberShape::of(text)?;
    out.extend_from_slice(text);
    if shape == NumberShape::Whole {
        // Else `-0` would lose its sign, and 1 its type, in a reader that tells integers from floats.
        out.extend_from_slice(b".0");
    }
    Ok(())
}

/// Whether a JSON number is written with digits only.
#[derive(PartialEq, Eq)]
enum NumberShape {
    Whole,
    Real,
}

impl NumberShape {
    fn of(text: &[u8]) -> Result<Self, Fault> {
        let unsigned = text.strip_prefix(b"-").unwrap_or(text);
        let (whole, rest) = split_digits(unsigned);
        if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
            return Err(Fault::Malformed);
        }
        if rest.is_empty() {
            return Ok(NumberShape::Whole);
        }
        let rest = match rest.strip_prefix(b".").map(split_digits) {
            Some(([], _)) => return Err(Fault::Malformed),
            Some((_, rest)) => rest,
            None => rest,
        };
        match rest {
            [] => Ok(NumberShape::Real),
            [b'e' | b'E', b'+' | b'-', exponent @ ..] | [b'e' | b'E', exponent @ ..] => match split_digits(exponent) {
                ([_, ..], []) => Ok(NumberShape::Real),
                _ => Err(Fault::Malformed),
            },
            _ => Err(Fault::Malformed),
        }
    }
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    text.split_at(count)
}

/// `(x,y)` as coordinates and as little-endian well-known binary, of no known reference system.
fn point(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let inner = text.strip_prefix(b"(").and_then(|text| text.strip_suffix(b")"));
    let inner = inner.ok_or(Fault::Malformed)?;
    let comma = inner.iter().position(|byte| *byte == b',').ok_or(Fault::Malformed)?;
    let (x, y) = (&inner[..comma], &inner[comma + 1..]);
    out.extend_from_slice(b"{\"x\":");
    float(x, out)?;
    out.extend_from_slice(b",\"y\":");
    float(y, out)?;
    out.extend_from_slice(b",\"wkb\":");
    let mut well_known = [0; 21];
    // Byte order 1 (little-endian), geometry type 1 (point).
    well_known[..5].copy_from_slice(&[1, 1, 0, 0, 0]);
    well_known[5..13].copy_from_slice(&parsed(x)?.to_le_bytes());
    well_known[13..].copy_from_slice(&parsed(y)?.to_le_bytes());
    binary::Base64::write(&well_known, out);
    out.extend_from_slice(b",\"srid\":null}");
    Ok(())
}

fn parsed(float: &[u8]) -> Result<f64, Fault> {
    let text = std::str::from_utf8(float).map_err(|_| Fault::NotUtf8)?;
    text.parse().map_err(|_| Fault::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: Scalar, text: &[u8]) -> Result<String, Fault> {
        let mut out = Vec::new();
        scalar(kind, text, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_text_arrives_whatever_is_in_it() {
        for text in ["", "\"\\/\u{8}\u{c}\n\r\t\u{1}\u{7f}", "é\u{301}😀\u{202e}\u{5e2}\u{5d1}", "\u{2028}", "ab   "]
        {
            let json = written(Scalar::Text, text.as_bytes()).unwrap();
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
        assert_eq!(written(Scalar::Text, b"gr\xFCn"), Err(Fault::NotUtf8));
    }

    #[test]
    fn booleans_are_what_postgresql_prints_and_nothing_else() {
        assert_eq!(written(Scalar::Bool, b"t").unwrap(), "true");
        assert_eq!(written(Scalar::Bool, b"f").unwrap(), "false");
        assert_eq!(written(Scalar::Bit, b"1").unwrap(), "true");
        assert_eq!(written(Scalar::Bit, b"0").unwrap(), "false");
        for text in ["", "true", "1", "T", "tf"] {
            assert_eq!(written(Scalar::Bool, text.as_bytes()), Err(Fault::Malformed));
        }
    }

    #[test]
    fn integers_keep_their_digits() {
        for text in ["0", "-1", "9223372036854775807", "-9223372036854775808", "4294967295"] {
            assert_eq!(written(Scalar::Integer, text.as_bytes()).unwrap(), text);
        }
        for text in ["", "-", "+1", "01", "1.0", "1e3", " 1", "1 ", "0x1", "NaN"] {
            assert_eq!(written(Scalar::Integer, text.as_bytes()), Err(Fault::Malformed), "{text:?}");
        }
    }

    /// Texts as PostgreSQL 15 prints them.
    #[test]
    fn floats_are_the_same_number_in_json() {
        for text in [
            "1e+20",
            "1e-05",
            "-0",
            "1",
            "1.5",
            "5e-324",
            "1.7976931348623157e+308",
            "3.4028235e+38",
            "0.1",
            "1e+15",
            "123456789012345",
        ] {
            let json = written(Scalar::Float, text.as_bytes()).unwrap();
            let number: serde_json::Value = serde_json::from_str(&json).unwrap();
            let expected: f64 = text.parse().unwrap();
            assert!(number.is_f64(), "{json} is not read as a float");
            assert_eq!(number.as_f64().unwrap().to_bits(), expected.to_bits(), "{text}");
        }
        for text in ["NaN", "Infinity", "-Infinity"] {
            assert_eq!(written(Scalar::Float, text.as_bytes()).unwrap(), format!("\"{text}\""));
        }
        for text in ["", "-", ".5", "1.", "1.e5", "1e", "1e+", "inf", "00.1", "1.5.5", "+1"] {
            assert_eq!(written(Scalar::Float, text.as_bytes()), Err(Fault::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_point_carries_its_binary_form() {
        assert_eq!(
            written(Scalar::Point, b"(1,2)").unwrap(),
            r#"{"x":1.0,"y":2.0,"wkb":"AQEAAAAAAAAAAADwPwAAAAAAAABA","srid":null}"#
        );
        assert!(written(Scalar::Point, b"(-0,Infinity)").unwrap().starts_with(r#"{"x":-0.0,"y":"Infinity","#));
        for text in ["", "()", "(1)", "(1,)", "1,2", "(1,2,3)", "((1,2)"] {
            assert_eq!(written(Scalar::Point, text.as_bytes()), Err(Fault::Malformed), "{text:?}");
        }
    }
}
