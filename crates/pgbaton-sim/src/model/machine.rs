//! The shipped decisions, asked for what the model needs and remembered: the worker's machine for everything between the
//! lease and the claim, the stream for what is published and where Kafka transactions end, the journal for all records.
//!
//! States of the model hold numbers of records and plans; here is what they stand for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use pgbaton_core::{
    ClaimPlan, Code, Cutting, Effect, FenceRead, Found, HolderView, Identity, Input, Inspection, Known, LeaseMark, Lsn,
    Moment, Observation, Policy, ProgressRecord, ReadFrom, RecordType, Remains, Server, SessionEnd, SlotFacts,
    SlotState, Standing, Stream, TopicIds, Worker, first_open, hash_of,
};

use super::postgres::{self, Message, Postgres};

/// The only table's.
const TOPIC: &str = "orders.public.items";

/// The lease that is granted.
const LEASE: Duration = Duration::from_secs(10);

/// A progress record.
pub(super) type RecordNumber = u16;
/// A session's claim with everything that follows from it.
pub(super) type PlanNumber = u16;
/// Rows, as bits by their numbers.
pub(super) type Rows = u32;

/// All that the decision about a claim depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub worker: u8,
    pub session: u8,
    pub etcd: u8,
    pub revision: u8,
    /// What Inspect saw of the slot.
    pub confirmed: u16,
    pub position: Option<RecordNumber>,
    pub last_open: Option<RecordNumber>,
    /// A data topic ends in a record of ours.
    pub witness: bool,
    /// What stands in the data partitions, if it was read back.
    pub seen: Option<Rows>,
    /// etcd is silent, or was.
    pub silence: Option<Silence>,
}

/// What counts where etcd does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Silence {
    pub before_fence: bool,
    pub before_claim: bool,
    /// The sessions of this tenure that have tried to claim, as bits by their names.
    pub sessions: u64,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Read the holder key once more and write the claim of this plan.
    Claim(PlanNumber),
    /// A transaction is torn: read back what it has left.
    ReadBack,
    /// The session ends, another one may see more.
    Retry,
    /// The tenure ends.
    GiveUp,
    /// The pipeline stops.
    Quarantine(Code),
}

/// One Kafka transaction of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub open: RecordNumber,
    pub rows: Vec<u16>,
    pub close: RecordNumber,
    /// The session's place behind it.
    pub cuts: u32,
}

/// A session whose claim was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    claim: ClaimPlan,
    /// What its first transaction ends with.
    pub records: Vec<RecordNumber>,
    pub confirmed: u16,
}

/// Asks the shipped code, and remembers its answers.
#[derive(Debug)]
pub(super) struct Machine {
    pub postgres: Postgres,
    atomic_up_to: u64,
    /// Patches: see [`super::Defence`].
    pub repeats_torn: bool,
    pub knows_keys: bool,
    pub forgets_etcds: bool,
    records: RefCell<Records>,
    plans: RefCell<Vec<Plan>>,
    decisions: RefCell<HashMap<Question, Decision>>,
    batches: RefCell<HashMap<(PlanNumber, u32, u8), Option<Batch>>>,
    opens: RefCell<HashMap<(u8, u8), RecordNumber>>,
    in_silence: RefCell<HashMap<(bool, bool), bool>>,
}

#[derive(Debug, Default)]
struct Records {
    all: Vec<ProgressRecord>,
    by_bytes: HashMap<Vec<u8>, RecordNumber>,
}

impl Machine {
    pub fn new(log: &[&[char]], atomic_up_to: u64) -> Self {
        Machine {
            postgres: Postgres::new(log),
            atomic_up_to,
            repeats_torn: true,
            knows_keys: true,
            forgets_etcds: false,
            records: RefCell::default(),
            plans: RefCell::default(),
            decisions: RefCell::default(),
            batches: RefCell::default(),
            opens: RefCell::default(),
            in_silence: RefCell::default(),
        }
    }

    pub fn record(&self, number: RecordNumber) -> ProgressRecord {
        self.records.borrow().all[usize::from(number)].clone()
    }

    /// Looks at a record without copying it.
    pub fn with<T>(&self, number: RecordNumber, look: impl FnOnce(&ProgressRecord) -> T) -> T {
        look(&self.records.borrow().all[usize::from(number)])
    }

    pub fn plan(&self, number: PlanNumber) -> Plan {
        self.plans.borrow()[usize::from(number)].clone()
    }

    /// The watermark that a record makes durable.
    pub fn watermark(&self, number: RecordNumber) -> u16 {
        self.with(number, |record| record.watermark.as_ref().map_or(0, postgres::confirmed))
    }

    /// The first `open` of a session.
    pub fn open(&self, session: u8, worker: u8) -> RecordNumber {
        let make = || self.number(first_open(&session_name(session), &worker_name(worker)));
        *self.opens.borrow_mut().entry((session, worker)).or_insert_with(make)
    }

