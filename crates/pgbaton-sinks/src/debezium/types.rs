//! Which representation a PostgreSQL type has in an event: one table from type OID to [`Kind`].
//! How a value of a kind is written is the business of [`super::value`].

/// How the values of a column are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One value.
    Scalar(Scalar),
    /// An array of any number of dimensions, as nested JSON arrays.
    Array(Scalar),
}

/// How one value, or one element of an array, is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    /// PostgreSQL's text as a JSON string.
    Text,
    /// As text; apart because an array of them has a placeholder of its own.
    Uuid,
    /// A JSON boolean.
    Bool,
    /// A JSON number without fraction, the digits as PostgreSQL prints them.
    Integer,
    /// A JSON number with a fraction or an exponent; NaN and infinities as strings.
    Float,
    /// numeric(p,s): base64 of the unscaled value, whose scale is fixed by the column.
    Decimal {
        /// Digits after the point; negative where the last digits before it are zeros.
        scale: i16,
    },
    /// numeric: scale and unscaled value.
    VariableDecimal,
    /// bytea: base64.
    Bytes,
    /// bit(1): a JSON boolean.
    Bit,
    /// bit(n), bit varying: base64, least significant byte first.
    Bits,
    /// Days since 1970-01-01.
    Date,
    /// Time of day.
    Time(Unit),
    /// Time of day in UTC, as text.
    TimeTz,
    /// Since 1970-01-01T00:00:00, without a zone.
    Timestamp(Unit),
    /// In UTC, as text.
    TimestampTz {
        /// Digits of the fraction of a second.
        digits: u8,
    },
    /// Microseconds, a month being 30.4375 days.
    Interval,
    /// Coordinates and their well-known binary form.
    Point,
}

/// The unit of a number that stands for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Columns of at most three fractional digits.
    Milliseconds,
    /// All others.
    Microseconds,
}

impl Kind {
    /// The kind of a column, or None where the type has no mapping of its own and is sent as text.
    pub(super) fn of(oid: u32, modifier: i32) -> Option<Kind> {
        match scalar(oid, modifier) {
            Some(scalar) => Some(Kind::Scalar(scalar)),
            None => scalar(element_of_array(oid)?, modifier).map(Kind::Array),
        }
    }

    /// What stands, as JSON, for a value that PostgreSQL did not send because the change left it alone.
    /// An array gets a value of its element's type, so that readers with a schema can still read it.
    pub(super) fn placeholder(self) -> &'static str {
        match self {
            Kind::Scalar(Scalar::Bytes | Scalar::Bits) => r#""X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==""#,
            Kind::Scalar(_) => r#""__debezium_unavailable_value""#,
            Kind::Array(Scalar::Bytes | Scalar::Bits) => r#"["X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="]"#,
            Kind::Array(Scalar::Integer) => {
                "[95,95,100,101,98,101,122,105,117,109,95,117,110,97,118,97,105,108,97,98,108,101,95,118,97,108,117,101]"
            }
            Kind::Array(Scalar::Uuid) => r#"["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]"#,
            Kind::Array(_) => r#"["__debezium_unavailable_value"]"#,
        }
    }
}

fn scalar(oid: u32, modifier: i32) -> Option<Scalar> {
    Some(match oid {
        16 => Scalar::Bool,
        17 => Scalar::Bytes,
        // int8, int2, int4, oid
        20 | 21 | 23 | 26 => Scalar::Integer,
        // float4, float8
        700 | 701 => Scalar::Float,
        1700 if modifier < NUMERIC_HEADER => Scalar::VariableDecimal,
        1700 => Scalar::Decimal { scale: numeric_scale(modifier) },
        1082 => Scalar::Date,
        1083 => Scalar::Time(unit(modifier)),
        1266 => Scalar::TimeTz,
        1114 => Scalar::Timestamp(unit(modifier)),
        1184 => Scalar::TimestampTz { digits: u8::try_from(modifier).unwrap_or(6).min(6) },
        1186 => Scalar::Interval,
        1560 if modifier == 1 => Scalar::Bit,
        1560 | 1562 => Scalar::Bits,
        600 => Scalar::Point,
        2950 => Scalar::Uuid,
        // "char", name, text, bpchar, varchar
        18 | 19 | 25 | 1042 | 1043 => Scalar::Text,
        // json, xml, jsonb, tsvector
        114 | 142 | 3802 | 3614 => Scalar::Text,
        // cidr, macaddr8, macaddr, inet
        650 | 774 | 829 | 869 => Scalar::Text,
        // int4range, numrange, tsrange, tstzrange, daterange, int8range
        3904 | 3906 | 3908 | 3910 | 3912 | 3926 => Scalar::Text,
        _ => return None,
    })
}

