//! The verdict: where a session may resume, or why it may not. One pure function of what the record, the server and the
//! slot say (docs/how-it-works.md has the argument).

use crate::{
    Code, DivergenceMark, Fork, History, LastTransaction, Lsn, PartialTransaction, Position, ProgressRecord,
    PublicationMark, SlotState, SystemIdentifier, Timeline, Torn, Watermark,
};

/// What the last position record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// What was published.
    pub position: Position,
    /// What may be acknowledged.
    pub watermark: Watermark,
    /// The history of the server that it was read from.
    pub history: History,
    /// The last transaction published whole.
    pub last: Option<LastTransaction>,
    /// The transaction published in part.
    pub partial: Option<PartialTransaction>,
    /// A torn transaction.
    pub torn: Option<Torn>,
    /// The publication then in force.
    pub publication: Option<PublicationMark>,
}

impl Recorded {
    /// Takes what is needed from a record; none where a record that must carry a position does not.
    pub fn of(record: &ProgressRecord) -> Option<Recorded> {
        Some(Recorded {
            position: record.position?,
            watermark: record.watermark?,
            history: record.history()?,
            last: record.last.clone(),
            partial: record.partial.clone(),
            torn: record.torn.clone(),
            publication: record.publication.clone(),
        })
    }
}

/// What the server says, asked on the replication connection itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its cluster.
    pub system_identifier: SystemIdentifier,
    /// Its history, the current timeline included.
    pub history: History,
    /// Where its WAL ends (`IDENTIFY_SYSTEM`).
    pub write_position: Lsn,
    /// The publication's OID; none if there is no such publication.
    pub publication_oid: Option<u32>,
}

/// Where a session goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// Transactions that end here or before are dropped.
    pub position: Position,
    /// What may be acknowledged from the start.
    pub watermark: Watermark,
    /// What `START_REPLICATION` is given.
    pub start_at: Lsn,
    /// The first transaction that must come, to be dropped: proof that nothing lies between.
    pub continuity: Option<LastTransaction>,
    /// The last transaction published whole, if it survives.
    pub last: Option<LastTransaction>,
    /// The transaction to finish.
    pub partial: Option<PartialTransaction>,
}

/// Why the stream cannot go on by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// What kind.
    pub code: Code,
    /// The timeline of the range.
    pub timeline: Timeline,
    /// What is missing starts behind this LSN ...
    pub from_lsn: Lsn,
    /// ... and ends here; unknown where nothing is left to tell.
    pub to_lsn: Option<Lsn>,
    /// For a person.
    pub text: String,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on; with a divergence, write its marker first.
    Continue(Resume, Option<DivergenceMark>),
    /// Stop and tell a human.
    Quarantine(Gap),
}

/// Compares progress, server and slot. Unreachable servers and servers in recovery never come here: they are retried.
pub fn judge(recorded: &Recorded, server: &Server, slot: &SlotState) -> Verdict {
    match resume(recorded, server, slot) {
        Ok((resume, divergence)) => Verdict::Continue(resume, divergence),
        Err(gap) => Verdict::Quarantine(gap),
    }
}

/// The verdict on a pipeline without any progress: its first position is what the slot has confirmed.
pub fn judge_first_start(server: &Server, slot: &SlotState) -> Verdict {
    let first = |confirmed: Lsn| Position {
        system_identifier: server.system_identifier,
        timeline: server.history.owner_of_end(confirmed),
        lsn: confirmed,
    };
    let nothing = first(Lsn::INVALID);
    match usable(slot, nothing.timeline, Lsn::INVALID, server)
        .and_then(|lsn| publication(None, server, lsn).map(|()| lsn))
    {
        Ok(confirmed) => {
            let position = first(confirmed);
            let resume = Resume {
                position,
                watermark: Watermark { timeline: position.timeline, lsn: confirmed },
                start_at: confirmed,
                continuity: None,
                last: None,
                partial: None,
            };
            Verdict::Continue(resume, None)
        }
        Err(gap) => Verdict::Quarantine(gap),
    }
}

