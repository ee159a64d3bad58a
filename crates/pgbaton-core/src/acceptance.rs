//! Accepting a gap: what can be accepted, and where the stream then goes on. What lies between is gone, and the marker says
//! which range that is.

use serde::{Deserialize, Serialize};

use crate::{
    Code, DivergenceMark, Gap, Lsn, Position, Recorded, Resume, Server, SlotState, Timeline, Verdict, VerdictSeen,
    Watermark, judge,
};

/// What an `accept` names: changes of this range may be missing from the topics, and somebody has taken that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptMark {
    /// Why they are missing.
    pub code: Code,
    /// The timeline of the range.
    pub timeline: Timeline,
    /// What is missing starts behind this LSN ...
    pub from_lsn: Lsn,
    /// ... and ends here, if that is known.
    pub to_lsn: Option<Lsn>,
}

impl From<&Gap> for AcceptMark {
    fn from(gap: &Gap) -> Self {
        AcceptMark { code: gap.code, timeline: gap.timeline, from_lsn: gap.from_lsn, to_lsn: gap.to_lsn }
    }
}

impl VerdictSeen {
    /// Does it say the same as this verdict?
    pub fn is(&self, gap: &Gap) -> bool {
        (self.code, self.from_lsn, self.to_lsn) == (gap.code, gap.from_lsn, gap.to_lsn)
    }
}

/// Has somebody accepted this very gap, or does the configuration accept all of its kind (`by_policy`)? Which server it is,
/// and which etcd, is never taken for granted.
pub fn accepts(by_policy: bool, accepted: Option<&VerdictSeen>, gap: &Gap) -> bool {
    (by_policy && matches!(gap.code, Code::SlotAhead | Code::PublicationChanged))
        || accepted.is_some_and(|accepted| accepted.accepted && accepted.is(gap))
}

/// Can a gap of this kind be accepted as it is? Else what has to be done first.
pub fn can_be_accepted(code: Code) -> Result<(), &'static str> {
    match code {
        Code::SlotAhead
        | Code::ReplayMismatch
        | Code::PublicationChanged
        | Code::PublicationShrunk
        | Code::TopicRecreated
        | Code::Diverged
        | Code::WrongCluster
        | Code::TimelineUnknown
        | Code::TimelineBackwards
        | Code::EtcdReset => Ok(()),
        Code::SlotMissing | Code::SlotLost | Code::SlotInvalidated | Code::WalRemoved => Err(
            "make a sound slot of that name first (under Patroni: declare it; drop a lost one); the verdict then becomes \
             slot_ahead with the range that is missing, and that one can be accepted",
        ),
        Code::ProgressMissing => {
            Err("say where to begin: pgbaton position init --from-slot, with all workers of the pipeline stopped")
        }
        Code::PublicationMissing => Err("create the publication; then accept what the verdict says"),
        Code::SlotWrongKind => {
            Err("give the pipeline a logical slot of its own, with plugin pgoutput and two_phase off")
        }
        _ => Err("remove the cause; the pipeline goes on by itself"),
    }
}

/// The verdict with a gap accepted: where the stream goes on. The verdict itself where acceptance does not help.
pub fn accept(gap: &Gap, recorded: Option<&Recorded>, server: &Server, slot: &SlotState) -> Verdict {
    let refused = || Verdict::Quarantine(gap.clone());
    let (Some(recorded), Ok(())) = (recorded, can_be_accepted(gap.code)) else { return refused() };
    match gap.code {
        Code::SlotAhead | Code::Diverged | Code::WrongCluster | Code::TimelineUnknown | Code::TimelineBackwards => {
            from_slot(recorded, server, slot).map_or_else(refused, |(resume, mark)| Verdict::Continue(resume, mark))
        }
        Code::PublicationChanged => judge(&Recorded { publication: None, ..recorded.clone() }, server, slot),
        _ => refused(),
    }
}

/// From what the slot has confirmed on. Phantoms are marked all the same where the histories can be compared.
fn from_slot(recorded: &Recorded, server: &Server, slot: &SlotState) -> Option<(Resume, Option<DivergenceMark>)> {
    let SlotState::Usable { confirmed_flush_lsn: lsn } = *slot else { return None };
    server.publication_oid?;
    let timeline = server.history.owner_of_end(lsn);
    let resume = Resume {
        position: Position { system_identifier: server.system_identifier, timeline, lsn },
        watermark: Watermark { timeline, lsn },
        start_at: lsn,
        continuity: None,
        last: None,
        partial: None,
    };
    // A slot that is behind the watermark has nothing to say against the rest of the verdict.
    let behind = SlotState::Usable { confirmed_flush_lsn: Lsn::INVALID };
    let mark = match judge(&Recorded { publication: None, ..recorded.clone() }, server, &behind) {
        Verdict::Continue(_, mark) => mark,
        Verdict::Quarantine(_) => None,
    };
    Some((resume, mark))
}

