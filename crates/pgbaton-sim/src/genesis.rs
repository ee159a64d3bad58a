//! What `position init` leaves behind: without etcd no worker says by itself where to begin.

use pgbaton_core::{
    History, Journal, Marks, ProgressRecord, PublicationMark, Server, SessionFacts, SlotState, Term, Verdict,
    first_open, hash_of, judge_first_start,
};

use crate::postgres::{Node, PUBLICATION, SYSTEM};

/// The records of its one transaction.
pub(crate) fn by_hand(history: History) -> Vec<ProgressRecord> {
    let server = Server {
        system_identifier: SYSTEM,
        history: history.clone(),
        write_position: Node::BEGINNING,
        publication_oid: Some(PUBLICATION),
    };
    let slot = SlotState::Usable { confirmed_flush_lsn: Node::BEGINNING };
    let Verdict::Continue(resume, _) = judge_first_start(&server, &slot) else { return Vec::new() };
    let (session, worker) = ("init".to_owned(), "a person".to_owned());
    let open = first_open(&session, &worker);
    let facts = SessionFacts {
        session,
        worker,
        history,
        publication: PublicationMark { oid: PUBLICATION, tables_hash: hash_of(b"items") },
        config_hash: "c0".to_owned(),
        kafka_cluster: Some("k".to_owned()),
        lease: None,
    };
    let records = Journal::new(facts, Term(1), None).claim(&resume, true, Marks::default(), Vec::new());
    [vec![open], records.progress].concat()
}
