//! What people ask of a pipeline: hand over, pause, resume, accept a gap. Answered at once; what follows shows in the status.

use pgbaton_core::{Code, Input, can_be_accepted};
use tracing::{info, warn};

use super::Pipeline;
use crate::clock::Timestamp;
use crate::coordination::{Accepted, Etcd, EtcdError, VerdictValue};
use crate::http::{Answer, Command, Refused};

impl Pipeline {
    /// What the order is to the machine. The others change etcd, where every worker sees it.
    pub(super) fn order(&mut self, order: Command) -> Option<Input> {
        match order {
            Command::Handover { to, answer } => return self.hand_over(to, answer),
            Command::AcceptGap(answer) if self.etcd.is_none() => return self.accept_here(answer),
            Command::Pause(answer) => {
                let value = serde_json::json!({"by": self.holder_value.worker, "at": Timestamp::now()});
                self.ask(answer, "paused", move |etcd| async move {
                    etcd.put("paused", value.to_string().into_bytes(), None).await.map_err(silent)
                });
            }
            Command::Resume(answer) => {
                self.ask(answer, "resumed", |etcd| async move { etcd.delete("paused").await.map_err(silent) })
            }
            Command::AcceptGap(answer) => {
                let by = self.holder_value.worker.clone();
                self.ask(answer, "gap accepted", move |etcd| async move { accept(&etcd, by).await });
            }
        }
        None
    }

    fn ask<F>(&mut self, answer: Answer, what: &'static str, asking: impl FnOnce(std::sync::Arc<Etcd>) -> F)
    where
        F: Future<Output = Result<(), Refused>> + Send + 'static,
    {
        let Some(etcd) = self.etcd.clone() else {
            let fix = "stop the workers instead; or let them agree in etcd (coordination.backend)";
            let _ =
                answer.send(Err(refusal("needs_etcd", "without etcd no worker can tell the others".to_owned(), fix)));
            return;
        };
        let (asking, name) = (asking(etcd), self.name.clone());
        self.tasks.spawn(async move {
            let outcome = asking.await;
            match &outcome {
                Ok(()) => info!(pipeline = name, "{what} by an operator"),
                Err(refused) => warn!(pipeline = name, code = refused.code, "an operator's order was refused"),
            }
            let _ = answer.send(outcome);
        });
    }

    /// The verdict is this worker's own, and so is the acceptance.
    fn accept_here(&mut self, answer: Answer) -> Option<Input> {
        let outcome = self.worker.gap().map_or_else(|| Err(no_gap()), |gap| acceptable(gap.code, &gap.text));
        let accepted = outcome.is_ok().then_some(Input::GapAccepted);
        if accepted.is_some() {
            info!(pipeline = self.name, "gap accepted by an operator");
        }
        let _ = answer.send(outcome);
        accepted
    }

    fn hand_over(&mut self, to: Option<String>, answer: Answer) -> Option<Input> {
        let ours = self.worker.tenure().is_some();
        let refused = (!ours).then(|| Refused {
            code: "not_holder",
            message: "this worker does not hold the baton".to_owned(),
            fix: "ask the holder".to_owned(),
            holder_url: self.worker.holder().map(|holder| holder.url.clone()),
        });
        let unknown = to
            .as_ref()
            .filter(|to| !self.peers.borrow().iter().any(|peer| peer.reachable && peer.value.worker == **to));
        let nameless = to.as_ref().filter(|_| self.etcd.is_none()).map(|_| {
            let fix = "hand over without a name: whichever worker sees the slot free first will take it";
            refusal("needs_etcd", "without etcd no successor can be named".to_owned(), fix)
        });
        let refused = refused.or(nameless).or_else(|| {
            unknown.map(|to| {
                refusal(
                    "unknown_worker",
                    format!("no worker named {to} answers"),
                    "name one of the peers that status shows",
                )
            })
        });
        let _ = answer.send(refused.clone().map_or(Ok(()), Err));
        if refused.is_some() {
            return None;
        }
        // Somebody has to go first; a standby that could take over is named where nobody was.
        let to = to.or_else(|| {
            let peers = self.peers.borrow();
            let able = peers
                .iter()
                .find(|peer| peer.reachable && peer.value.role == "standby" && peer.value.postgres && peer.value.kafka);
            able.map(|peer| peer.value.worker.clone())
        });
        Some(Input::Handover(to))
    }
}

/// Writes the acceptance into the verdict, if it still is the one that was read.
async fn accept(etcd: &Etcd, by: String) -> Result<(), Refused> {
    let stored = etcd.get("verdict", false).await.map_err(silent)?;
    let found = stored.first().and_then(|stored| {
        let verdict: VerdictValue = serde_json::from_slice(&stored.value).ok()?;
        Some((verdict, stored.revision))
    });
    let Some((mut verdict, revision)) = found else {
        return Err(no_gap());
    };
    acceptable(verdict.code, &verdict.text)?;
    verdict.accepted = Some(Accepted { by, at: Timestamp::now().to_string() });
    let value = serde_json::to_vec(&verdict).expect("texts and numbers always serialise");
    match etcd.replace("verdict", value, revision).await.map_err(silent)? {
        true => Ok(()),
        false => Err(refusal(
            "gap_changed",
            "the verdict has changed meanwhile".to_owned(),
            "read the new one, and accept it if it may be accepted",
        )),
    }
}

fn no_gap() -> Refused {
    refusal("no_gap", "no verdict stops this pipeline".to_owned(), "look at /status")
}

fn acceptable(code: Code, text: &str) -> Result<(), Refused> {
    can_be_accepted(code)
        .map_err(|fix| refusal("not_acceptable", format!("{code} cannot be accepted as it is: {text}"), fix))
}

fn refusal(code: &'static str, message: String, fix: &str) -> Refused {
    Refused { code, message, fix: fix.to_owned(), holder_url: None }
}

#[allow(clippy::needless_pass_by_value)]
fn silent(error: EtcdError) -> Refused {
    refusal("etcd_unreachable", error.to_string(), "try again when etcd answers")
}
