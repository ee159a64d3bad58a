//! A value of an event in the words in which PostgreSQL's jsonb tells the same value, by the column's type.
//!
//! Written from the description of the event format alone; nothing is shared with the code that makes events.

use base64::Engine;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a column's values are told by an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// As PostgreSQL prints them: text, whole numbers, booleans, uuid, enums.
    Plain,
    /// JSON in a string.
    Json,
    /// Floating point: compared by value.
    Float,
    /// `numeric(p,s)`: base64 of the unscaled number.
    Decimal(i16),
    /// `numeric`: scale and unscaled number.
    Variable,
    /// `timestamptz`: text in UTC.
    Zoned,
    /// `timestamp`: milli- or microseconds since 1970.
    Timestamp {
        /// Units in a second.
        per_second: i64,
    },
    /// Days since 1970.
    Date,
    /// `bytea`: base64.
    Bytes,
    /// Of a type that is not read here: only null and not null are told apart.
    Opaque,
}

impl Kind {
    /// By the name of the type and its modifier, as `pg_attribute` has them.
    pub fn of(type_name: &str, is_enum: bool, modifier: i32) -> Self {
        match type_name {
            _ if is_enum => Kind::Plain,
            "bool" | "int2" | "int4" | "int8" | "oid" | "text" | "varchar" | "bpchar" | "name" | "uuid" | "citext"
            | "inet" | "cidr" | "macaddr" | "macaddr8" | "xml" => Kind::Plain,
            "json" | "jsonb" => Kind::Json,
            "float4" | "float8" => Kind::Float,
            "numeric" if modifier < 4 => Kind::Variable,
            // The lower eleven bits, two's complement.
            "numeric" => Kind::Decimal((((modifier - 4) & 0x7FF) ^ 1024) as i16 - 1024),
            "timestamptz" => Kind::Zoned,
            "timestamp" => Kind::Timestamp { per_second: if (0..=3).contains(&modifier) { 1_000 } else { 1_000_000 } },
            "date" => Kind::Date,
            "bytea" => Kind::Bytes,
            _ => Kind::Opaque,
        }
    }

    /// What an event says, in the words of jsonb; `None` if it cannot be a value of this type.
    pub fn told(self, text: &str) -> Option<String> {
        Some(match self {
            Kind::Plain => text.to_owned(),
            Kind::Json => json(text)?,
            Kind::Float => text.parse::<f64>().ok()?.to_string(),
            Kind::Decimal(scale) => decimal(text, i64::from(scale))?,
            Kind::Variable => {
                let value: Value = serde_json::from_str(text).ok()?;
                decimal(value["value"].as_str()?, value["scale"].as_i64()?)?
            }
            Kind::Zoned => {
                let time = text.strip_suffix('Z')?;
                let time = if time.contains('.') { time.trim_end_matches('0').trim_end_matches('.') } else { time };
                format!("{time}+00:00")
            }
            Kind::Timestamp { per_second } => timestamp(text.parse().ok()?, per_second)?,
            Kind::Date => date(text.parse().ok()?),
            Kind::Bytes => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
                format!("\\x{}", super::row::hex(&bytes))
            }
            Kind::Opaque => "(a value)".into(),
        })
    }

    /// What jsonb says of a stored value, made comparable with [`Kind::told`].
    pub fn stored(self, text: &str) -> String {
        match self {
            Kind::Json => json(text).unwrap_or_else(|| text.to_owned()),
            Kind::Float => text.parse::<f64>().map_or_else(|_| text.to_owned(), |number| number.to_string()),
            Kind::Opaque => "(a value)".into(),
            _ => text.to_owned(),
        }
    }
}

/// Objects and lists as they are written: jsonb prints them in one way only, json as they came. A text without its quotes.
fn json(text: &str) -> Option<String> {
    match serde_json::from_str(text) {
        Ok(Value::String(text)) => Some(text),
        _ => Some(text.to_owned()),
    }
}

