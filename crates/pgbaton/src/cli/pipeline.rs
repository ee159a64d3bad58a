//! What the commands that deal with one pipeline have in common: which one, and who must not be in the way.

use std::fmt::Display;

use clap::Args;
use pgbaton_postgres::{ClientTask, Conninfo, connect_client};
use tokio_postgres::Client;

use super::{FAILED, Files, USAGE, complain};
use crate::config::{Config, Invalid, PipelineConfig, load};
use crate::coordination::Etcd;
use crate::servers;

/// Why a command did nothing, and with which exit code.
#[derive(Debug)]
pub(super) struct Refusal(pub u8, pub String);

impl Refusal {
    /// It was looked at, and must not be done.
    pub fn failed(reason: impl Display) -> Self {
        Refusal(FAILED, reason.to_string())
    }

    /// Says it.
    pub fn code(self) -> u8 {
        complain(self.1);
        self.0
    }
}

#[derive(Debug, Args)]
pub(super) struct Which {
    #[command(flatten)]
    files: Files,
    /// Which pipeline; needed where the configuration has several
    #[arg(long, value_name = "P")]
    pipeline: Option<String>,
}

/// The pipeline that is meant, and its database.
pub(super) struct Meant {
    pub config: Config,
    pub name: String,
    pub conninfo: Conninfo,
}

impl Which {
    pub fn meant(&self) -> Result<Meant, Refusal> {
        let usage = |reason: String| Refusal(USAGE, reason);
        let config = load(&self.files.given())
            .map_err(|Invalid(mistakes)| {
                let lines: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
                usage(lines.join("\npgbaton: "))
            })?
            .config;
        let (name, settings) = servers::pipeline(&config, self.pipeline.as_deref()).map_err(usage)?;
        let conninfo = servers::conninfo(&settings.postgres).map_err(usage)?;
        Ok(Meant { name: name.to_owned(), conninfo, config })
    }
}

impl Meant {
    pub fn settings(&self) -> &PipelineConfig {
        &self.config.pipelines[&self.name]
    }

    pub fn slot(&self) -> &str {
        &self.settings().postgres.slot
    }

    pub fn etcd(&self) -> Result<Option<Etcd>, Refusal> {
        servers::etcd(&self.config, &self.name).map_err(Refusal::failed)
    }

    pub async fn client(&self) -> Result<(Client, ClientTask), Refusal> {
        connect_client(&self.conninfo, "pgbaton", None).await.map_err(Refusal::failed)
    }
}

/// The baton must lie on the ground. Where etcd does not answer nobody can say so; where there is none, only the slot can.
pub(super) async fn nobody_holds(etcd: Option<&Etcd>) -> Result<(), Refusal> {
    let Some(etcd) = etcd else { return Ok(()) };
    let view = etcd.view().await.map_err(|error| {
        Refusal::failed(format!("whether a worker holds the baton cannot be told: {error}; make etcd reachable"))
    })?;
    match view.holder {
        None => Ok(()),
        Some(holder) => {
            let worker = holder.worker;
            Err(Refusal::failed(format!(
                "{worker} holds the baton; stop all workers of the pipeline with SIGTERM first"
            )))
        }
    }
}
