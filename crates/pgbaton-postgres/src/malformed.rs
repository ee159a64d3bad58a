//! What can be wrong with bytes that a server sent. Nothing here is repaired or skipped: malformed input ends the session.

/// A message of the server that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {message}: {problem}")]
pub struct Malformed {
    /// The kind of message, as the protocol's documentation names it.
    pub message: &'static str,
    /// What is wrong with it.
    pub problem: Problem,
}

/// How a message breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It ends before all of its parts have come.
    #[error("it ends too early")]
    Truncated,
    /// Bytes follow its last part.
    #[error("{0} bytes follow its end")]
    Trailing(usize),
    /// A length or count that cannot be: negative, or more than a message may hold.
    #[error("a length or count of {0} is not possible")]
    Count(i64),
    /// A name or text is not UTF-8.
    #[error("a text in it is not UTF-8")]
    NotUtf8,
    /// A kind of message, or of part, that is not known or was not asked for.
    #[error("unknown tag {:?}", char::from(*.0))]
    UnknownTag(u8),
    /// A column in binary form, which is never asked for.
    #[error("a column came in binary form, which was not asked for")]
    BinaryColumn,
    /// A known message that has no place here.
    #[error("it does not belong here")]
    OutOfPlace,
    /// A value that does not read as what it should be.
    #[error("a value in it cannot be read")]
    Value,
}

/// Reads the parts of one message from its front, never beyond its end and without copying.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    message: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        Reader { message, rest: bytes }
    }

    pub(crate) fn problem(&self, problem: Problem) -> Malformed {
        Malformed { message: self.message, problem }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.problem(Problem::Truncated))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.problem(Problem::Truncated))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A count of things that follow: 0 or more.
    pub(crate) fn count16(&mut self) -> Result<usize, Malformed> {
        let count = self.i16()?;
        usize::try_from(count).map_err(|_| self.problem(Problem::Count(count.into())))
    }

    /// A count of things, or a length in bytes: 0 or more.
    pub(crate) fn count32(&mut self) -> Result<usize, Malformed> {
        let count = self.i32()?;
        usize::try_from(count).map_err(|_| self.problem(Problem::Count(count.into())))
    }

    /// A text that ends with a zero byte.
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.problem(Problem::Truncated))?;
        let text = std::str::from_utf8(&self.rest[..end]).map_err(|_| self.problem(Problem::NotUtf8))?;
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// The message must be over here.
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            trailing => Err(self.problem(Problem::Trailing(trailing))),
        }
    }
}
