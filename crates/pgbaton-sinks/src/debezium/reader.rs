//! Taking dates and times in PostgreSQL's text form apart. Whether a day exists is for [`super::civil`] to say.

use super::civil::Date;
use super::value::Fault;

pub(super) const MICROS_PER_SECOND: i64 = 1_000_000;
pub(super) const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Takes a text apart from its front.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Reader { rest: text }
    }

    /// `YYYY-MM-DD`, the year as long as it needs to be.
    pub(super) fn date(&mut self) -> Result<Date, Fault> {
        let year = self.number(4, 7)?;
        self.expect(b'-')?;
        let month = self.number(2, 2)?;
        self.expect(b'-')?;
        let day = self.number(2, 2)?;
        Ok(Date { year, month, day })
    }

    pub(super) fn date_and_time(&mut self) -> Result<(Date, i64), Fault> {
        let date = self.date()?;
        self.expect(b' ')?;
        Ok((date, self.time()?))
    }

    /// `HH:MM:SS[.ffffff]`, not after 24:00:00, in microseconds.
    pub(super) fn time(&mut self) -> Result<i64, Fault> {
        let hours = self.number(2, 2)?;
        let micros = hours * 3600 * MICROS_PER_SECOND + self.minutes_and_seconds()?;
        if micros > MICROS_PER_DAY {
            return Err(Fault::Malformed);
        }
        Ok(micros)
    }

    /// `:MM:SS[.ffffff]` in microseconds.
    pub(super) fn minutes_and_seconds(&mut self) -> Result<i64, Fault> {
        self.expect(b':')?;
        let minutes = self.number(2, 2)?;
        self.expect(b':')?;
        let seconds = self.number(2, 2)?;
        if minutes > 59 || seconds > 59 {
            return Err(Fault::Malformed);
        }
        let mut micros = 0;
        if self.starts_with(b'.') {
            self.expect(b'.')?;
            let before = self.rest.len();
            let digits = self.number(1, 6)?;
            micros = digits * 10_i64.pow(6 - (before - self.rest.len()) as u32);
        }
        Ok((minutes * 60 + seconds) * MICROS_PER_SECOND + micros)
    }

    /// `+HH[:MM[:SS]]` east of UTC, in microseconds.
    pub(super) fn offset(&mut self) -> Result<i64, Fault> {
        let sign = match self.rest {
            [b'+', ..] => 1,
            [b'-', ..] => -1,
            _ => return Err(Fault::Malformed),
        };
        self.rest = &self.rest[1..];
        let mut seconds = self.number(2, 2)? * 3600;
        for unit in [60, 1] {
            if self.starts_with(b':') {
                self.expect(b':')?;
                seconds += self.number(2, 2)? * unit;
            }
        }
        Ok(sign * seconds * MICROS_PER_SECOND)
    }

    pub(super) fn before_christ(&mut self) -> bool {
        match self.rest.strip_prefix(b" BC") {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A number of at least `least` and at most `most` digits, which may not exceed 18.
    pub(super) fn number(&mut self, least: usize, most: usize) -> Result<i64, Fault> {
        let (mut count, mut number) = (0, 0);
        while count < most
            && let Some(digit @ b'0'..=b'9') = self.rest.get(count)
        {
            number = number * 10 + i64::from(digit - b'0');
            count += 1;
        }
        if count < least {
            return Err(Fault::Malformed);
        }
        self.rest = &self.rest[count..];
        Ok(number)
    }

    pub(super) fn starts_with(&self, byte: u8) -> bool {
        self.rest.first() == Some(&byte)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                Ok(())
            }
            _ => Err(Fault::Malformed),
        }
    }

    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.rest.is_empty() { Ok(()) } else { Err(Fault::Malformed) }
    }
}
