//! Start-up and authentication on a connected stream, up to the first ReadyForQuery.

use std::collections::HashMap;

use bytes::Bytes;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;

use crate::connect_error::{AuthProblem, ConnectFailure};
use crate::conninfo::{ChannelBinding, Conninfo, Host};
use crate::error::DbError;
use crate::malformed::{Malformed, Problem, Reader};
use crate::secret::Secret;
use crate::wire::{Packet, Wire};

/// Settings that the text form of values depends on, the same for every connection that reads values. They come after the
/// user's own options, so they win.
pub(crate) const TEXT_FORMS: &str = "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC -c extra_float_digits=3 \
     -c bytea_output=hex";

/// What the server said while it let us in.
pub(crate) struct Session {
    pub(crate) backend_pid: i32,
    pub(crate) parameters: HashMap<String, String>,
}

/// Starts a logical replication session and proves who we are.
pub(crate) async fn start(
    wire: &mut Wire,
    conninfo: &Conninfo,
    host: &Host,
    application_name: &str,
) -> Result<Session, ConnectFailure> {
    let options = startup_options(conninfo);
    let parameters = [
        ("user", conninfo.user.as_str()),
        ("database", &conninfo.dbname),
        ("replication", "database"),
        ("application_name", application_name),
        ("client_encoding", "UTF8"),
        ("options", &options),
    ];
    frontend::startup_message(parameters, wire.outbox()).map_err(unsendable)?;
    authenticate(wire, conninfo, host).await?;

    let mut session = Session { backend_pid: 0, parameters: HashMap::new() };
    loop {
        let packet = next(wire).await?;
        match packet.tag {
            b'K' => session.backend_pid = backend_pid(&packet.body)?,
            b'S' => session.parameters.extend([parameter(&packet.body)?]),
            b'Z' => return Ok(session),
            _ => return Err(packet.out_of_place().into()),
        }
    }
}

/// The user's options and then ours.
pub(crate) fn startup_options(conninfo: &Conninfo) -> String {
    match &conninfo.options {
        Some(own) => format!("{own} {TEXT_FORMS}"),
        None => TEXT_FORMS.to_owned(),
    }
}

/// The name and value of a ParameterStatus.
pub(crate) fn parameter(body: &[u8]) -> Result<(String, String), Malformed> {
    let mut reader = Reader::new("ParameterStatus", body);
    let pair = (reader.text()?.to_owned(), reader.text()?.to_owned());
    reader.end()?;
    Ok(pair)
}

fn backend_pid(body: &[u8]) -> Result<i32, Malformed> {
    let mut reader = Reader::new("BackendKeyData", body);
    let pid = reader.i32()?;
    // The key that follows would cancel queries, which is not done here; newer servers make it longer.
    Ok(pid)
}

/// The next message that matters; a refusal becomes the error.
async fn next(wire: &mut Wire) -> Result<Packet, ConnectFailure> {
    loop {
        let packet = wire.packet().await?;
        match packet.tag {
            b'E' => return Err(ConnectFailure::Server(DbError::read(&packet.body)?)),
            b'N' => {}
            _ => return Ok(packet),
        }
    }
}

/// The kind of an authentication request, and what comes with it.
async fn request(wire: &mut Wire) -> Result<(i32, Bytes), ConnectFailure> {
    let packet = next(wire).await?;
    if packet.tag != b'R' {
        return Err(packet.out_of_place().into());
    }
    let kind = Reader::new("Authentication", &packet.body).i32()?;
    Ok((kind, packet.body.slice(4..)))
}

async fn authenticate(wire: &mut Wire, conninfo: &Conninfo, host: &Host) -> Result<(), ConnectFailure> {
    const OK: i32 = 0;
    const CLEARTEXT: i32 = 3;
    const MD5: i32 = 5;
    const SASL: i32 = 10;
    let (kind, body) = request(wire).await?;
    // Anything but SCRAM-SHA-256-PLUS would let somebody in between pass our proof on.
    if kind != SASL && conninfo.channel_binding == ChannelBinding::Require {
        return Err(ConnectFailure::Auth(AuthProblem::NoChannelBinding("the server asks for no SCRAM")));
    }
    let password = || conninfo.password_for(host).ok_or(ConnectFailure::Auth(AuthProblem::NoPassword));
    match kind {
        OK => return Ok(()),
        CLEARTEXT => {
            frontend::password_message(password()?.expose().as_bytes(), wire.outbox()).map_err(unsendable)?;
        }
        MD5 => {
            let salt = <[u8; 4]>::try_from(&body[..]).map_err(|_| broken(Problem::Truncated))?;
            let hash = md5_hash(conninfo.user.as_bytes(), password()?.expose().as_bytes(), salt);
            frontend::password_message(hash.as_bytes(), wire.outbox()).map_err(unsendable)?;
        }
        SASL => scram(wire, conninfo.channel_binding, &mechanisms(&body)?, &password()?).await?,
        2 | 7 | 8 | 9 => return Err(unsupported("Kerberos, GSSAPI or SSPI")),
        other => return Err(unsupported(&format!("authentication method {other}"))),
    }
    match request(wire).await? {
        (OK, _) => Ok(()),
        _ => Err(broken(Problem::OutOfPlace).into()),
    }
}

