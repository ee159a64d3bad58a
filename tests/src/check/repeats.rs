//! What may stand in the topics a second time where delivery is at least once: what a session found behind its checkpoint, told
//! as it was told before.

use std::collections::HashMap;

use super::event::{Event, EventId};
use super::history::{History, Place};
use super::verdict::{Invariant, Verdict};

/// Judges the repeats and counts them. Returns the first occurrences, in the order in which they were read.
pub fn judge<'a>(history: &'a History, verdict: &mut Verdict) -> Vec<&'a Event> {
    let mut same = Invariant::new(3, "a repeated record is the one that was told before");
    let mut behind = Invariant::new(3, "only what is behind the checkpoint of a session is repeated by it");
    let claims: HashMap<u64, (u32, u64)> = history
        .progress
        .iter()
        .filter(|record| record.says.kind == "claim")
        .filter_map(|record| Some((record.says.term?, record.says.position.as_ref().map(Place::order)?)))
        .collect();
    let mut first: HashMap<EventId, &Event> = HashMap::with_capacity(history.events.len());
    let mut told = Vec::with_capacity(history.events.len());
    for event in &history.events {
        let Some(before) = first.get(&event.id) else {
            first.insert(event.id, event);
            told.push(event);
            continue;
        };
        verdict.repeated += 1;
        same.look(is_same(before, event), || format!("{event} was told before as {before}"));
        // Whichever of the two was written later; the other one was on its way for long.
        let later = event.term.max(before.term);
        let began = claims.get(&later);
        let place = (event.id.timeline, event.id.lsn);
        behind.look(event.term != before.term && began.is_some_and(|began| *began <= place), || {
            format!("{event} was told before as {before}; term {later} began at {began:?}")
        });
    }
    verdict.duplicated += same.broken + behind.broken;
    verdict.invariants.extend([same, behind]);
    told
}

/// Times of processing are not looked at.
fn is_same(one: &Event, other: &Event) -> bool {
    let content = |event: &Event| (event.op, event.key.clone(), event.before.clone(), event.after.clone(), event.moves);
    one.table == other.table && one.partition == other.partition && content(one) == content(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::history::{Progress, Record};

    /// A record of term 1 at LSN 100 and at 200; term 2 began at 150. Then `more`.
    fn history(more: &[(u64, u64, u64)]) -> History {
        let mut history = History::new("p");
        for (offset, (term, lsn, value)) in (0..).zip([(1, 0x100, 1), (1, 0x200, 2)].iter().chain(more)) {
            let value = format!(r#"{{"before":null,"after":{{"id":7,"value":{value}}},"op":"c"}}"#);
            let header = |name: &str, value: String| (name.to_owned(), value);
            history.take(&Record {
                topic: "p.public.latest".into(),
                partition: 0,
                offset,
                at_ms: 0,
                key: Some(r#"{"id":7}"#.into()),
                value: Some(value),
                headers: vec![
                    header("pgbaton.id", format!("7/1/0/{lsn:X}/0")),
                    header("pgbaton.term", term.to_string()),
                ],
            });
        }
        assert_eq!(history.unreadable, Vec::<String>::new());
        let claim = r#"{"type":"claim","term":2,"session":"s","number":0,"worker":"w",
            "position":{"system_identifier":"7","timeline":1,"lsn":"0/150"}}"#;
        let says = serde_json::from_str(claim).unwrap();
        history.progress.push(Progress { offset: 1, at_ms: 0, key: "position".into(), value: claim.into(), says });
        history
    }

    fn judged(more: &[(u64, u64, u64)]) -> (usize, Verdict) {
        let (history, mut verdict) = (history(more), Verdict::default());
        (judge(&history, &mut verdict).len(), verdict)
    }

    #[test]
    fn what_is_told_again_behind_the_checkpoint_is_no_duplicate() {
        let (first, verdict) = judged(&[(2, 0x200, 2), (2, 0x300, 3)]);
        assert_eq!((first, verdict.repeated, verdict.duplicated), (3, 1, 0), "{verdict}");
    }

    #[test]
    fn what_is_told_again_otherwise_is_one() {
        for (more, why) in [
            ((2, 0x200, 9), "another content"),
            ((2, 0x100, 1), "before the checkpoint"),
            ((1, 0x200, 2), "by the same session"),
        ] {
            let (_, verdict) = judged(&[more]);
            assert_eq!((verdict.repeated, verdict.duplicated), (1, 1), "{why}: {verdict}");
        }
    }
}