/// The element type of those arrays whose elements are separated by commas and have a mapping.
fn element_of_array(oid: u32) -> Option<u32> {
    Some(match oid {
        1000 => 16,
        1001 => 17,
        1002 => 18,
        1003 => 19,
        1016 => 20,
        1005 => 21,
        1007 => 23,
        1009 => 25,
        1028 => 26,
        199 => 114,
        143 => 142,
        1017 => 600,
        651 => 650,
        1021 => 700,
        1022 => 701,
        775 => 774,
        1040 => 829,
        1041 => 869,
        1014 => 1042,
        1015 => 1043,
        1182 => 1082,
        1183 => 1083,
        1115 => 1114,
        1185 => 1184,
        1187 => 1186,
        1270 => 1266,
        1561 => 1560,
        1563 => 1562,
        1231 => 1700,
        2951 => 2950,
        3643 => 3614,
        3807 => 3802,
        3905 => 3904,
        3907 => 3906,
        3909 => 3908,
        3911 => 3910,
        3913 => 3912,
        3927 => 3926,
        _ => return None,
    })
}

/// PostgreSQL adds the size of a varlena header to the modifier of a numeric, so that 0 is not a modifier.
const NUMERIC_HEADER: i32 = 4;

/// The scale is the low eleven bits, signed since PostgreSQL 15.
fn numeric_scale(modifier: i32) -> i16 {
    let bits = (modifier - NUMERIC_HEADER) & 0x7FF;
    ((bits ^ 0x400) - 0x400) as i16
}

fn unit(modifier: i32) -> Unit {
    match modifier {
        0..=3 => Unit::Milliseconds,
        _ => Unit::Microseconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Modifiers as PostgreSQL 15 stores them in `pg_attribute`.
    #[test]
    fn the_modifier_of_a_numeric_gives_its_scale() {
        for (modifier, scale) in [(655366, 2), (329730, -2), (196617, 5)] {
            assert_eq!(Kind::of(1700, modifier), Some(Kind::Scalar(Scalar::Decimal { scale })));
        }
        assert_eq!(Kind::of(1700, -1), Some(Kind::Scalar(Scalar::VariableDecimal)));
        assert_eq!(Kind::of(1231, 655366), Some(Kind::Array(Scalar::Decimal { scale: 2 })));
    }

    #[test]
    fn a_type_without_a_mapping_has_no_kind() {
        for oid in [0, 603, 790, 16384, u32::MAX] {
            assert_eq!(Kind::of(oid, -1), None, "{oid}");
        }
    }

    #[test]
    fn placeholders_are_json_of_the_right_type() {
        use serde_json::{Value, json};
        let parse = |kind: Kind| serde_json::from_str::<Value>(kind.placeholder()).unwrap();
        let codes: Vec<u8> = parse(Kind::Array(Scalar::Integer))
            .as_array()
            .unwrap()
            .iter()
            .map(|code| code.as_u64().unwrap() as u8)
            .collect();
        assert_eq!(codes, b"__debezium_unavailable_value");
        assert_eq!(parse(Kind::Scalar(Scalar::Text)), json!("__debezium_unavailable_value"));
        assert_eq!(parse(Kind::Array(Scalar::Text)), json!(["__debezium_unavailable_value"]));
        let mut encoded = Vec::new();
        crate::debezium::binary::Base64::write(b"__debezium_unavailable_value", &mut encoded);
        assert_eq!(Kind::Scalar(Scalar::Bytes).placeholder().as_bytes(), encoded);
    }
}
