//! Requests and replies of Kafka's protocol, as bytes.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A request without its length, number and client: those are the connection's.
pub(super) struct Request {
    pub api: i16,
    pub version: i16,
    /// Headers have tagged fields, texts and arrays are compact.
    pub is_flexible: bool,
    pub body: Vec<u8>,
}

impl Request {
    pub fn plain(api: i16, version: i16) -> Self {
        Request { api, version, is_flexible: false, body: Vec::new() }
    }

    pub fn flexible(api: i16, version: i16) -> Self {
        Request { api, version, is_flexible: true, body: Vec::new() }
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// A text of an old version.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.raw(&(text.len() as i16).to_be_bytes()).raw(text.as_bytes())
    }

    /// Bytes of an old version.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.raw(&(bytes.len() as i32).to_be_bytes()).raw(bytes)
    }

    pub fn compact_text(&mut self, text: &str) -> &mut Self {
        self.count(text.len()).raw(text.as_bytes())
    }

    /// A length of something compact: one more than it is, in groups of seven bits.
    pub fn count(&mut self, count: usize) -> &mut Self {
        let mut rest = count + 1;
        while rest >= 0x80 {
            self.body.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.body.push(rest as u8);
        self
    }

    pub fn no_tags(&mut self) -> &mut Self {
        self.raw(&[0])
    }

    /// The whole frame.
    pub fn frame(&self, number: i32, client: &str) -> Vec<u8> {
        let mut whole = Request::plain(self.api, self.version);
        whole.raw(&self.api.to_be_bytes()).raw(&self.version.to_be_bytes()).raw(&number.to_be_bytes()).text(client);
        if self.is_flexible {
            whole.no_tags();
        }
        whole.raw(&self.body);
        let length = whole.body.len() as i32;
        [&length.to_be_bytes()[..], &whole.body].concat()
    }
}

/// The reply ends before its time, or has a length that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// What has not been read yet of a reply.
pub(super) struct Reply<'a>(pub &'a [u8]);

impl<'a> Reply<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn i16(&mut self) -> Result<i16, Malformed> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into().map_err(|_| Malformed)?))
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().map_err(|_| Malformed)?))
    }

    /// A text of an old version; empty where there is none.
    pub fn text(&mut self) -> Result<String, Malformed> {
        let length = self.i16()?.max(0) as usize;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// Bytes of an old version; empty where there are none.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.i32()?.max(0) as usize;
        self.take(length)
    }

    pub fn compact_text(&mut self) -> Result<Option<String>, Malformed> {
        let Some(length) = self.varint()?.checked_sub(1) else { return Ok(None) };
        Ok(Some(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }

    /// How many elements a compact array has; none where there is no array.
    pub fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.varint()?.saturating_sub(1);
        // Each has a byte at least.
        if count <= self.0.len() { Ok(count) } else { Err(Malformed) }
    }

    pub fn tags(&mut self) -> Result<(), Malformed> {
        for _ in 0..self.varint()? {
            let _tag = self.varint()?;
            let length = self.varint()?;
            self.take(length)?;
        }
        Ok(())
    }

    pub fn uuid(&mut self) -> Result<String, Malformed> {
        Ok(URL_SAFE_NO_PAD.encode(self.take(16)?))
    }

    fn varint(&mut self) -> Result<usize, Malformed> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            value |= usize::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_compactly_is_read_back() {
        for length in [0, 1, 126, 127, 128, 16_382, 16_383, 70_000] {
            let text = "x".repeat(length);
            let mut request = Request::flexible(0, 0);
            request.compact_text(&text).no_tags();
            let mut reply = Reply(&request.body);
            assert_eq!(reply.compact_text(), Ok(Some(text)));
            assert_eq!(reply.tags(), Ok(()));
            assert_eq!(reply.0, b"");
        }
    }

    #[test]
    fn a_reply_that_promises_more_than_it_holds_is_malformed() {
        for body in [&b""[..], b"\x7F", b"\xFF\xFF\xFF\xFF\xFF\x01", b"\x05ab"] {
            assert_eq!(Reply(body).compact_text(), Err(Malformed), "{body:?}");
        }
        assert_eq!(Reply(b"\xFF\xFF\xFF\x7F").count(), Err(Malformed));
    }
}
