//! `kafka-acls.sh --add`, as far as the docs use it: its arguments, and the request that it would send (CreateAcls, version 1).
//! Kafka's own tool is no part of the lab.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// One right: who may do what with what.
#[derive(Clone, Debug)]
pub struct Acl {
    pub principal: String,
    pub operation: String,
    kind: i8,
    pub name: String,
    is_prefix: bool,
}

const TOPIC: i8 = 2;
const CLUSTER: i8 = 4;
const TRANSACTIONAL_ID: i8 = 5;

impl Acl {
    pub fn is_for_transactions(&self) -> bool {
        self.kind == TRANSACTIONAL_ID
    }

    /// The rights that one command adds.
    pub fn of_command(command: &str) -> Result<Vec<Acl>> {
        let mut words = command.split_whitespace();
        ensure!(words.next() == Some("kafka-acls.sh"), "{command}");
        let (mut principal, mut operations, mut resource, mut is_prefix) = (None, Vec::new(), None, false);
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value: {command}"));
            match word {
                "--add" => {}
                "--bootstrap-server" => drop(value()?),
                "--allow-principal" => principal = Some(value()?.to_owned()),
                "--operation" => operations.push(value()?.to_owned()),
                "--topic" => resource = Some((TOPIC, value()?.to_owned())),
                "--transactional-id" => resource = Some((TRANSACTIONAL_ID, value()?.to_owned())),
                "--cluster" => resource = Some((CLUSTER, "kafka-cluster".to_owned())),
                "--resource-pattern-type" => is_prefix = value()? == "prefixed",
                other => bail!("{other} is not understood: {command}"),
            }
        }
        let (kind, name) = resource.with_context(|| format!("no resource: {command}"))?;
        let principal = principal.with_context(|| format!("no principal: {command}"))?;
        let acl = |operation| Acl { principal: principal.clone(), operation, kind, name: name.clone(), is_prefix };
        Ok(operations.into_iter().map(acl).collect())
    }

    fn operation_number(&self) -> Result<i8> {
        Ok(match self.operation.as_str() {
            "Read" => 3,
            "Write" => 4,
            "Create" => 5,
            "Describe" => 8,
            "DescribeConfigs" => 10,
            other => bail!("operation {other} is not understood"),
        })
    }
}

/// Adds them, through a listener where everything is allowed.
pub fn add(bootstrap: &str, acls: &[Acl]) -> Result<()> {
    const LITERAL: i8 = 3;
    const PREFIXED: i8 = 4;
    const ALLOW: i8 = 3;
    let mut request = Vec::new();
    // Kind of request, version, number, no client.
    for number in [30_i16, 1, 0, 7, -1] {
        request.extend(number.to_be_bytes());
    }
    request.extend((acls.len() as i32).to_be_bytes());
    for acl in acls {
        request.push(acl.kind as u8);
        text(&mut request, &acl.name);
        request.push(if acl.is_prefix { PREFIXED as u8 } else { LITERAL as u8 });
        text(&mut request, &acl.principal);
        text(&mut request, "*");
        request.push(acl.operation_number()? as u8);
        request.push(ALLOW as u8);
    }
    let mut stream = TcpStream::connect(bootstrap)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&(request.len() as i32).to_be_bytes())?;
    stream.write_all(&request)?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut reply = vec![0; usize::try_from(i32::from_be_bytes(head))?];
    stream.read_exact(&mut reply)?;
    // Number, time of throttling, count; of each the error, and a message or none.
    let mut rest = reply.get(12..).context("a short answer")?;
    for acl in acls {
        let (head, tail) = rest.split_at_checked(4).context("a short answer")?;
        ensure!(head[..2] == [0, 0], "{acl:?} is refused: {}", String::from_utf8_lossy(rest));
        let length = usize::try_from(i16::from_be_bytes([head[2], head[3]])).unwrap_or(0);
        rest = tail.get(length..).context("a short answer")?;
    }
    Ok(())
}

fn text(request: &mut Vec<u8>, text: &str) {
    request.extend((text.len() as i16).to_be_bytes());
    request.extend(text.as_bytes());
}