fn resume(recorded: &Recorded, server: &Server, slot: &SlotState) -> Result<(Resume, Option<DivergenceMark>), Gap> {
    let fork = identity(recorded, server)?;
    let position = cut(recorded.position, fork, server);
    let watermark = Watermark {
        timeline: server.history.owner_of_end(recorded.watermark.lsn.min(fork)),
        lsn: recorded.watermark.lsn.min(fork),
    };
    let half_published_phantom = recorded.partial.as_ref().filter(|partial| partial.final_lsn >= fork);
    let torn_phantom = recorded.torn.as_ref().and_then(|torn| torn.greatest_id).map(|id| id.commit_lsn);
    let published_beyond = (recorded.position.lsn > fork)
        .then_some(recorded.position.lsn)
        .max(half_published_phantom.map(|partial| partial.final_lsn))
        .max(torn_phantom.filter(|lsn| *lsn >= fork));
    let divergence = published_beyond.map(|to_lsn| DivergenceMark {
        old_timeline: recorded.history.owner_of(fork),
        old_timeline_last: recorded.history.owner_of_end(to_lsn),
        new_timeline: server.history.owner_of(fork),
        from_lsn: fork,
        to_lsn,
    });

    let confirmed = usable(slot, watermark.timeline, watermark.lsn, server)?;
    if confirmed > watermark.lsn {
        return Err(Gap {
            code: Code::SlotAhead,
            timeline: server.history.owner_of_end(confirmed),
            from_lsn: watermark.lsn,
            to_lsn: Some(confirmed),
            text: format!(
                "the slot has confirmed {confirmed}, but only {} is durable: changes that commit between cannot be had from it",
                watermark.lsn
            ),
        });
    }
    publication(recorded.publication.as_ref(), server, watermark.lsn)?;

    let last = recorded.last.clone().filter(|last| last.final_lsn < fork);
    let continuity = last.clone().filter(|last| confirmed <= last.final_lsn);
    let resume = Resume {
        position,
        watermark,
        start_at: continuity.as_ref().map_or(position.lsn, |last| last.final_lsn),
        continuity,
        partial: recorded.partial.clone().filter(|_| half_published_phantom.is_none()),
        last,
    };
    Ok((resume, divergence))
}

/// Is this the server whose changes we published? Answers with the LSN up to which its history is ours.
fn identity(recorded: &Recorded, server: &Server) -> Result<Lsn, Gap> {
    let published = recorded.position;
    let gap = |code, text| Gap { code, timeline: published.timeline, from_lsn: published.lsn, to_lsn: None, text };
    if published.system_identifier != server.system_identifier {
        return Err(gap(
            Code::WrongCluster,
            format!(
                "the server's system identifier is {}, progress belongs to {}",
                server.system_identifier, published.system_identifier
            ),
        ));
    }
    let (was, is) = (recorded.history.current(), server.history.current());
    if is < was {
        return Err(gap(
            Code::TimelineBackwards,
            format!("the server is on timeline {is}, progress on timeline {was}"),
        ));
    }
    match recorded.history.fork_with(&server.history) {
        Fork::Unrelated => Err(gap(
            Code::TimelineUnknown,
            format!("the history of the server's timeline {is} has nothing in common with that of timeline {was}"),
        )),
        Fork::At(fork) => Ok(fork),
        Fork::None if server.write_position < published.lsn => Err(gap(
            Code::Diverged,
            format!(
                "the server's WAL ends at {}, before what was published of the same timeline",
                server.write_position
            ),
        )),
        Fork::None => Ok(Lsn::MAX),
    }
}

fn cut(position: Position, fork: Lsn, server: &Server) -> Position {
    let lsn = position.lsn.min(fork);
    Position { lsn, timeline: server.history.owner_of_end(lsn), ..position }
}

