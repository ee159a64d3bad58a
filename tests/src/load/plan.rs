//! What the writer's transactions do: drawn from a seed, as SQL.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use fastrand::Rng;

/// A statement of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// One SQL statement.
    pub sql: String,
    /// Whether its rows count: not so for what a savepoint takes back.
    pub counts: bool,
}

/// How a transaction is meant to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a ledger row and COMMIT.
    Commit,
    /// With ROLLBACK: nobody may ever see it.
    Rollback,
}

/// One transaction but for its ledger row, which needs to know how many rows the steps changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its statements, in order.
    pub steps: Vec<Step>,
    /// How it ends.
    pub end: End,
}

const HOT_ROWS: RangeInclusive<u32> = 1..=5;
const REMEMBERED: usize = 500;

/// Draws the transactions of one connection. Its ids are its own, so that connections meet at the hot rows only, and
/// there last: they never deadlock.
#[derive(Debug, Clone)]
pub struct Planner {
    rng: Rng,
    client: u32,
    next_id: u64,
    stride: u64,
    /// Ids that may be in the table. After an unknown outcome some are not; a change of such a row counts 0.
    items: VecDeque<u64>,
}

impl Planner {
    /// A planner for connection `client` of `clients`; it makes ids above `first_id` only.
    pub fn new(seed: u64, client: u32, clients: u32, first_id: u64) -> Self {
        Planner {
            rng: Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(client))),
            client,
            next_id: first_id + 1 + u64::from(client),
            stride: u64::from(clients),
            items: VecDeque::new(),
        }
    }

    /// The next transaction.
    pub fn draw(&mut self) -> Transaction {
        let end = if self.rng.u8(..100) < 4 { End::Rollback } else { End::Commit };
        let known = self.items.clone();
        let mut steps = Vec::new();
        if self.rng.u16(..600) == 0 {
            steps.push(self.many());
        } else {
            for _ in 0..self.rng.u8(0..4) {
                self.operation(&mut steps);
            }
            if self.rng.u8(..100) < 30 {
                steps.push(self.hot());
            }
        }
        if end == End::Rollback {
            self.items = known;
        }
        Transaction { steps, end }
    }

    fn operation(&mut self, steps: &mut Vec<Step>) {
        let step = match self.rng.u8(..100) {
            0..40 => self.insert(),
            40..55 => self.update("amount = amount + 1.25, at = clock_timestamp()"),
            55..62 => {
                let note = self.large();
                self.update(&format!("note = {note}"))
            }
            62..70 => self.update("name = name || '.'"),
            70..80 => self.delete(),
            80..88 => self.rename(),
            88..94 => counted(format!(
                "update items set amount = amount - 0.50 where id in (select id from items where owner = {} order by id desc limit 20)",
                self.client
            )),
            _ => return self.taken_back(steps),
        };
        steps.push(step);
    }

    fn id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += self.stride;
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

    fn insert(&mut self) -> Step {
        let rows: Vec<String> = (0..self.rng.u8(1..4))
            .map(|_| {
                let note = match self.rng.u8(..10) {
                    0 => self.large(),
                    1..5 => "null".into(),
                    _ => format!("'note {}, \"quoted\" \\ ünïcode'", self.rng.u32(..)),
                };
                let cents = self.rng.i64(-1_000_000..1_000_000);
                format!("({}, {}, 'item {}', {cents}::numeric / 100, {note})", self.id(), self.client, self.rng.u16(..))
            })
            .collect();
        counted(format!("insert into items (id, owner, name, amount, note) values {}", rows.join(", ")))
    }

    /// Large enough to be stored out of line, so that a later change of another column does not send it.
    fn large(&mut self) -> String {
        let blocks = self.rng.u32(100..250);
        format!("(select string_agg(md5(random()::text), '') from generate_series(1, {blocks}))")
    }

    fn update(&mut self, set: &str) -> Step {
        counted(format!("update items set {set} where id = {}", self.known()))
    }

    fn delete(&mut self) -> Step {
        let id = self.known();
        self.items.retain(|known| *known != id);
        counted(format!("delete from items where id = {id}"))
    }

    fn rename(&mut self) -> Step {
        let old = self.known();
        self.items.retain(|known| *known != old);
        let new = self.id();
        counted(format!("update items set id = {new} where id = {old}"))
    }

    fn taken_back(&mut self, steps: &mut Vec<Step>) {
        let known = self.items.clone();
        let inside = [self.insert(), self.update("note = 'never seen'")];
        self.items = known;
        let uncounted = |sql: &str| Step { sql: sql.into(), counts: false };
        steps.push(uncounted("savepoint part"));
        steps.extend(inside.map(|step| Step { counts: false, ..step }));
        steps.push(uncounted("rollback to savepoint part"));
    }

    fn many(&mut self) -> Step {
        let (rows, first, stride) = (self.rng.u64(2_000..4_000), self.next_id, self.stride);
        self.next_id += rows * stride;
        counted(format!(
            "insert into items (id, owner, name, amount) select {first} + n * {stride}, -1, 'bulk ' || n, n from generate_series(0, {}) n",
            rows - 1
        ))
    }

    fn hot(&mut self) -> Step {
        let id = self.rng.u32(HOT_ROWS);
        counted(format!(
            "insert into latest (id, value, note) values ({id}, 1, 'client {0}') on conflict (id) do update set value = latest.value + 1, note = 'client {0}'",
            self.client
        ))
    }
}

fn counted(sql: String) -> Step {
    Step { sql, counts: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_transactions() {
        let draw = |seed| {
            let mut planner = Planner::new(seed, 1, 8, 0);
            (0..200).map(|_| planner.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn connections_make_ids_of_their_own() {
        let mut planners = [Planner::new(1, 0, 2, 100), Planner::new(1, 1, 2, 100)];
        let ids: Vec<Vec<u64>> = planners.iter_mut().map(|planner| (0..50).map(|_| planner.id()).collect()).collect();
        assert!(ids[0].iter().all(|id| !ids[1].contains(id) && *id > 100));
    }
}
