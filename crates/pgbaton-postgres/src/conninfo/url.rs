//! The URL form: `postgresql://user:password@host:port,host:port/dbname?name=value&name=value`.

use super::InvalidConninfo;
use super::params::Params;

/// Reads what follows `postgresql://`.
pub(super) fn parse(rest: &str) -> Result<Params, InvalidConninfo> {
    let mut params = Params::default();
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = before_query.split_once('/').unwrap_or((before_query, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    for (name, value) in [("user", user), ("password", password), ("dbname", dbname)] {
        if !value.is_empty() {
            params.set(name, decode(name, value)?)?;
        }
    }
    if !hosts.is_empty() {
        let (names, ports): (Vec<_>, Vec<_>) =
            hosts.split(',').map(split_port).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let names = names.into_iter().map(|name| decode("host", name)).collect::<Result<Vec<_>, _>>()?;
        if names.iter().any(|name| !name.is_empty()) {
            params.set("host", names.join(","))?;
        }
        if ports.iter().any(|port| !port.is_empty()) {
            params.set("port", ports.join(","))?;
        }
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        // Neither part is repeated: it may be the tail of a password that was not percent-encoded.
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| InvalidConninfo("a query parameter of the URL has no \"=\"".to_owned()))?;
        let name = decode("a query parameter", name)?;
        let value = decode(&name, value)?;
        params.set(&name, value)?;
    }
    Ok(params)
}

/// `name:port`, `[v6 address]:port`; the port may be absent.
fn split_port(host: &str) -> Result<(&str, &str), InvalidConninfo> {
    let Some(bracketed) = host.strip_prefix('[') else { return Ok(host.split_once(':').unwrap_or((host, ""))) };
    let broken = || InvalidConninfo("an IPv6 address in the URL must read [ADDRESS] or [ADDRESS]:PORT".to_owned());
    let (address, after) = bracketed.split_once(']').ok_or_else(broken)?;
    match after.strip_prefix(':') {
        Some(port) => Ok((address, port)),
        None if after.is_empty() => Ok((address, "")),
        None => Err(broken()),
    }
}

fn decode(name: &str, text: &str) -> Result<String, InvalidConninfo> {
    let broken = || {
        InvalidConninfo(format!(
            "{name} in the URL holds a % that is not followed by two hexadecimal digits of UTF-8 text"
        ))
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (high, low) = digit().zip(digit()).ok_or_else(broken)?;
        // Two hexadecimal digits fit a byte. A zero byte cannot be sent in any parameter.
        let byte = u8::try_from(high * 16 + low).ok().filter(|byte| *byte != 0).ok_or_else(broken)?;
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| broken())
}