/// The list of names in an AuthenticationSASL: each ends with a zero byte, the list with one more.
fn mechanisms(body: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut reader = Reader::new("AuthenticationSASL", body);
    let mut names = Vec::new();
    loop {
        match reader.text()? {
            "" => break reader.end().map(|()| names),
            name => names.push(name.to_owned()),
        }
    }
}

async fn scram(
    wire: &mut Wire,
    wanted: ChannelBinding,
    offered: &[String],
    password: &Secret,
) -> Result<(), ConnectFailure> {
    const CONTINUE: i32 = 11;
    const FINAL: i32 = 12;
    let (mechanism, binding) = choose(wire.stream().end_point(), wanted, offered)?;
    let mut scram = ScramSha256::new(password.expose().as_bytes(), binding);
    frontend::sasl_initial_response(mechanism, scram.message(), wire.outbox()).map_err(unsendable)?;

    let (CONTINUE, challenge) = request(wire).await? else { return Err(broken(Problem::OutOfPlace).into()) };
    scram.update(&challenge).map_err(scram_failed)?;
    frontend::sasl_response(scram.message(), wire.outbox()).map_err(unsendable)?;

    // Without this the server would not have shown that it knows the password, and could be anybody.
    let (FINAL, proof) = request(wire).await? else { return Err(broken(Problem::OutOfPlace).into()) };
    scram.finish(&proof).map_err(scram_failed)
}

/// `end_point` as [`crate::transport::Stream::end_point`] tells it.
fn choose(
    end_point: Option<Option<&[u8]>>,
    wanted: ChannelBinding,
    offered: &[String],
) -> Result<(&'static str, sasl::ChannelBinding), ConnectFailure> {
    let is_offered = |name: &str| offered.iter().any(|mechanism| mechanism == name);
    let no_binding = |why| ConnectFailure::Auth(AuthProblem::NoChannelBinding(why));
    match (end_point.flatten(), wanted) {
        (Some(hash), ChannelBinding::Prefer | ChannelBinding::Require) if is_offered(SCRAM_SHA_256_PLUS) => {
            return Ok((SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash.to_vec())));
        }
        (Some(_), ChannelBinding::Require) => return Err(no_binding("the server does not offer it")),
        (None, ChannelBinding::Require) if end_point.is_none() => return Err(no_binding("there is no TLS to bind to")),
        (None, ChannelBinding::Require) => return Err(no_binding("the server's certificate defines no hash for it")),
        (Some(_), ChannelBinding::Prefer | ChannelBinding::Disable)
        | (None, ChannelBinding::Prefer | ChannelBinding::Disable) => {}
    }
    if !is_offered(SCRAM_SHA_256) {
        return Err(unsupported(&offered.join(", ")));
    }
    // "We could have, but you did not offer": a server that did offer it then knows that somebody cut its list.
    let binding = match (end_point.flatten(), wanted) {
        (Some(_), ChannelBinding::Prefer) => sasl::ChannelBinding::unrequested(),
        _ => sasl::ChannelBinding::unsupported(),
    };
    Ok((SCRAM_SHA_256, binding))
}

fn unsupported(method: &str) -> ConnectFailure {
    ConnectFailure::Auth(AuthProblem::Unsupported(method.to_owned()))
}

fn scram_failed(error: std::io::Error) -> ConnectFailure {
    ConnectFailure::Auth(AuthProblem::Scram(error.to_string()))
}

fn broken(problem: Problem) -> Malformed {
    Malformed { message: "Authentication", problem }
}

/// A text with a zero byte in it cannot be sent.
fn unsendable(error: std::io::Error) -> ConnectFailure {
    ConnectFailure::Unreachable(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn chosen(end_point: Option<Option<&[u8]>>, wanted: ChannelBinding, names: &[&str]) -> Option<&'static str> {
        choose(end_point, wanted, &offered(names)).ok().map(|(mechanism, _)| mechanism)
    }

    #[test]
    fn channel_binding_is_used_where_it_can_be_and_never_dropped_where_it_must_be() {
        let both = [SCRAM_SHA_256, SCRAM_SHA_256_PLUS];
        let tls = Some(Some(&b"hash"[..]));
        assert_eq!(chosen(tls, ChannelBinding::Prefer, &both), Some(SCRAM_SHA_256_PLUS));
        assert_eq!(chosen(tls, ChannelBinding::Require, &both), Some(SCRAM_SHA_256_PLUS));
        assert_eq!(chosen(tls, ChannelBinding::Disable, &both), Some(SCRAM_SHA_256));
        assert_eq!(chosen(tls, ChannelBinding::Prefer, &[SCRAM_SHA_256]), Some(SCRAM_SHA_256));
        assert_eq!(chosen(tls, ChannelBinding::Require, &[SCRAM_SHA_256]), None);
        assert_eq!(chosen(None, ChannelBinding::Prefer, &both), Some(SCRAM_SHA_256));
        assert_eq!(chosen(None, ChannelBinding::Require, &both), None);
        assert_eq!(chosen(Some(None), ChannelBinding::Require, &both), None);
        assert_eq!(chosen(None, ChannelBinding::Prefer, &["OAUTHBEARER"]), None);
    }

    #[test]
    fn a_list_of_mechanisms_must_end() {
        assert_eq!(mechanisms(b"A\0B\0\0").unwrap(), offered(&["A", "B"]));
        for body in [&b""[..], b"A", b"A\0", b"A\0\0x"] {
            assert!(mechanisms(body).is_err(), "{body:?} was accepted");
        }
    }
}
