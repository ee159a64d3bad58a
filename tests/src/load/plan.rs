//! What the load's transactions do: drawn from a seed, as SQL.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use fastrand::Rng;

use super::weights::{Kind, Weights};

/// Rows that go in by COPY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyIn {
    /// The COPY statement.
    pub sql: String,
    /// What is sent after it, in COPY's text format.
    pub data: String,
}

/// How a transaction is meant to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a ledger row and COMMIT.
    Commit,
    /// With ROLLBACK: nobody may ever see it.
    Rollback,
}

/// One transaction but for its ledger row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its statements, in order.
    pub steps: Vec<String>,
    /// What is copied in after them.
    pub copy: Option<CopyIn>,
    /// How it ends.
    pub end: End,
}

/// Text in every row that is taken back on purpose: no consumer may ever see it.
pub const NEVER_SEEN: &str = "never seen";

const HOT_ROWS: RangeInclusive<u32> = 1..=5;
const REMEMBERED: usize = 500;
/// Rows of the table that is changed by thousands.
const BULK_ROWS: u32 = 20_000;

/// Draws the transactions of one connection. Its ids are its own, so that connections meet at few tables and at the hot
/// rows only, and there last: they hardly ever deadlock.
#[derive(Debug, Clone)]
pub struct Planner {
    rng: Rng,
    weights: Weights,
    client: u32,
    next_id: u64,
    stride: u64,
    /// Ids that may be in `items`. After an unknown outcome some are not; a change of such a row changes nothing.
    items: VecDeque<u64>,
}

