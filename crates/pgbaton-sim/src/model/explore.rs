//! Visits every state that a world can come to, breadth first: the first path to a broken law is a shortest one.
//!
//! It is our own and not a model checker from outside because of the question that it answers behind the laws: can the
//! world still finish, from *every* state? ("On every path it finishes" is another question, and a false one here: a
//! world in which nobody takes a step never finishes.)

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use xxhash_rust::xxh3::Xxh3;

/// Something that goes on in steps.
pub trait World {
    /// All that there is at one moment.
    type State: Clone + Hash;
    /// What may happen next.
    type Step: Copy;

    /// Where it begins.
    fn initial(&self) -> Self::State;
    /// All that may happen, each with what there is then.
    fn next(&self, state: &Self::State, next: &mut Vec<(Self::Step, Self::State)>);
    /// The law that this state breaks.
    fn broken_law(&self, state: &Self::State) -> Option<String>;
    /// Nothing is left to do.
    fn is_finished(&self, state: &Self::State) -> bool;
}

/// What came of it.
#[derive(Debug)]
pub struct Explored<Step> {
    /// How many different states were seen.
    pub states: usize,
    /// The shortest way to a broken law, if there is one.
    pub counter_example: Option<CounterExample<Step>>,
}

/// A way to a state that must not be.
#[derive(Debug)]
pub struct CounterExample<Step> {
    /// What is wrong there.
    pub law: String,
    /// How to come there.
    pub steps: Vec<Step>,
}

struct Seen<Step> {
    by_hash: HashMap<u128, u32>,
    /// Where each state was come to from.
    from: Vec<Option<(u32, Step)>>,
    /// All steps between states that were seen.
    edges: Vec<(u32, u32)>,
    finished: Vec<u32>,
}

/// Explores it all, or up to the first broken law.
///
/// # Panics
///
/// If there are more than `most` states: then the bounds of the world are wrong.
pub fn explore<W: World>(world: &W, most: usize) -> Explored<W::Step> {
    let initial = world.initial();
    let mut seen = Seen {
        by_hash: HashMap::from([(fingerprint(&initial), 0)]),
        from: vec![None],
        edges: Vec::new(),
        finished: Vec::new(),
    };
    let mut layer = vec![(0, initial)];
    let mut next = Vec::new();
    while !layer.is_empty() {
        let mut following = Vec::new();
        for (number, state) in layer {
            if let Some(law) = world.broken_law(&state) {
                return seen.broken(law, number);
            }
            if world.is_finished(&state) {
                seen.finished.push(number);
            }
            world.next(&state, &mut next);
            for (step, state) in next.drain(..) {
                let fresh = seen.from.len() as u32;
                let known = *seen.by_hash.entry(fingerprint(&state)).or_insert(fresh);
                seen.edges.push((number, known));
                if known == fresh {
                    seen.from.push(Some((number, step)));
                    following.push((fresh, state));
                }
            }
        }
        assert!(seen.from.len() <= most, "more than {most} states");
        layer = following;
    }
    match seen.dead_end() {
        Some(number) => seen.broken("nothing can lead to everything being published any more".to_owned(), number),
        None => Explored { states: seen.from.len(), counter_example: None },
    }
}

fn fingerprint(state: &impl Hash) -> u128 {
    let mut hasher = Fingerprint(Xxh3::new());
    state.hash(&mut hasher);
    hasher.0.digest128()
}

/// 128 bits, so that two states which are taken for one are not to be feared.
struct Fingerprint(Xxh3);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.digest()
    }
}

impl<Step: Copy> Seen<Step> {
    fn broken(self, law: String, number: u32) -> Explored<Step> {
        let mut steps = Vec::new();
        let mut at = number;
        while let Some((before, step)) = self.from[at as usize] {
            steps.push(step);
            at = before;
        }
        steps.reverse();
        Explored { states: self.from.len(), counter_example: Some(CounterExample { law, steps }) }
    }

    /// The first state from which no path leads to a finished one.
    fn dead_end(&self) -> Option<u32> {
        let states = self.from.len();
        // The edges by where they lead to, as one array with the beginnings of its parts.
        let mut begin = vec![0_usize; states + 1];
        for (_, to) in &self.edges {
            begin[*to as usize + 1] += 1;
        }
        for state in 0..states {
            begin[state + 1] += begin[state];
        }
        let (mut place, mut sources) = (begin.clone(), vec![0_u32; self.edges.len()]);
        for (from, to) in &self.edges {
            sources[place[*to as usize]] = *from;
            place[*to as usize] += 1;
        }
        let mut can_finish = vec![false; states];
        let mut left = self.finished.clone();
        while let Some(state) = left.pop() {
            let state = state as usize;
            if !std::mem::replace(&mut can_finish[state], true) {
                left.extend(&sources[begin[state]..begin[state + 1]]);
            }
        }
        can_finish.iter().position(|can| !can).map(|state| state as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up by one or by two, and knows no number beyond `last`.
    struct Counting {
        last: u8,
        forbidden: Option<u8>,
        finished: u8,
    }

    impl World for Counting {
        type State = u8;
        type Step = u8;

        fn initial(&self) -> u8 {
            0
        }

        fn next(&self, state: &u8, next: &mut Vec<(u8, u8)>) {
            next.extend([1, 2].map(|step| (step, state + step)).into_iter().filter(|(_, to)| *to <= self.last));
        }

        fn broken_law(&self, state: &u8) -> Option<String> {
            (self.forbidden == Some(*state)).then(|| "forbidden".to_owned())
        }

        fn is_finished(&self, state: &u8) -> bool {
            *state == self.finished
        }
    }

    #[test]
    fn the_way_to_a_broken_law_is_a_shortest_one() {
        let explored = explore(&Counting { last: 9, forbidden: Some(7), finished: 9 }, 100);
        assert_eq!(explored.counter_example.unwrap().steps.len(), 4);
    }

    #[test]
    fn a_state_from_which_nothing_finishes_is_found() {
        let explored = explore(&Counting { last: 9, forbidden: None, finished: 8 }, 100);
        let dead_end = explored.counter_example.unwrap();
        assert_eq!(dead_end.steps.iter().sum::<u8>(), 9);
        assert!(explore(&Counting { last: 9, forbidden: None, finished: 9 }, 100).counter_example.is_none());
    }
}
