//! The key=value form: `host=db1,db2 user='a b' password=it\'s`.

use std::iter::Peekable;
use std::str::Chars;

use super::InvalidConninfo;
use super::params::Params;

pub(super) fn parse(text: &str) -> Result<Params, InvalidConninfo> {
    let mut params = Params::default();
    let mut chars = text.chars().peekable();
    let mut last: Option<String> = None;
    loop {
        skip_spaces(&mut chars);
        if chars.peek().is_none() {
            return Ok(params);
        }
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            name.push(c);
        }
        skip_spaces(&mut chars);
        if chars.next_if_eq(&'=').is_none() {
            return Err(no_equals_sign(last.as_deref()));
        }
        skip_spaces(&mut chars);
        params.set(&name, value(&name, &mut chars)?)?;
        last = Some(name);
    }
}

fn skip_spaces(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|c| c.is_whitespace()).is_some() {}
}

fn value(name: &str, chars: &mut Peekable<Chars<'_>>) -> Result<String, InvalidConninfo> {
    let quoted = chars.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match chars.peek().copied() {
            None if quoted => return Err(InvalidConninfo(format!("the value of {name} has no closing quote"))),
            None => break,
            Some('\'') if quoted => {
                chars.next();
                break;
            }
            Some(c) if !quoted && c.is_whitespace() => break,
            Some('\\') => {
                chars.next();
                value.extend(chars.next());
            }
            Some(c) => {
                chars.next();
                value.push(c);
            }
        }
    }
    if value.contains('\0') {
        return Err(InvalidConninfo(format!("the value of {name} holds a zero byte")));
    }
    Ok(value)
}

/// The word without "=" is not repeated: it may be the rest of a password with a space in it.
fn no_equals_sign(last: Option<&str>) -> InvalidConninfo {
    InvalidConninfo(match last {
        Some(last) => {
            format!("after the value of {last} comes a word without \"=\"; a value with spaces stands in '...'")
        }
        None => "the text is neither a URL (postgresql://...) nor name=value pairs (host=... user=...)".to_owned(),
    })
}