impl Planner {
    /// A planner for connection `client` of `clients`; it makes ids above `first_id` only.
    pub fn new(seed: u64, weights: Weights, client: u32, clients: u32, first_id: u64) -> Self {
        Planner {
            rng: Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(client))),
            weights,
            client,
            next_id: first_id + 1 + u64::from(client),
            stride: u64::from(clients),
            items: VecDeque::new(),
        }
    }

    /// The next transaction.
    pub fn draw(&mut self) -> Transaction {
        let mut transaction = Transaction { steps: Vec::new(), copy: None, end: End::Commit };
        let kind = self.weights.draw(&mut self.rng);
        match kind {
            Kind::Rows => self.rows(&mut transaction),
            Kind::Slow => {
                self.operation(&mut transaction.steps);
                transaction.steps.push(format!("select pg_sleep({}.{})", self.rng.u8(1..4), self.rng.u8(..10)));
                self.operation(&mut transaction.steps);
            }
            Kind::Bulk => self.bulk(&mut transaction.steps),
            Kind::Copy => transaction.copy = Some(self.copy()),
            Kind::Columns => self.columns(&mut transaction.steps),
            Kind::Table => {
                let id = self.ids(3);
                transaction.steps.push("select pg_advisory_xact_lock(7401)".into());
                transaction.steps.push(format!("select lab.grow({id})"));
            }
            Kind::Truncate => self.truncate(&mut transaction.steps),
        }
        transaction
    }

    fn rows(&mut self, transaction: &mut Transaction) {
        let known = self.items.clone();
        let steps = &mut transaction.steps;
        if self.rng.u8(..100) < 4 {
            transaction.end = End::Rollback;
            let id = self.ids(1);
            steps.push(format!(
                "insert into items (id, owner, name, amount) values ({id}, {}, '{NEVER_SEEN}', 0)",
                self.client
            ));
        }
        for _ in 0..self.rng.u8(0..4) {
            self.operation(steps);
        }
        if self.rng.u8(..100) < 30 {
            steps.push(self.hot());
        }
        if transaction.end == End::Rollback {
            self.items = known;
        }
    }

    fn operation(&mut self, steps: &mut Vec<String>) {
        let step = match self.rng.u8(..100) {
            0..25 => self.insert(),
            25..35 => self.update("amount = amount + 1.25, at = clock_timestamp()"),
            35..40 => {
                let note = self.large();
                self.update(&format!("note = {note}"))
            }
            40..46 => self.update("name = name || '.'"),
            46..52 => self.delete(),
            52..58 => self.rename(),
            58..62 => format!(
                "update items set amount = amount - 0.50 where id in (select id from items where owner = {} order by id desc limit 20)",
                self.client
            ),
            62..76 => self.full(),
            76..84 => self.keyless(),
            84..86 => format!("insert into load_append (owner, note) values ({}, 'appended')", self.client),
            86..91 => self.pair(),
            91..95 => self.shaped(),
            _ => return self.taken_back(steps),
        };
        steps.push(step);
    }

    /// The first of `count` ids that nobody else uses.
    fn ids(&mut self, count: u64) -> u64 {
        let first = self.next_id;
        self.next_id += self.stride * count;
        first
    }

    fn item(&mut self) -> u64 {
        let id = self.ids(1);
        self.items.push_back(id);
        if self.items.len() > REMEMBERED {
            self.items.pop_front();
        }
        id
    }

    fn known(&mut self) -> u64 {
        match self.items.len() {
            0 => 0,
            n => self.items[self.rng.usize(..n)],
        }
    }

    fn insert(&mut self) -> String {
        let rows: Vec<String> = (0..self.rng.u8(1..4))
            .map(|_| {
                let note = match self.rng.u8(..10) {
                    0 => self.large(),
                    1..5 => "null".into(),
                    _ => format!("'note {}, \"quoted\" \\ ünïcode'", self.rng.u32(..)),
                };
                let cents = self.rng.i64(-1_000_000..1_000_000);
                format!(
                    "({}, {}, 'item {}', {cents}::numeric / 100, {note})",
                    self.item(),
                    self.client,
                    self.rng.u16(..)
                )
            })
            .collect();
        format!("insert into items (id, owner, name, amount, note) values {}", rows.join(", "))
    }

    /// Large enough to be stored out of line, so that a later change of another column does not send it.
    fn large(&mut self) -> String {
        let blocks = self.rng.u32(100..250);
        format!("(select string_agg(md5(random()::text), '') from generate_series(1, {blocks}))")
    }

    fn update(&mut self, set: &str) -> String {
        format!("update items set {set} where id = {}", self.known())
    }

    fn delete(&mut self) -> String {
        let id = self.known();
        self.items.retain(|known| *known != id);
        format!("delete from items where id = {id}")
    }

    fn rename(&mut self) -> String {
        let old = self.known();
        self.items.retain(|known| *known != old);
        let new = self.item();
        format!("update items set id = {new} where id = {old}")
    }

    /// A row of this connection in another table.
    fn mine(&mut self, table: &str, key: &str) -> String {
        let clients = self.stride;
        let last = (u64::from(self.client) + 1) % clients;
        let offset = self.rng.u8(..5);
        format!(
            "(select {key} from {table} where {key} % {clients} = {last} order by {key} desc limit 1 offset {offset})"
        )
    }

    fn full(&mut self) -> String {
        let row = self.mine("load_full", "id");
        match self.rng.u8(..10) {
            0..4 => {
                let (id, body) = (self.ids(1), self.large());
                let (day, number) = (self.rng.u16(..20_000), self.rng.i32(..));
                format!(
                    "insert into load_full values ({id}, {}, {}, date '1970-01-01' + {day}, timestamp '2026-01-01' + {number} * interval '1 ms', {number}::numeric / 1000, decode(md5('{number}'), 'hex'), '{{\"n\": {number}, \"list\": [1, null, \"x\"]}}', {body})",
                    self.client,
                    self.rng.bool()
                )
            }
            4..7 => format!("update load_full set flag = not flag, amount = amount * 1.1 where id = {row}"),
            7 => format!("update load_full set id = {}, day = null where id = {row}", self.ids(1)),
            8 => {
                let body = self.large();
                format!("update load_full set body = {body}, raw = null where id = {row}")
            }
            _ => format!("delete from load_full where id = {row}"),
        }
    }

    /// Some of these rows are equal in all columns.
    fn keyless(&mut self) -> String {
        let (client, name) = (self.client, self.rng.u8(..6));
        match self.rng.u8(..10) {
            0..6 => format!(
                "insert into load_keyless select {client}, 'n{name}', 1.00, null from generate_series(1, {})",
                self.rng.u8(1..3)
            ),
            6..8 => format!(
                "update load_keyless set amount = amount + 0.01, note = 'changed' where owner = {client} and name = 'n{name}'"
            ),
            _ => format!("delete from load_keyless where owner = {client} and name = 'n{name}'"),
        }
    }

    fn pair(&mut self) -> String {
        let row = self.mine("load_pair", "code");
        match self.rng.u8(..10) {
            0..5 => format!("insert into load_pair values ('north', {}, 1, null)", self.ids(1)),
            5..7 => format!("update load_pair set value = value + 1 where code = {row}"),
            7..9 => format!(
                "update load_pair set region = case region when 'north' then 'süd, \"west\"' else 'north' end where code = {row}"
            ),
            _ => format!("delete from load_pair where code = {row}"),
        }
    }

    fn shaped(&mut self) -> String {
        let row = self.mine("load_shapes", "id");
        match self.rng.u8(..10) {
            0..5 => {
                format!("insert into load_shapes (id, owner, name) values ({}, {}, 'shape')", self.ids(1), self.client)
            }
            5..9 => format!("update load_shapes set name = name || '.' where id = {row}"),
            _ => format!("delete from load_shapes where id = {row}"),
        }
    }

    /// Rows that a savepoint takes back, inside another one or not.
    fn taken_back(&mut self, steps: &mut Vec<String>) {
        let known = self.items.clone();
        let mark = format!("note = '{NEVER_SEEN}'");
        steps.push("savepoint outer_part".into());
        if self.rng.bool() {
            // Released inside, taken back with the outer one.
            let inside = [self.update(&mark), "release savepoint inner_part".into()];
            steps.push("savepoint inner_part".into());
            steps.extend(inside);
        }
        let id = self.ids(1);
        steps.push(format!(
            "insert into items (id, owner, name, amount) values ({id}, {}, '{NEVER_SEEN}', 0)",
            self.client
        ));
        steps.push(self.update(&mark));
        steps.push("rollback to savepoint outer_part".into());
        self.items = known;
    }

    fn bulk(&mut self, steps: &mut Vec<String>) {
        steps.push("select pg_advisory_xact_lock(7402)".into());
        if self.rng.u8(..4) == 0 {
            let rows = self.rng.u64(2_000..4_000);
            let (first, stride) = (self.ids(rows), self.stride);
            steps.push(format!(
                "insert into items (id, owner, name, amount) select {first} + n * {stride}, -1, 'bulk ' || n, n from generate_series(0, {}) n",
                rows - 1
            ));
            return;
        }
        let rows = self.rng.u32(10_000..=BULK_ROWS);
        steps.push(format!(
            "insert into load_bulk select -n, 0, 'bulk ' || n from generate_series(1, {BULK_ROWS}) n where not exists (select from load_bulk)"
        ));
        steps.push(format!("update load_bulk set value = value + 1 where id >= -{rows}"));
    }

    fn copy(&mut self) -> CopyIn {
        let rows = self.rng.u64(20..200);
        let (first, stride, client) = (self.ids(rows), self.stride, self.client);
        let data = (0..rows).map(|n| format!("{}\t{client}\tcopied\t{n}.50\t\\N\n", first + n * stride)).collect();
        CopyIn { sql: "copy items (id, owner, name, amount, note) from stdin".into(), data }
    }

    /// Rows before and after a change of columns, all in one transaction.
    fn columns(&mut self, steps: &mut Vec<String>) {
        let kinds = ["text", "text default 'given'", "bigint", "boolean", "bigint default 7"];
        let kind = kinds[self.rng.usize(..kinds.len())].replace('\'', "''");
        steps.push("set local lock_timeout = '3s'".into());
        steps.push("select pg_advisory_xact_lock(7403)".into());
        steps.push("lock table load_shapes in access exclusive mode".into());
        steps.push(self.shaped());
        steps.push(format!("select lab.reshape('{kind}')"));
        steps.push(self.shaped());
    }

    fn truncate(&mut self, steps: &mut Vec<String>) {
        let (id, stride) = (self.ids(3), self.stride);
        steps.push("set local lock_timeout = '3s'".into());
        steps.push("truncate load_scratch".into());
        steps.push(format!("insert into load_scratch select {id} + n * {stride}, 'new' from generate_series(0, 2) n"));
    }

    fn hot(&mut self) -> String {
        let id = self.rng.u32(HOT_ROWS);
        format!(
            "insert into latest (id, value, note) values ({id}, 1, 'client {0}') on conflict (id) do update set value = latest.value + 1, note = 'client {0}'",
            self.client
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_transactions() {
        let draw = |seed| {
            let mut planner = Planner::new(seed, Weights::default(), 1, 8, 0);
            (0..200).map(|_| planner.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn connections_make_ids_of_their_own() {
        let planner = |client| Planner::new(1, Weights::default(), client, 2, 100);
        let ids = [0, 1].map(|client| {
            let mut planner = planner(client);
            (0..50).map(|_| planner.item()).collect::<Vec<_>>()
        });
        assert!(ids[0].iter().all(|id| !ids[1].contains(id) && *id > 100));
    }
}