    fn number(&self, record: ProgressRecord) -> RecordNumber {
        let Records { all, by_bytes } = &mut *self.records.borrow_mut();
        let fresh = all.len() as RecordNumber;
        let known = *by_bytes.entry(record.to_bytes()).or_insert(fresh);
        if known == fresh {
            all.push(record);
        }
        known
    }

    /// From what was read to the claim.
    pub fn decide(&self, question: &Question) -> Decision {
        if let Some(known) = self.decisions.borrow().get(question) {
            return *known;
        }
        let decision = self.ask(question);
        self.decisions.borrow_mut().insert(question.clone(), decision);
        decision
    }

    fn ask(&self, question: &Question) -> Decision {
        let mut position = question.position.map(|number| {
            let record = self.record(number);
            let hash = hash_of(&record.to_bytes());
            (record, hash)
        });
        if let (true, Some((record, _))) = (self.forgets_etcds, &mut position)
            && let Some(lease) = &mut record.lease
        {
            lease.left.clear();
        }
        let read = FenceRead {
            session: session_name(question.session),
            position,
            from: ReadFrom::Progress,
            last_open: question.last_open.map(|number| self.record(number)),
            witness: question.witness.then(|| "a table topic ends in a record of ours".to_owned()),
            remains: None,
            kafka_cluster: None,
            topic_ids: TopicIds::default(),
        };
        match self.drive(question, read) {
            Ok(claim) => {
                let records = claim.records.progress.iter().map(|record| self.number(self.patched(record))).collect();
                let plan = Plan { claim: *claim, records, confirmed: question.confirmed };
                let mut plans = self.plans.borrow_mut();
                let known = plans.iter().position(|known| *known == plan).unwrap_or_else(|| {
                    plans.push(plan);
                    plans.len() - 1
                });
                Decision::Claim(known as PlanNumber)
            }
            Err(decision) => decision,
        }
    }

    fn patched(&self, record: &ProgressRecord) -> ProgressRecord {
        let torn = record.torn.clone().filter(|_| self.repeats_torn);
        ProgressRecord { torn, ..record.clone() }
    }

    /// What a torn transaction has left, as it is found in the data partitions.
    fn remains(&self, rows: Rows, known: &Known) -> Remains {
        let rows = (0..32_u16).filter(|row| rows & 1 << row != 0);
        let found =
            rows.map(|row| Found { topic: TOPIC.into(), key: Some(self.key_of(row)), id: self.postgres.id_of(row) });
        Remains::new(found.filter(|found| known.standing(&found.id, None) == Standing::Beyond).collect())
    }

    /// Where the patch knows no keys, every row has one of its own.
    fn key_of(&self, row: u16) -> Box<[u8]> {
        let key = self.postgres.rows[usize::from(row)].key;
        if self.knows_keys { key.to_string().into_bytes().into() } else { row.to_be_bytes().into() }
    }

    /// The Kafka transaction that a session writes after those that it has cut: of at most `batch` PostgreSQL transactions.
    /// `cuts` are the messages behind which it has closed one. None: nothing is left to publish.
    pub fn next_batch(&self, plan: PlanNumber, cuts: u32, batch: u8) -> Option<Batch> {
        if let Some(known) = self.batches.borrow().get(&(plan, cuts, batch)) {
            return known.clone();
        }
        let made = self.follow(plan, cuts, batch);
        self.batches.borrow_mut().insert((plan, cuts, batch), made.clone());
        made
    }

