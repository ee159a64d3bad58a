//! Arrays in PostgreSQL's text form, as nested JSON arrays.
//!
//! Dimensions and NULL elements are kept. Lower bounds other than 1 (`[0:2]={...}`) are not: the envelope has no place
//! for them.

use super::types::Scalar;
use super::value::{Fault, scalar};

/// What stood before the place that is read.
#[derive(PartialEq, Eq)]
enum Before {
    Opening,
    Comma,
    Value,
}

/// Appends an array. `scratch` holds an element that has to be unescaped.
pub(super) fn write(element: Scalar, text: &[u8], out: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Result<(), Fault> {
    let mut rest = without_bounds(text)?;
    let mut depth = 0_usize;
    let mut before = Before::Comma;
    while let [byte, after @ ..] = rest {
        let value_expected = before != Before::Value;
        match byte {
            b'{' if value_expected => {
                out.push(b'[');
                depth += 1;
                before = Before::Opening;
                rest = after;
                continue;
            }
            _ if depth == 0 => return Err(Fault::Malformed),
            b'}' if before != Before::Comma => {
                out.push(b']');
                depth -= 1;
                before = Before::Value;
                rest = after;
                continue;
            }
            b',' if !value_expected => {
                out.push(b',');
                before = Before::Comma;
                rest = after;
                continue;
            }
            b'"' if value_expected => {
                let (value, after) = quoted_element(after, scratch)?;
                scalar(element, value, out)?;
                rest = after;
            }
            _ if value_expected => {
                let (value, after) = bare_element(rest)?;
                match value {
                    b"NULL" => out.extend_from_slice(b"null"),
                    value => scalar(element, value, out)?,
                }
                rest = after;
            }
            _ => return Err(Fault::Malformed),
        }
        before = Before::Value;
    }
    if depth == 0 && before == Before::Value { Ok(()) } else { Err(Fault::Malformed) }
}

fn without_bounds(text: &[u8]) -> Result<&[u8], Fault> {
    if !text.starts_with(b"[") {
        return Ok(text);
    }
    let equals = text.iter().position(|byte| *byte == b'=').ok_or(Fault::Malformed)?;
    Ok(&text[equals + 1..])
}

/// An element up to its closing quote, and what follows. `text` starts behind the opening quote.
fn quoted_element<'s, 'a: 's>(text: &'a [u8], scratch: &'s mut Vec<u8>) -> Result<(&'s [u8], &'a [u8]), Fault> {
    let special = |text: &[u8]| text.iter().position(|byte| matches!(byte, b'"' | b'\\'));
    let first = special(text).ok_or(Fault::Malformed)?;
    if text[first] == b'"' {
        return Ok((&text[..first], &text[first + 1..]));
    }
    scratch.clear();
    let mut rest = text;
    loop {
        let at = special(rest).ok_or(Fault::Malformed)?;
        scratch.extend_from_slice(&rest[..at]);
        if rest[at] == b'"' {
            return Ok((scratch, &rest[at + 1..]));
        }
        scratch.push(*rest.get(at + 1).ok_or(Fault::Malformed)?);
        rest = &rest[at + 2..];
    }
}

/// An element without quotes, and what follows: it ends before a comma or a closing brace.
fn bare_element(text: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let end = text.iter().position(|byte| matches!(byte, b',' | b'}'));
    let (element, rest) = text.split_at(end.ok_or(Fault::Malformed)?);
    let quotable = |byte: &u8| matches!(byte, b'{' | b'"' | b'\\');
    if element.is_empty() || element.iter().any(quotable) {
        return Err(Fault::Malformed);
    }
    Ok((element, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(element: Scalar, text: &str) -> Result<String, Fault> {
        let mut out = Vec::new();
        write(element, text.as_bytes(), &mut out, &mut Vec::new())?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// Texts as PostgreSQL 15 prints them.
    #[test]
    fn arrays_keep_their_shape_and_their_nulls() {
        for (element, text, expected) in [
            (Scalar::Integer, "{1,NULL,3}", "[1,null,3]"),
            (Scalar::Integer, "{}", "[]"),
            (Scalar::Integer, "[0:2]={1,NULL,3}", "[1,null,3]"),
            (Scalar::Integer, "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
            (Scalar::Integer, "[1:1][-2:-1]={{1,2}}", "[[1,2]]"),
            (Scalar::Integer, "{{{{{{1}}}}}}", "[[[[[[1]]]]]]"),
            (Scalar::Bool, "{t,f,NULL}", "[true,false,null]"),
            (Scalar::Text, r#"{a,NULL,"c d"}"#, r#"["a",null,"c d"]"#),
            (
                Scalar::Text,
                r#"{"NULL",NULL,"a\"b","c\\d","{x}","","a,b"," s "}"#,
                r#"["NULL",null,"a\"b","c\\d","{x}","","a,b"," s "]"#,
            ),
            (Scalar::Text, r#"{"{\"a\": \"b\"}"}"#, r#"["{\"a\": \"b\"}"]"#),
            (Scalar::Bytes, r#"{"\\x00ff"}"#, r#"["AP8="]"#),
            (Scalar::Bits, "{101,0}", r#"["BQ==",""]"#),
            (Scalar::TimestampTz { digits: 6 }, r#"{"2024-02-29 01:02:03+00"}"#, r#"["2024-02-29T01:02:03.000000Z"]"#),
            (Scalar::Interval, r#"{"1 day 02:00:00"}"#, "[93600000000]"),
            (Scalar::VariableDecimal, "{1.5,2}", r#"[{"scale":1,"value":"Dw=="},{"scale":0,"value":"Ag=="}]"#),
        ] {
            assert_eq!(written(element, text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for text in [
            "", "1", "{", "}", "{1", "{1}}", "{1}{2}", "{1}1", "{,}", "{1,}", "{,1}", "{1,,2}", "{{1}", "{{1}{2}}",
            "{\"1}", "{\"1\\", "{1\"}", "[0:1]", "{1}x", "{1}\"x\"", "{\"1\"2}", "{{1}2}", "{}{", "{},",
        ] {
            assert!(written(Scalar::Integer, text).is_err(), "{text:?} was accepted");
        }
    }
}
