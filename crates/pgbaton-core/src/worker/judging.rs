//! Verdicts while nothing runs: when a worker in quarantine may try again, and what it says meanwhile.

use super::{Effect, Input, LOOK_AGAIN, Observation, Quarantined, Role, VerdictSeen, Worker};
use crate::{Code, Gap, Moment, SlotState, accepts};

/// What a new look means for a worker in quarantine.
enum Look {
    /// Nothing has changed.
    Same,
    /// The cause is another one now, or its range.
    Now(Gap),
    /// The cause is gone.
    Gone,
}

impl Worker {
    pub(super) fn in_quarantine(
        &mut self,
        now: Moment,
        mut quarantined: Quarantined,
        input: Input,
        effects: &mut Vec<Effect>,
    ) -> Role {
        if self.may_go_on_with(&quarantined.gap) {
            return Role::Standby;
        }
        let Input::Observed { observation, .. } = input else {
            return Role::Quarantine(Box::new(quarantined));
        };
        if observation.in_recovery {
            return Role::Quarantine(Box::new(quarantined));
        }
        if self.is_streamed_by_another(&observation) {
            return Role::Standby;
        }
        match look(&quarantined, &observation, &self.identity.database) {
            // A cause that is gone is believed at the next look, so that one that comes and goes does not flap.
            Look::Gone if now >= quarantined.look_again => Role::Standby,
            Look::Gone => Role::Quarantine(Box::new(quarantined)),
            Look::Same => {
                if now >= quarantined.look_again {
                    quarantined.look_again = now + LOOK_AGAIN;
                }
                Role::Quarantine(Box::new(quarantined))
            }
            Look::Now(gap) => {
                effects.push(Effect::WriteVerdict(gap.clone()));
                Role::Quarantine(Box::new(Quarantined { gap, ..quarantined }))
            }
        }
    }
}

impl Worker {
    /// The verdict that somebody has accepted, whoever came to it.
    pub(super) fn accepted(&self) -> Option<&VerdictSeen> {
        let seen = self.view.as_ref().and_then(|view| view.verdict.as_ref()).filter(|verdict| verdict.accepted);
        seen.or(self.accepted_here.as_ref())
    }

    fn may_go_on_with(&self, gap: &Gap) -> bool {
        accepts(self.policy.accept_gaps, self.accepted(), gap)
    }
}

fn look(quarantined: &Quarantined, observation: &Observation, database: &str) -> Look {
    let gap = &quarantined.gap;
    match gap.code {
        // The slot is sound and its WAL is gone: only another slot makes a difference.
        Code::WalRemoved => match SlotState::of(observation.slot.as_ref(), database) {
            SlotState::Usable { confirmed_flush_lsn } if confirmed_flush_lsn <= gap.from_lsn => Look::Same,
            _ => slot_again(quarantined, observation, database),
        },
        Code::SlotMissing | Code::SlotAhead | Code::SlotLost | Code::SlotInvalidated | Code::SlotWrongKind => {
            slot_again(quarantined, observation, database)
        }
        Code::PublicationMissing | Code::PublicationChanged => {
            let wanted = quarantined.recorded.as_ref().and_then(|recorded| recorded.publication.as_ref());
            match (wanted, observation.publication_oid) {
                (_, None) => Look::Same,
                (Some(mark), Some(oid)) if mark.oid != oid && gap.code == Code::PublicationMissing => Look::Now(Gap {
                    code: Code::PublicationChanged,
                    text: format!(
                        "the publication has OID {oid}, progress was made under OID {}: it was dropped and created \
                             again, and changes written between are not in the stream",
                        mark.oid
                    ),
                    ..gap.clone()
                }),
                (Some(mark), Some(oid)) if mark.oid != oid => Look::Same,
                _ => Look::Gone,
            }
        }
        Code::WrongCluster | Code::TimelineUnknown | Code::TimelineBackwards | Code::Diverged => {
            let moved = quarantined.seen_on.is_some_and(|(system, timeline)| {
                system != observation.system_identifier || observation.timeline.is_some_and(|now| now != timeline)
            });
            if moved { Look::Gone } else { Look::Same }
        }
        _ => Look::Same,
    }
}

fn slot_again(quarantined: &Quarantined, observation: &Observation, database: &str) -> Look {
    let gap = &quarantined.gap;
    let first_start = quarantined.recorded.is_none();
    let changed = |code, to_lsn, text| {
        if gap.code == code && gap.to_lsn == to_lsn {
            Look::Same
        } else {
            Look::Now(Gap { code, to_lsn, text, ..gap.clone() })
        }
    };
    match SlotState::of(observation.slot.as_ref(), database) {
        SlotState::Usable { confirmed_flush_lsn } if first_start || confirmed_flush_lsn <= gap.from_lsn => Look::Gone,
        SlotState::Usable { confirmed_flush_lsn } => changed(
            Code::SlotAhead,
            Some(confirmed_flush_lsn),
            format!(
                "the slot has confirmed {confirmed_flush_lsn}, but only {} is durable: changes that commit between \
                 cannot be had from it",
                gap.from_lsn
            ),
        ),
        // Its range grows while it is away; a new text for every look would tell nobody more.
        SlotState::Missing if gap.code == Code::SlotMissing => Look::Same,
        SlotState::Missing => {
            changed(Code::SlotMissing, Some(observation.write_position), "the slot does not exist".to_owned())
        }
        SlotState::Unreadable { code, .. } if code == gap.code => Look::Same,
        SlotState::Unreadable { code, detail } => changed(code, Some(observation.write_position), detail),
        SlotState::WrongKind { .. } if gap.code == Code::SlotWrongKind => Look::Same,
        SlotState::WrongKind { detail } => changed(Code::SlotWrongKind, None, detail),
    }
}
