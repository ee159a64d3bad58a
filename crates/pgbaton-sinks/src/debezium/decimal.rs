//! Numerics, exactly: the unscaled value as big-endian two's complement in base64. Never through a float.

use super::binary::Base64;
use super::value::Fault;

/// Powers of ten up to here fit a `u64`, so a longer number is read in groups of so many digits.
const GROUP: usize = 19;

/// As many decimal digits always fit an `i64`, and an `i128`.
const SHORT: usize = 18;
const LONG: usize = 38;

/// A value of numeric(p,s). It can hold NaN, which is written as the string `NaN` (too short to be base64), and no
/// infinity: that would be a string of valid base64, so it is refused.
pub(super) fn fixed(scale: i16, text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    if text == b"NaN" {
        out.extend_from_slice(b"\"NaN\"");
        return Ok(());
    }
    let mut number = Number::parse(text)?;
    let wanted = usize::try_from(scale).unwrap_or(0);
    let zeros = wanted.checked_sub(number.fraction.len()).ok_or(Fault::Malformed)?;
    if scale < 0 && number.integer != b"0" {
        let rounded = usize::from(scale.unsigned_abs());
        let kept = number.integer.len().checked_sub(rounded).ok_or(Fault::Malformed)?;
        let (digits, rest) = number.integer.split_at(kept);
        if rest.iter().any(|digit| *digit != b'0') {
            return Err(Fault::Malformed);
        }
        number.integer = digits;
    }
    number.write_unscaled(zeros, out);
    Ok(())
}

/// A value of numeric without a declared scale: `{"scale":S,"value":BASE64}`, its trailing zeros kept as PostgreSQL
/// prints them. NaN and the infinities, which have no scale, are plain strings.
pub(super) fn variable(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    if let b"NaN" | b"Infinity" | b"-Infinity" = text {
        super::value::quoted(text, out);
        return Ok(());
    }
    let number = Number::parse(text)?;
    out.extend_from_slice(b"{\"scale\":");
    super::value::integer(number.fraction.len(), out);
    out.extend_from_slice(b",\"value\":");
    number.write_unscaled(0, out);
    out.push(b'}');
    Ok(())
}

struct Number<'a> {
    negative: bool,
    integer: &'a [u8],
    fraction: &'a [u8],
}

impl<'a> Number<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, Fault> {
        let (negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        let (integer, fraction) = match digits.iter().position(|byte| *byte == b'.') {
            Some(point) if point + 1 < digits.len() => (&digits[..point], &digits[point + 1..]),
            Some(_) => return Err(Fault::Malformed),
            None => (digits, &[][..]),
        };
        let all_digits = integer.iter().chain(fraction).all(u8::is_ascii_digit);
        if integer.is_empty() || !all_digits {
            return Err(Fault::Malformed);
        }
        Ok(Number { negative, integer, fraction })
    }

    /// The digits, followed by so many `zeros`, as one integer.
    fn write_unscaled(&self, zeros: usize, out: &mut Vec<u8>) {
        let count = self.integer.len() + self.fraction.len() + zeros;
        let digits = self.integer.iter().chain(self.fraction).map(|digit| digit - b'0');
        let digits = digits.chain(std::iter::repeat_n(0, zeros));
        if count <= SHORT {
            let magnitude = digits.fold(0_i64, |sum, digit| sum * 10 + i64::from(digit));
            let value = if self.negative { -magnitude } else { magnitude };
            write_shortest(&value.to_be_bytes(), out);
        } else if count <= LONG {
            let magnitude = digits.fold(0_i128, |sum, digit| sum * 10 + i128::from(digit));
            let value = if self.negative { -magnitude } else { magnitude };
            write_shortest(&value.to_be_bytes(), out);
        } else {
            write_shortest(&twos_complement(self.negative, digits, count), out);
        }
    }
}

/// Big-endian two's complement of a number of `count` digits, with at least one byte for the sign.
fn twos_complement(negative: bool, mut digits: impl Iterator<Item = u8>, count: usize) -> Vec<u8> {
    // Least significant first.
    let mut limbs: Vec<u64> = Vec::with_capacity(count / GROUP + 2);
    let mut length = count % GROUP;
    let mut left = count;
    while left > 0 {
        // Only the first group may be short, so that every later one multiplies by the same power.
        let taken = if length == 0 { GROUP } else { length };
        let group = digits.by_ref().take(taken).fold(0_u64, |sum, digit| sum * 10 + u64::from(digit));
        let mut carry = u128::from(group);
        for limb in &mut limbs {
            carry += u128::from(*limb) * u128::from(10_u64.pow(taken as u32));
            *limb = carry as u64;
            carry >>= 64;
        }
        if carry > 0 {
            limbs.push(carry as u64);
        }
        left -= taken;
        length = 0;
    }
    limbs.push(0);
    if negative {
        let mut carry = true;
        for limb in &mut limbs {
            (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
        }
    }
    limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()).collect()
}

