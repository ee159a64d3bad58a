//! Byte strings and bit strings, both base64 in JSON.

use super::value::Fault;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A JSON string of base64 that is written byte by byte. Nothing ends it but [`Base64::finish`].
pub(super) struct Base64<'a> {
    out: &'a mut Vec<u8>,
    group: u32,
    bytes_in_group: u8,
}

impl<'a> Base64<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'"');
        Base64 { out, group: 0, bytes_in_group: 0 }
    }

    pub(super) fn write(bytes: &[u8], out: &mut Vec<u8>) {
        let mut base64 = Base64::begin(out);
        for byte in bytes {
            base64.push(*byte);
        }
        base64.finish();
    }

    pub(super) fn push(&mut self, byte: u8) {
        self.group = self.group << 8 | u32::from(byte);
        self.bytes_in_group += 1;
        if self.bytes_in_group == 3 {
            self.write_group(4);
        }
    }

    pub(super) fn finish(mut self) {
        let digits = usize::from(self.bytes_in_group) + 1;
        if digits > 1 {
            self.group <<= 8 * (4 - digits);
            self.write_group(digits);
            self.out.extend_from_slice(&b"=="[..4 - digits]);
        }
        self.out.push(b'"');
    }

    fn write_group(&mut self, digits: usize) {
        let digit = |shift: u32| ALPHABET[(self.group >> shift) as usize & 0x3F];
        let group = [digit(18), digit(12), digit(6), digit(0)];
        self.out.extend_from_slice(&group[..digits]);
        self.group = 0;
        self.bytes_in_group = 0;
    }
}

/// A bytea in its hexadecimal text form (`\x00ff`).
pub(super) fn bytes(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let hex = text.strip_prefix(b"\\x").ok_or(Fault::Malformed)?;
    let (pairs, []) = hex.as_chunks::<2>() else {
        return Err(Fault::Malformed);
    };
    out.reserve(pairs.len() / 3 * 4 + 6);
    let mut base64 = Base64::begin(out);
    for [high, low] in pairs {
        base64.push(nibble(*high)? << 4 | nibble(*low)?);
    }
    base64.finish();
    Ok(())
}

fn nibble(digit: u8) -> Result<u8, Fault> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(Fault::Malformed),
    }
}

/// A bit string: as few bytes as its value needs, the last eight bits first.
pub(super) fn bits(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    if text.iter().any(|bit| !matches!(bit, b'0' | b'1')) {
        return Err(Fault::Malformed);
    }
    let leading_zeros = text.iter().take_while(|bit| **bit == b'0').count();
    let mut base64 = Base64::begin(out);
    for eight in text[leading_zeros..].rchunks(8) {
        base64.push(eight.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0')));
    }
    base64.finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl Fn(&[u8], &mut Vec<u8>) -> Result<(), Fault>, text: &str) -> Result<String, Fault> {
        let mut out = Vec::new();
        write(text.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// The vectors of RFC 4648, section 10.
    #[test]
    fn base64_is_padded_and_standard() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            Base64::write(plain.as_bytes(), &mut out);
            assert_eq!(out, format!("\"{encoded}\"").as_bytes());
        }
    }

    #[test]
    fn every_byte_of_a_bytea_arrives() {
        assert_eq!(written(bytes, "\\x").unwrap(), "\"\"");
        assert_eq!(written(bytes, "\\x00ff10").unwrap(), "\"AP8Q\"");
        let all: Vec<u8> = (0..=255).collect();
        let hex: String = all.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut expected = Vec::new();
        Base64::write(&all, &mut expected);
        assert_eq!(written(bytes, &format!("\\x{hex}")).unwrap().as_bytes(), expected);
    }

    /// bytea_output = escape would look like this; taking it for hexadecimal would corrupt it.
    #[test]
    fn a_bytea_that_is_not_hexadecimal_is_refused() {
        for text in ["", "abc", "\\", "\\000", "\\x0", "\\x0g"] {
            assert!(written(bytes, text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn bits_are_written_least_significant_byte_first() {
        for (text, expected) in [
            ("10110", "\"Fg==\""),
            ("101", "\"BQ==\""),
            ("", "\"\""),
            ("0000", "\"\""),
            ("1000000000000001", "\"AYA=\""),
            ("0000000010000000", "\"gA==\""),
        ] {
            assert_eq!(written(bits, text).unwrap(), expected);
        }
        assert!(written(bits, "102").is_err());
    }
}
