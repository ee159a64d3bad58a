//! The shape of the status document: what others read must not change by accident.

use std::time::Duration;

use pgbaton::clock::Timestamp;
use pgbaton::status::{
    Board, Cause, Divergence, Gap, Lease, Peer, Published, Reason, Role, Server, Slot, State, Switch,
};
use pgbaton_core::{Code, Lsn, Moment, SystemIdentifier, Term, Timeline, Watermark};

#[test]
fn the_status_document_has_every_key_of_the_interface() {
    let board = Board::new("worker-1", "etcd", ["orders"]);
    let json = serde_json::to_value(board.status()).unwrap();
    let keys = |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    assert_eq!(keys(&json), ["coordination", "pipelines", "started_at", "version", "worker"]);
    assert_eq!(keys(&json["coordination"]), ["backend", "degraded_since", "reachable"]);
    let orders = &json["pipelines"]["orders"];
    let mut expected = [
        "state",
        "role",
        "healthy",
        "reasons",
        "term",
        "holder",
        "lease",
        "slot",
        "server",
        "position",
        "watermark",
        "received_lsn",
        "lag",
        "sink",
        "counters",
        "last_switch",
        "gap",
        "divergences",
        "audit",
        "peers",
    ];
    expected.sort_unstable();
    assert_eq!(keys(orders), expected);
    assert_eq!(orders["state"], "boot");
    assert_eq!(orders["role"], "starting");
    assert_eq!(keys(&orders["lag"]), ["bytes", "seconds"]);
    assert_eq!(keys(&orders["sink"]), ["delivery", "in_flight", "kind", "last_commit_ms", "repeats_from"]);
    assert_eq!(keys(&orders["counters"]), ["bytes", "changes", "transactions"]);
}

#[test]
fn every_filled_part_of_the_status_has_the_shape_of_the_interface() {
    let board = Board::new("worker-1", "etcd", ["orders"]);
    let at = Timestamp::from(std::time::UNIX_EPOCH);
    let lsn = Lsn(0x16B_3748);
    board.publisher("orders").unwrap().publish(|status| {
        status.state = State::SinkStalled;
        status.reasons = vec![Reason { code: Code::SinkStalled, since: at, detail: "no answer".to_owned() }];
        status.term = Some(Term(12));
        status.lease = Some(Lease { revision: 4711, ttl_ms: 10_000, ends_at: Moment(Duration::ZERO) });
        status.slot = Some(Slot {
            name: "orders".to_owned(),
            active: true,
            active_pid: Some(4242),
            wal_status: Some("reserved".to_owned()),
            restart_lsn: Some(Lsn(0x150_0000)),
            confirmed_flush_lsn: Some(lsn),
            retained_bytes: Some(12_345),
            safe_wal_bytes: None,
            failover: false,
        });
        status.server = Some(Server {
            system_identifier: SystemIdentifier(7_300_000_000_000_000_000),
            timeline: Timeline(3),
            version: 150_018,
            in_recovery: false,
        });
        status.position = Some(Published { timeline: Timeline(3), lsn, events_done: 0 });
        status.watermark = Some(Watermark { timeline: Timeline(3), lsn });
        status.last_switch = Some(Switch {
            at,
            from: Some("worker-2".to_owned()),
            to: "worker-1".to_owned(),
            cause: Cause::LeaseExpired,
            took_ms: 412,
        });
        status.gap = Some(Gap {
            code: Code::SlotAhead,
            timeline: Timeline(3),
            from_lsn: lsn,
            to_lsn: Some(lsn),
            since: at,
            text: "gone".to_owned(),
        });
        status.divergences =
            vec![Divergence { at, old_timeline: Timeline(1), new_timeline: Timeline(2), from_lsn: lsn, to_lsn: lsn }];
        let peer =
            Peer { worker: "worker-2".to_owned(), url: "http://b".to_owned(), role: Role::Standby, reachable: true };
        status.peers = vec![peer];
    });
    let json = serde_json::to_value(board.status()).unwrap();
    let epoch = "1970-01-01T00:00:00.000Z";
    let orders = &json["pipelines"]["orders"];
    assert_eq!(orders["state"], "sink_stalled");
    assert_eq!(orders["reasons"], serde_json::json!([{"code": "sink_stalled", "since": epoch, "detail": "no answer"}]));
    assert_eq!(orders["term"], 12);
    assert_eq!(orders["lease"], serde_json::json!({"revision": 4711, "ttl_ms": 10000, "remaining_ms": 0}));
    assert_eq!(
        orders["slot"],
        serde_json::json!({"name": "orders", "active": true, "active_pid": 4242, "wal_status": "reserved",
            "restart_lsn": "0/1500000", "confirmed_flush_lsn": "0/16B3748", "retained_bytes": 12345,
            "safe_wal_bytes": null, "failover": false})
    );
    assert_eq!(
        orders["server"],
        serde_json::json!({"system_identifier": "7300000000000000000", "timeline": 3, "version": 150018,
            "in_recovery": false})
    );
    assert_eq!(orders["position"], serde_json::json!({"timeline": 3, "lsn": "0/16B3748", "events_done": 0}));
    assert_eq!(orders["watermark"], serde_json::json!({"timeline": 3, "lsn": "0/16B3748"}));
    assert_eq!(
        orders["last_switch"],
        serde_json::json!({"at": epoch, "from": "worker-2", "to": "worker-1", "cause": "lease_expired", "took_ms": 412})
    );
    assert_eq!(
        orders["gap"],
        serde_json::json!({"code": "slot_ahead", "timeline": 3, "from_lsn": "0/16B3748", "to_lsn": "0/16B3748",
            "since": epoch, "text": "gone"})
    );
    assert_eq!(
        orders["divergences"],
        serde_json::json!([{"at": epoch, "old_timeline": 1, "new_timeline": 2, "from_lsn": "0/16B3748",
            "to_lsn": "0/16B3748"}])
    );
    assert_eq!(
        orders["peers"],
        serde_json::json!([{"worker": "worker-2", "url": "http://b", "role": "standby", "reachable": true}])
    );
}