    fn follow(&self, plan: PlanNumber, cuts: u32, batch: u8) -> Option<Batch> {
        let Plan { claim, confirmed, .. } = self.plan(plan);
        let now = Moment::default();
        let cutting = Cutting { atomic_up_to: self.atomic_up_to, ..Cutting::default() };
        let mut journal = claim.journal.clone();
        let mut stream = Stream::new(&claim.resume, postgres::history(), cutting, claim.in_chunks, now);
        stream.slot_checked();
        let start = claim.resume.start_at.max(Lsn(u64::from(confirmed)));
        let (mut rows, mut transactions) = (Vec::new(), 0);
        let mut open = None;
        for (at, message) in self.postgres.messages_from(start).into_iter().enumerate() {
            let done = cuts >> (at + 1) != 0 || cuts & 1 << at != 0;
            let result = match message {
                Message::Begin(n) => stream.begin(xid(n), postgres::final_lsn(n), committed_at(n)),
                Message::Row(row) => stream.change(&row.to_be_bytes()).map(|publish| {
                    if publish.is_some_and(|publish| self.postgres.number_of(&publish.id) == row) {
                        stream.written(now);
                        if !done {
                            rows.push(row);
                        }
                    }
                }),
                Message::Commit(n) => {
                    transactions += u8::from(!done);
                    stream.commit(postgres::end_lsn(n))
                }
            };
            // What contradicts the position is not published; the session ends, and the next one reads what is true.
            result.ok()?;
            if cuts & 1 << at != 0 {
                journal.open(Vec::new());
                journal.close(&stream.close());
                stream.closed(now);
                transactions = 0;
            } else if !done && stream.is_filling() {
                open.get_or_insert_with(|| self.number(journal.open(Vec::new())));
                let at_boundary = stream.at_boundary() && transactions >= batch;
                if at_boundary || (!stream.at_boundary() && stream.must_close(now, true)) {
                    let close = self.number(self.patched(&journal.close(&stream.close())));
                    let remains = claim.remains.as_ref();
                    let is_held = |row: &u16| {
                        let hold = |remains: &Remains| {
                            remains.hold(TOPIC, Some(&self.key_of(*row)), &self.postgres.id_of(*row))
                        };
                        remains.is_some_and(hold)
                    };
                    rows.retain(|row| !is_held(row));
                    return Some(Batch { open: open?, rows, close, cuts: cuts | 1 << at });
                }
            }
        }
        None
    }

    /// Takes a worker from its start to the claim, along the way that the model takes. What is not the machine's to decide
    /// (whether the key still is ours) the model asks at its own time; here it is answered with yes, or not at all.
    fn drive(&self, question: &Question, read: FenceRead) -> Result<Box<ClaimPlan>, Decision> {
        let silence = question.silence.unwrap_or(Silence { before_fence: false, before_claim: false, sessions: 0 });
        let mut bench = Bench::with_lease(question, self.postgres.server());
        for session in (1..64).filter(|name| silence.sessions & 1 << name != 0) {
            bench.claim_and_lose(session, spent());
        }
        bench.inspect();
        let fences = bench.tell(answer(silence.before_fence));
        assert_eq!(fences, [Effect::Fence], "a worker that has claimed goes on without etcd");
        let mut effects = bench.tell(Input::SinkFenced(Box::new(read)));
        if let [Effect::ReadBack(known)] = &effects[..] {
            let Some(seen) = question.seen else { return Err(Decision::ReadBack) };
            let remains = self.remains(seen, known);
            effects = bench.tell(Input::ReadBack(remains));
        }
        match &effects[..] {
            [Effect::ReadHolder(_)] => {}
            [Effect::EndSession { .. }] => return Err(bench.ended()),
            other => panic!("the key is read again before the claim, or the session ends: {other:?}"),
        }
        match bench.tell(answer(silence.before_claim)).pop() {
            Some(Effect::Claim(plan)) => Ok(plan),
            Some(Effect::EndSession { .. }) => Err(bench.ended()),
            other => panic!("the claim follows, or the session ends: {other:?}"),
        }
    }

    /// May a worker begin a session while etcd is silent: one whose tenure has claimed, or not, and that was fenced since etcd
    /// spoke, or not?
    pub fn goes_on_in_silence(&self, claimed: bool, fenced: bool) -> bool {
        if let Some(known) = self.in_silence.borrow().get(&(claimed, fenced)) {
            return *known;
        }
        let question = Question {
            worker: 0,
            session: 1,
            etcd: 0,
            revision: 1,
            confirmed: 0,
            position: None,
            last_open: None,
            witness: false,
            seen: None,
            silence: None,
        };
        let mut bench = Bench::with_lease(&question, self.postgres.server());
        if claimed {
            let fenced_off = SessionEnd::Sink { code: Code::Fenced, detail: "the model says so".to_owned() };
            bench.claim_and_lose(1, if fenced { fenced_off } else { spent() });
        }
        bench.inspect();
        let goes_on = bench.tell(answer(true)) == [Effect::Fence];
        self.in_silence.borrow_mut().insert((claimed, fenced), goes_on);
        goes_on
    }
}

fn answer(silent: bool) -> Input {
    Input::HolderRead(Some(true).filter(|_| !silent))
}

fn spent() -> SessionEnd {
    SessionEnd::ProducerSpent("the model says so".to_owned())
}

struct Bench {
    worker: Worker,
    now: Moment,
    inspection: Inspection,
}