fn decimal(base64: &str, scale: i64) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).ok()?;
    let mut digits = unscaled(&bytes)?;
    let sign = if digits.starts_with('-') { digits.remove(0).to_string() } else { String::new() };
    match usize::try_from(scale) {
        Err(_) if digits == "0" => {}
        Err(_) => digits.extend(std::iter::repeat_n('0', usize::try_from(-scale).ok()?)),
        Ok(0) => {}
        Ok(scale) => {
            let missing = (scale + 1).saturating_sub(digits.len());
            digits.insert_str(0, &"0".repeat(missing));
            digits.insert(digits.len() - scale, '.');
        }
    }
    Some(sign + &digits)
}

/// A two's complement number of any length, most significant byte first, in decimal digits.
fn unscaled(bytes: &[u8]) -> Option<String> {
    let negative = bytes.first()? & 0x80 != 0;
    // Little by little: digits in base 10^9, least significant first.
    let mut parts: Vec<u64> = vec![0];
    let mut times_256_plus = |add: u64| {
        let mut carry = add;
        for part in &mut parts {
            let sum = *part * 256 + carry;
            *part = sum % 1_000_000_000;
            carry = sum / 1_000_000_000;
        }
        if carry > 0 {
            parts.push(carry);
        }
    };
    for byte in bytes {
        times_256_plus(u64::from(if negative { !byte } else { *byte }));
    }
    if negative {
        // Minus x is not x, plus 1.
        let mut index = 0;
        loop {
            parts[index] += 1;
            if parts[index] < 1_000_000_000 {
                break;
            }
            parts[index] = 0;
            index += 1;
            if index == parts.len() {
                parts.push(0);
            }
        }
    }
    let mut digits = parts.pop()?.to_string();
    for part in parts.iter().rev() {
        digits.push_str(&format!("{part:09}"));
    }
    Some(if negative { format!("-{digits}") } else { digits })
}

fn timestamp(units: i64, per_second: i64) -> Option<String> {
    let (seconds, rest) = (units.div_euclid(per_second), units.rem_euclid(per_second));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let digits = if per_second == 1_000 { 3 } else { 6 };
    let fraction = format!(".{rest:0digits$}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    Some(format!("{}T{:02}:{:02}:{:02}{fraction}", date(days), second / 3600, second / 60 % 60, second % 60))
}

/// The proleptic Gregorian day that is so many days after 1970-01-01.
fn date(days: i64) -> String {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_as_jsonb_tells_them() {
        for (kind, told, stored) in [
            (Kind::of("numeric", false, 4 + (12 << 16) + 2), "MDk=", "123.45"),
            (Kind::of("numeric", false, 4 + (12 << 16) + 2), "/w==", "-0.01"),
            (Kind::of("numeric", false, -1), r#"{"scale":3,"value":"AA=="}"#, "0.000"),
            (Kind::of("numeric", false, -1), r#"{"scale":0,"value":"AQAAAAAAAAAAAA=="}"#, "4722366482869645213696"),
            (Kind::of("numeric", false, -1), r#"{"scale":1,"value":"gA=="}"#, "-12.8"),
            (Kind::of("timestamptz", false, -1), "2026-11-21T05:47:09.120000Z", "2026-11-21T05:47:09.12+00:00"),
            (Kind::of("timestamptz", false, -1), "2026-11-21T05:47:00Z", "2026-11-21T05:47:00+00:00"),
            (Kind::of("timestamp", false, -1), "-1", "1969-12-31T23:59:59.999999"),
            (Kind::of("timestamp", false, 3), "1709161383000", "2024-02-28T23:03:03"),
            (Kind::of("date", false, -1), "19782", "2024-02-29"),
            (Kind::of("date", false, -1), "-1", "1969-12-31"),
            (Kind::of("bytea", false, -1), "AP8=", "\\x00ff"),
            (Kind::of("int8", false, -1), "-5", "-5"),
            (Kind::of("jsonb", false, -1), r#"{"a": [1, null]}"#, r#"{"a": [1, null]}"#),
        ] {
            assert_eq!(kind.told(told).as_deref(), Some(stored), "{kind:?} {told}");
        }
        assert_eq!(Kind::Float.told("1e20"), Some(Kind::Float.stored("100000000000000000000")));
        assert_eq!(Kind::Date.told("x"), None);
    }
}
