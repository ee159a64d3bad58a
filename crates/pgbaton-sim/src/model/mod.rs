//! The claim transaction and everything that defends it, as a model that is explored to its last state.
//!
//! ```text
//!  defence   what can be removed, and how much may go wrong (Bounds)
//!  kafka     coordinator with epochs, partitions, late ends of transactions
//!  postgres  a few transactions and a slot
//!  machine   the SHIPPED decisions: Worker, Journal, Stream, first_open; asked once, then remembered
//!  state     everything there is at one moment
//!  steps     what may happen next: two workers, and the world around them
//!  session   ... to a worker in a session
//!  laws      what must be true, seen from outside
//!  explore   all states, breadth first; can it still finish, from each of them?
//!  story     a counter-example in words
//! ```
//!
//! A defence is removed by a patch of the world: the model does not ask, does not wait, or hands the machine something else
//! than what is there. What is modelled, and what was found, is in docs/model.md.

mod defence;
mod explore;
mod kafka;
mod laws;
mod machine;
mod postgres;
mod session;
mod state;
mod steps;
mod story;

pub use defence::{Bounds, Defence};
pub use explore::{CounterExample, Explored, World, explore};
pub use state::State;
pub use steps::{Delivery, Step};

use std::cell::RefCell;
use std::collections::HashMap;

use machine::Machine;

/// A world of this size, with some defences removed.
#[derive(Debug)]
pub struct Model {
    bounds: Bounds,
    removed: &'static [Defence],
    machine: Machine,
    /// What was found of the laws about a content of the progress partition.
    judged: RefCell<HashMap<Vec<u16>, Judged>>,
}

/// The rows that consumers must have seen, and the law that is broken.
type Judged = (machine::Rows, Option<String>);

impl Model {
    /// The protocol in a world of this size, without the defences that are named.
    pub fn new(bounds: Bounds, removed: &'static [Defence]) -> Self {
        let mut machine = Machine::new(bounds.log, bounds.atomic_up_to);
        machine.repeats_torn = !removed.contains(&Defence::TornRepeated);
        machine.knows_keys = !removed.contains(&Defence::GreaterIdOfKey);
        machine.forgets_etcds = removed.contains(&Defence::ClustersLeft);
        Model { bounds, removed, machine, judged: RefCell::default() }
    }

    fn lacks(&self, defence: Defence) -> bool {
        self.removed.contains(&defence)
    }
}