/// The verdict lets the stream go on, but a stream has contradicted it before, and somebody has accepted that: without what
/// was contradicted. Answers with the gap that is accepted.
pub fn without_contradiction(resume: &mut Resume, accepted: &VerdictSeen) -> Option<AcceptMark> {
    let mark = AcceptMark {
        code: accepted.code,
        timeline: resume.position.timeline,
        from_lsn: accepted.from_lsn,
        to_lsn: accepted.to_lsn,
    };
    match accepted.code {
        // From the transaction's begin: consumers see the published part of it once more.
        Code::ReplayMismatch if resume.partial.is_some() => {
            resume.partial = None;
            Some(mark)
        }
        Code::Diverged if resume.continuity.is_some() => {
            resume.continuity = None;
            resume.start_at = resume.position.lsn;
            Some(mark)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{History, LastTransaction, PartialTransaction, PublicationMark, SystemIdentifier};

    fn server() -> Server {
        Server {
            system_identifier: SystemIdentifier(7),
            history: History::new(vec![], Timeline(1)),
            write_position: Lsn(5000),
            publication_oid: Some(16400),
        }
    }

    fn recorded() -> Recorded {
        Recorded {
            position: Position { system_identifier: SystemIdentifier(7), timeline: Timeline(1), lsn: Lsn(1000) },
            watermark: Watermark { timeline: Timeline(1), lsn: Lsn(1000) },
            history: History::new(vec![], Timeline(1)),
            last: Some(LastTransaction { xid: 7, final_lsn: Lsn(990), lsn: Lsn(1000), committed_at: "c".into() }),
            partial: None,
            torn: None,
            publication: Some(PublicationMark { oid: 16400, tables_hash: "t".into() }),
        }
    }

    fn gap(verdict: Verdict) -> Gap {
        match verdict {
            Verdict::Quarantine(gap) => gap,
            Verdict::Continue(resume, _) => panic!("went on: {resume:?}"),
        }
    }

    #[test]
    fn a_slot_that_is_ahead_is_accepted_by_going_on_where_it_stands() {
        let slot = SlotState::Usable { confirmed_flush_lsn: Lsn(2000) };
        let gap = gap(judge(&recorded(), &server(), &slot));
        let Verdict::Continue(resume, None) = accept(&gap, Some(&recorded()), &server(), &slot) else {
            panic!("not accepted");
        };
        assert_eq!((resume.position.lsn, resume.watermark.lsn, resume.continuity), (Lsn(2000), Lsn(2000), None));
    }

    #[test]
    fn a_missing_slot_cannot_be_accepted_before_there_is_one() {
        let gap = gap(judge(&recorded(), &server(), &SlotState::Missing));
        assert!(can_be_accepted(gap.code).unwrap_err().contains("slot_ahead"));
        assert_eq!(accept(&gap, Some(&recorded()), &server(), &SlotState::Missing), Verdict::Quarantine(gap.clone()));
    }

    #[test]
    fn a_publication_made_anew_is_accepted_without_moving_the_position() {
        let slot = SlotState::Usable { confirmed_flush_lsn: Lsn(900) };
        let server = Server { publication_oid: Some(17000), ..server() };
        let gap = gap(judge(&recorded(), &server, &slot));
        let Verdict::Continue(resume, None) = accept(&gap, Some(&recorded()), &server, &slot) else {
            panic!("not accepted");
        };
        assert_eq!((resume.position.lsn, resume.continuity.is_some()), (Lsn(1000), true));
    }

    #[test]
    fn phantoms_are_marked_when_a_gap_is_accepted_on_a_new_timeline() {
        let server = Server { history: History::new(vec![(Timeline(1), Lsn(800))], Timeline(2)), ..server() };
        let slot = SlotState::Usable { confirmed_flush_lsn: Lsn(1500) };
        let gap = gap(judge(&recorded(), &server, &slot));
        assert_eq!(gap.code, Code::SlotAhead);
        let Verdict::Continue(resume, Some(mark)) = accept(&gap, Some(&recorded()), &server, &slot) else {
            panic!("not accepted, or no phantoms");
        };
        assert_eq!((resume.position.lsn, mark.from_lsn, mark.to_lsn), (Lsn(1500), Lsn(800), Lsn(1000)));
    }

    #[test]
    fn an_accepted_mismatch_publishes_the_transaction_from_its_begin() {
        let partial = PartialTransaction { xid: 8, final_lsn: Lsn(1200), changes_done: 5, hash: "h".into(), chunks: 1 };
        let slot = SlotState::Usable { confirmed_flush_lsn: Lsn(900) };
        let judged = judge(&Recorded { partial: Some(partial), ..recorded() }, &server(), &slot);
        let Verdict::Continue(mut resume, _) = judged else { panic!("quarantined") };
        let accepted = VerdictSeen { code: Code::ReplayMismatch, from_lsn: Lsn(1200), to_lsn: None, accepted: true };
        assert!(without_contradiction(&mut resume, &accepted).is_some());
        assert_eq!(resume.partial, None);
        assert_eq!(without_contradiction(&mut resume, &accepted), None, "nothing is left to accept");
    }
}