fn usable(slot: &SlotState, timeline: Timeline, watermark: Lsn, server: &Server) -> Result<Lsn, Gap> {
    let gap = |code, text: String| Gap {
        code,
        timeline,
        from_lsn: watermark,
        to_lsn: (watermark > Lsn::INVALID).then_some(server.write_position),
        text,
    };
    match slot {
        SlotState::Usable { confirmed_flush_lsn } => Ok(*confirmed_flush_lsn),
        SlotState::Missing => Err(gap(
            Code::SlotMissing,
            "the slot does not exist; with Patroni, declare it under slots in the dynamic configuration".to_owned(),
        )),
        SlotState::Unreadable { code, detail } => {
            Err(gap(*code, format!("the slot cannot be read any more: {detail}")))
        }
        SlotState::WrongKind { detail } => Err(gap(Code::SlotWrongKind, detail.clone())),
    }
}

fn publication(recorded: Option<&PublicationMark>, server: &Server, watermark: Lsn) -> Result<(), Gap> {
    let gap = |code, text| Gap { code, timeline: server.history.current(), from_lsn: watermark, to_lsn: None, text };
    match (recorded, server.publication_oid) {
        (_, None) => Err(gap(Code::PublicationMissing, "the publication does not exist in this database".to_owned())),
        (Some(mark), Some(oid)) if mark.oid != oid => Err(gap(
            Code::PublicationChanged,
            format!(
                "the publication has OID {oid}, progress was made under OID {}: it was dropped and created again, and \
                 changes written between are not in the stream",
                mark.oid
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: SystemIdentifier = SystemIdentifier(7);

    fn history(left: &[(u32, u64)], current: u32) -> History {
        History::new(left.iter().map(|(t, l)| (Timeline(*t), Lsn(*l))).collect(), Timeline(current))
    }

    /// Published up to 1000 on timeline 2, acknowledged up to 1050, on a slot that has confirmed 900.
    struct Case {
        recorded: Recorded,
        server: Server,
        slot: SlotState,
    }

    fn case() -> Case {
        let publication = PublicationMark { oid: 16400, tables_hash: "t".into() };
        Case {
            recorded: Recorded {
                position: Position { system_identifier: SYSTEM, timeline: Timeline(2), lsn: Lsn(1000) },
                watermark: Watermark { timeline: Timeline(2), lsn: Lsn(1050) },
                history: history(&[(1, 500)], 2),
                last: Some(LastTransaction { xid: 76, final_lsn: Lsn(980), lsn: Lsn(1000), committed_at: "c".into() }),
                partial: None,
                torn: None,
                publication: Some(publication),
            },
            server: Server {
                system_identifier: SYSTEM,
                history: history(&[(1, 500)], 2),
                write_position: Lsn(2000),
                publication_oid: Some(16400),
            },
            slot: SlotState::Usable { confirmed_flush_lsn: Lsn(900) },
        }
    }

    fn partial(final_lsn: u64) -> Option<PartialTransaction> {
        Some(PartialTransaction { xid: 77, final_lsn: Lsn(final_lsn), changes_done: 5000, hash: "h".into(), chunks: 1 })
    }

    fn go_on(case: &Case) -> (Resume, Option<DivergenceMark>) {
        match judge(&case.recorded, &case.server, &case.slot) {
            Verdict::Continue(resume, divergence) => (resume, divergence),
            Verdict::Quarantine(gap) => panic!("quarantined: {gap:?}"),
        }
    }

    fn stop(case: &Case) -> Gap {
        match judge(&case.recorded, &case.server, &case.slot) {
            Verdict::Quarantine(gap) => gap,
            Verdict::Continue(resume, _) => panic!("went on: {resume:?}"),
        }
    }

    #[test]
    fn phantoms_of_two_timelines_are_all_named() {
        // Published up to 1000 on timeline 2, which left 1 at 500; a server that never saw 2 leaves 1 at 400.
        let mut case = case();
        case.server.history = history(&[(1, 400)], 3);
        case.slot = SlotState::Usable { confirmed_flush_lsn: Lsn(300) };
        let mark = go_on(&case).1.expect("phantoms");
        assert_eq!((mark.old_timeline, mark.old_timeline_last), (Timeline(1), Timeline(2)));
        assert_eq!((mark.from_lsn, mark.to_lsn), (Lsn(400), Lsn(1000)));
    }

    #[test]
    fn on_the_same_timeline_the_stream_goes_on_behind_the_last_transaction_and_proves_it() {
        let (resume, divergence) = go_on(&case());
        assert_eq!((resume.position.lsn, resume.watermark.lsn, divergence), (Lsn(1000), Lsn(1050), None));
        assert_eq!(resume.start_at, Lsn(980), "the last transaction is asked for again");
        assert_eq!(resume.continuity.map(|last| last.xid), Some(76));
    }

    #[test]
    fn a_slot_that_confirmed_the_last_transaction_is_started_at_the_position() {
        let mut case = case();
        case.slot = SlotState::Usable { confirmed_flush_lsn: Lsn(1050) };
        let (resume, _) = go_on(&case);
        assert_eq!((resume.start_at, resume.continuity), (Lsn(1000), None));
    }

    #[test]
    fn a_fork_beyond_the_position_cuts_only_the_watermark() {
        let mut case = case();
        case.server.history = history(&[(1, 500), (2, 1020)], 3);
        let (resume, divergence) = go_on(&case);
        assert_eq!((resume.position.lsn, resume.position.timeline), (Lsn(1000), Timeline(2)));
        assert_eq!((resume.watermark.lsn, resume.watermark.timeline), (Lsn(1020), Timeline(2)));
        assert_eq!(divergence, None);
    }

    #[test]
    fn a_fork_below_the_position_marks_phantoms_and_goes_on_at_the_fork() {
        let mut case = case();
        case.server.history = history(&[(1, 500), (2, 970)], 3);
        let (resume, divergence) = go_on(&case);
        assert_eq!((resume.position.lsn, resume.watermark.lsn), (Lsn(970), Lsn(970)));
        assert_eq!((resume.start_at, resume.continuity, resume.last), (Lsn(970), None, None));
        assert_eq!(
            divergence,
            Some(DivergenceMark {
                old_timeline: Timeline(2),
                old_timeline_last: Timeline(2),
                new_timeline: Timeline(3),
                from_lsn: Lsn(970),
                to_lsn: Lsn(1000)
            })
        );
    }

    #[test]
    fn a_fork_on_a_timeline_that_was_left_long_ago_is_found() {
        let mut case = case();
        case.recorded.history = history(&[(1, 500)], 2);
        case.server.history = history(&[(1, 400)], 3);
        case.slot = SlotState::Usable { confirmed_flush_lsn: Lsn(300) };
        let (resume, divergence) = go_on(&case);
        assert_eq!((resume.position.lsn, resume.position.timeline), (Lsn(400), Timeline(1)));
        let divergence = divergence.unwrap();
        assert_eq!((divergence.old_timeline, divergence.new_timeline), (Timeline(1), Timeline(3)));
    }

    #[test]
    fn a_half_published_transaction_is_a_phantom_exactly_when_its_commit_is_not_below_the_fork() {
        let mut case = case();
        case.server.history = history(&[(1, 500), (2, 1100)], 3);
        case.recorded.partial = partial(1100);
        let (resume, divergence) = go_on(&case);
        assert_eq!(resume.partial, None);
        assert_eq!(divergence.map(|d| (d.from_lsn, d.to_lsn)), Some((Lsn(1100), Lsn(1100))));

        case.recorded.partial = partial(1099);
        let (resume, divergence) = go_on(&case);
        assert_eq!((resume.partial.map(|p| p.xid), divergence), (Some(77), None));
    }

    #[test]
    fn a_last_transaction_whose_commit_starts_at_the_fork_does_not_survive_it() {
        let mut case = case();
        case.server.history = history(&[(1, 500), (2, 980)], 3);
        let (resume, _) = go_on(&case);
        assert_eq!((resume.last, resume.continuity), (None, None));
    }

    #[test]
    fn a_slot_beyond_the_watermark_is_a_gap_with_its_range() {
        let mut case = case();
        case.slot = SlotState::Usable { confirmed_flush_lsn: Lsn(1051) };
        let gap = stop(&case);
        assert_eq!((gap.code, gap.from_lsn, gap.to_lsn), (Code::SlotAhead, Lsn(1050), Some(Lsn(1051))));
    }

    #[test]
    fn a_slot_beyond_the_fork_is_a_gap_even_though_the_watermark_was_beyond_it_too() {
        let mut case = case();
        case.server.history = history(&[(1, 500), (2, 1020)], 3);
        case.slot = SlotState::Usable { confirmed_flush_lsn: Lsn(1040) };
        let gap = stop(&case);
        assert_eq!((gap.code, gap.from_lsn, gap.to_lsn), (Code::SlotAhead, Lsn(1020), Some(Lsn(1040))));
    }

    #[test]
    fn a_missing_or_lost_slot_is_a_gap_from_the_watermark_on() {
        let mut case = case();
        case.slot = SlotState::Missing;
        let gap = stop(&case);
        assert_eq!((gap.code, gap.from_lsn, gap.to_lsn), (Code::SlotMissing, Lsn(1050), Some(Lsn(2000))));
        case.slot = SlotState::Unreadable { code: Code::SlotLost, detail: "d".into() };
        assert_eq!(stop(&case).code, Code::SlotLost);
        case.slot = SlotState::WrongKind { detail: "d".into() };
        assert_eq!(stop(&case).code, Code::SlotWrongKind);
    }

    #[test]
    fn another_cluster_is_refused_before_anything_else_is_compared() {
        let mut case = case();
        case.server.system_identifier = SystemIdentifier(8);
        case.slot = SlotState::Missing;
        assert_eq!(stop(&case).code, Code::WrongCluster);
    }

    #[test]
    fn an_older_timeline_an_unrelated_history_and_a_shorter_wal_are_refused() {
        let mut older = case();
        older.server.history = history(&[], 1);
        assert_eq!(stop(&older).code, Code::TimelineBackwards);
        let mut unrelated = case();
        unrelated.server.history = history(&[], 3);
        assert_eq!(stop(&unrelated).code, Code::TimelineUnknown);
        let mut shorter = case();
        shorter.server.write_position = Lsn(999);
        assert_eq!(stop(&shorter).code, Code::Diverged);
    }

    #[test]
    fn a_publication_that_is_gone_or_was_made_anew_is_refused() {
        let mut case = case();
        case.server.publication_oid = None;
        assert_eq!(stop(&case).code, Code::PublicationMissing);
        case.server.publication_oid = Some(16401);
        assert_eq!(stop(&case).code, Code::PublicationChanged);
    }

    #[test]
    fn what_a_torn_transaction_published_beyond_the_fork_is_phantom() {
        let mut case = case();
        case.server.history = history(&[(1, 500), (2, 1100)], 3);
        let torn = |id: &str| Some(Torn { session: "s".into(), number: 9, greatest_id: id.parse().ok(), count: 1 });
        case.recorded.torn = torn("7/2/0/400/0");
        assert_eq!(go_on(&case).1, None, "1024 is below the fork");
        case.recorded.torn = torn("7/2/0/500/0");
        assert_eq!(go_on(&case).1.map(|mark| (mark.from_lsn, mark.to_lsn)), Some((Lsn(1100), Lsn(0x500))));
    }

    #[test]
    fn the_first_start_begins_where_the_slot_is() {
        let case = case();
        match judge_first_start(&case.server, &case.slot) {
            Verdict::Continue(resume, None) => {
                assert_eq!(
                    (resume.position.lsn, resume.start_at, resume.watermark.lsn),
                    (Lsn(900), Lsn(900), Lsn(900))
                );
                assert_eq!(resume.position.timeline, Timeline(2));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            judge_first_start(&case.server, &SlotState::Missing),
            Verdict::Quarantine(Gap { code: Code::SlotMissing, to_lsn: None, .. })
        ));
    }
}