impl Bench {
    /// A worker that has just won the lease.
    fn with_lease(question: &Question, server: Server) -> Bench {
        let policy = Policy {
            leased: true,
            takeover_grace: Duration::from_secs(1),
            fenced: true,
            slot_guarded: true,
            accept_gaps: false,
            halt_on_shrink: false,
        };
        let confirmed = Lsn(u64::from(question.confirmed));
        let now = Moment(Duration::from_secs(1000));
        let observation = observation(&server, confirmed);
        let inspection = Inspection {
            server,
            in_recovery: false,
            slot: SlotState::Usable { confirmed_flush_lsn: confirmed },
            reader_pid: None,
            reader_name: None,
            postmaster_started: "p".to_owned(),
            backend_pid: 1,
            tables_hash: "t".to_owned(),
            members: String::new(),
            topics: vec![TOPIC.to_owned()],
        };
        let mut bench = Bench { worker: Worker::new(identity(question.worker), policy), now, inspection };
        let nobody = HolderView { revision: 0, holder: None, successor: None, paused: false, verdict: None };
        bench.tell(Input::HolderSeen(nobody));
        let contends = bench.tell(Input::Observed { asked_at: now, observation, durable: None });
        assert!(matches!(contends[..], [Effect::Contend { .. }]), "{contends:?}");
        let won = bench.tell(Input::Won {
            lease_id: 1,
            revision: i64::from(question.revision),
            ttl: LEASE,
            asked_at: now,
            cluster_id: etcd_name(question.etcd),
        });
        assert!(matches!(won[..], [Effect::KeepAlive(_), Effect::Inspect]), "{won:?}");
        bench
    }

    fn tell(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.worker.handle(self.now, input, &mut effects);
        effects
    }

    fn inspect(&mut self) {
        let inspected = self.tell(Input::Inspected(Box::new(self.inspection.clone())));
        assert!(matches!(inspected[..], [Effect::ReadHolder(_)]), "the key is read before the fence: {inspected:?}");
    }

    /// What the session's end comes to.
    fn ended(&mut self) -> Decision {
        let ended = self.tell(Input::SessionEnded);
        let verdict = ended.iter().find_map(|effect| match effect {
            Effect::WriteVerdict(gap) => Some(Decision::Quarantine(gap.code)),
            _ => None,
        });
        let released = ended.iter().any(|effect| matches!(effect, Effect::Release { .. }));
        verdict.unwrap_or(if released { Decision::GiveUp } else { Decision::Retry })
    }

    /// An earlier session of this tenure: all that the machine keeps of it is its name, and that there was one.
    fn claim_and_lose(&mut self, session: u8, end: SessionEnd) {
        self.inspect();
        self.tell(Input::HolderRead(Some(true)));
        let read = FenceRead {
            session: session_name(session),
            position: None,
            from: ReadFrom::Progress,
            last_open: None,
            witness: None,
            remains: None,
            kafka_cluster: None,
            topic_ids: TopicIds::default(),
        };
        self.tell(Input::SinkFenced(Box::new(read)));
        let claims = self.tell(Input::HolderRead(Some(true)));
        assert!(matches!(claims[..], [Effect::Claim(_)]), "{claims:?}");
        self.tell(Input::Claimed);
        self.tell(Input::Broken(end));
        assert_eq!(self.ended(), Decision::Retry);
        self.now = self.now + Duration::from_millis(500);
        assert_eq!(self.tell(Input::Tick), [Effect::Inspect]);
    }
}

fn identity(worker: u8) -> Identity {
    Identity {
        worker: worker_name(worker),
        nonce: "n".to_owned(),
        pipeline_hash: "p".to_owned(),
        worker_hash: "w".to_owned(),
        database: "appdb".to_owned(),
        config_hash: "c".to_owned(),
    }
}

fn observation(server: &Server, confirmed: Lsn) -> Observation {
    Observation {
        system_identifier: server.system_identifier,
        timeline: Some(server.history.current()),
        in_recovery: false,
        postmaster_started: "p".to_owned(),
        write_position: server.write_position,
        slot: Some(SlotFacts {
            plugin: Some("pgoutput".to_owned()),
            database: Some("appdb".to_owned()),
            confirmed_flush_lsn: Some(confirmed),
            ..SlotFacts::default()
        }),
        reader_name: None,
        reader_waits: false,
        publication_oid: server.publication_oid,
        members: String::new(),
    }
}

fn xid(transaction: usize) -> u32 {
    700 + transaction as u32
}

fn committed_at(transaction: usize) -> String {
    format!("2026-01-01T00:00:0{transaction}.000000Z")
}

/// The session's name, from 1.
pub(super) fn session_name(session: u8) -> String {
    format!("s{session}")
}

pub(super) fn worker_name(worker: u8) -> String {
    format!("worker-{}", worker + 1)
}

pub(super) fn etcd_name(etcd: u8) -> String {
    format!("etcd-{}", etcd + 1)
}

/// The number in a session's name.
pub(super) fn session_of(record: &ProgressRecord) -> u8 {
    record.session[1..].parse().expect("sessions are named by this file")
}

/// The lease under which a claim was made.
pub(super) fn lease_of(record: &ProgressRecord) -> Option<&LeaseMark> {
    record.lease.as_ref().filter(|_| record.record_type == RecordType::Claim)
}