/// Leaves out the leading bytes that only repeat the sign, as Java's `BigInteger.toByteArray` does.
fn write_shortest(twos_complement: &[u8], out: &mut Vec<u8>) {
    let mut bytes = twos_complement;
    while let [0x00, 0x00..=0x7F, ..] | [0xFF, 0x80..=0xFF, ..] = bytes {
        bytes = &bytes[1..];
    }
    Base64::write(bytes, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debezium::sample::{Random, unscaled_digits};

    fn fixed_text(scale: i16, text: &str) -> Result<String, Fault> {
        let mut out = Vec::new();
        fixed(scale, text.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn variable_text(text: &str) -> Result<String, Fault> {
        let mut out = Vec::new();
        variable(text.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn known_values_are_written_as_debezium_writes_them() {
        assert_eq!(fixed_text(2, "123.45").unwrap(), "\"MDk=\"");
        assert_eq!(fixed_text(0, "0").unwrap(), "\"AA==\"");
        assert_eq!(fixed_text(0, "127").unwrap(), "\"fw==\"");
        assert_eq!(fixed_text(0, "128").unwrap(), "\"AIA=\"");
        assert_eq!(fixed_text(0, "-128").unwrap(), "\"gA==\"");
        assert_eq!(fixed_text(0, "-129").unwrap(), "\"/38=\"");
        assert_eq!(variable_text("987.654321").unwrap(), "{\"scale\":6,\"value\":\"Ot5osQ==\"}");
        assert_eq!(variable_text("1.5").unwrap(), "{\"scale\":1,\"value\":\"Dw==\"}");
        assert_eq!(variable_text("2").unwrap(), "{\"scale\":0,\"value\":\"Ag==\"}");
    }

    #[test]
    fn a_negative_scale_counts_in_hundreds() {
        assert_eq!(fixed_text(-2, "12300").unwrap(), fixed_text(0, "123").unwrap());
        assert_eq!(fixed_text(-2, "-100").unwrap(), fixed_text(0, "-1").unwrap());
        assert_eq!(fixed_text(-2, "0").unwrap(), fixed_text(0, "0").unwrap());
        assert!(fixed_text(-2, "12345").is_err());
        assert!(fixed_text(-2, "5").is_err());
    }

    #[test]
    fn a_number_that_does_not_fit_its_column_is_refused_and_not_rounded() {
        for (scale, text) in [(2, "1.234"), (0, "1.0"), (2, "Infinity"), (2, "-Infinity")] {
            assert!(fixed_text(scale, text).is_err(), "{text} was accepted for scale {scale}");
        }
    }

    #[test]
    fn special_values_are_strings_that_no_number_can_be() {
        assert_eq!(fixed_text(2, "NaN").unwrap(), "\"NaN\"");
        for text in ["NaN", "Infinity", "-Infinity"] {
            assert_eq!(variable_text(text).unwrap(), format!("\"{text}\""));
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "-", ".", "1.", ".5", "+1", "1e5", "1.2.3", "--1", "1 ", "0x1", "nan", "\u{661}"] {
            assert!(variable_text(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn every_digit_of_a_number_of_any_length_comes_back() {
        let mut random = Random::new(1);
        for round in 0..3000 {
            let length = 1 + random.below(if round % 100 == 0 { 4000 } else { 60 }) as usize;
            let mut digits: String = (0..length).map(|_| char::from(b'0' + random.below(10) as u8)).collect();
            if random.below(3) == 0 {
                digits = format!("{}{}", digits, "0".repeat(random.below(40) as usize));
            }
            let point = random.below(digits.len() as u64) as usize;
            let sign = if random.below(2) == 0 { "-" } else { "" };
            let (integer, fraction) = digits.split_at(digits.len() - point);
            let text = match fraction {
                "" => format!("{sign}{integer}"),
                fraction => format!("{sign}{integer}.{fraction}"),
            };
            let value: serde_json::Value = serde_json::from_str(&variable_text(&text).unwrap()).unwrap();
            assert_eq!(value["scale"], fraction.len(), "{text}");
            let unscaled = unscaled_digits(value["value"].as_str().unwrap());
            let stripped = digits.trim_start_matches('0');
            let expected = if stripped.is_empty() { "0".to_owned() } else { format!("{sign}{stripped}") };
            assert_eq!(unscaled, expected, "{text}");

            // The same number in a column of a larger scale is the same digits with zeros behind.
            let wider = fraction.len() as i16 + 3;
            let padded = unscaled_digits(fixed_text(wider, &text).unwrap().trim_matches('"'));
            let expected = if stripped.is_empty() { "0".to_owned() } else { format!("{expected}000") };
            assert_eq!(padded, expected, "{text}");
        }
    }

    #[test]
    fn the_longest_number_of_postgresql_is_written() {
        let text = format!("-{}.{}", "9".repeat(131_072), "9".repeat(16_383));
        let mut out = Vec::new();
        variable(text.as_bytes(), &mut out).unwrap();
        assert!(out.starts_with(b"{\"scale\":16383,\"value\":\""));
    }
}
