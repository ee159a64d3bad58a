//! The model, explored: with all its defences the protocol keeps every law, and without any one of them it breaks one. How
//! it breaks is told in `stories/`; `UPDATE_STORIES=1` writes them anew.

use pgbaton_core::Code;
use pgbaton_sim::model::{Bounds, Defence, Model, explore};

/// More than any world here has: a larger one has the wrong bounds.
const MOST: usize = 400_000;

/// Worker 1 streams already; two transactions.
const STREAMING: Bounds = Bounds { streaming: true, ..Bounds::QUIET };

/// The same, and once a commit is sent twice without its producer noticing it; and a session may end at any time.
const UNNOTICED: Bounds = Bounds { doubled_ends: 1, doubling_is_noticed: false, breaks: 1, ..STREAMING };

/// Three transactions, the last of three rows.
const LONGER: &[&[char]] = &[&['a'], &['a', 'b'], &['b', 'a', 'a']];

fn holds(bounds: Bounds) {
    holds_without(&[], bounds, MOST);
}

fn holds_without(removed: &'static [Defence], bounds: Bounds, most: usize) {
    let told = format!("{bounds:?}");
    let model = Model::new(bounds, removed);
    let explored = explore(&model, most);
    println!("{} states: {told}", explored.states);
    if let Some(counter_example) = explored.counter_example {
        panic!("{told}\n{}", model.story(&counter_example));
    }
}

/// There is a counter-example, and it is the one that is told in `stories/NAME.txt`.
fn breaks(name: &str, bounds: Bounds, removed: &'static [Defence]) {
    let model = Model::new(bounds, removed);
    let counter_example = explore(&model, MOST).counter_example.expect("a counter-example");
    let story = model.story(&counter_example);
    let path = format!("{}/tests/stories/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_STORIES").is_some() {
        std::fs::write(&path, &story).expect("stories can be written");
    }
    let told = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(story == told, "{path} tells another story than this one:\n{story}");
}

#[test]
fn the_protocol_loses_nothing_at_these_bounds() {
    holds(Bounds { lease_losses: 2, breaks: 1, ..Bounds::QUIET });
    holds(Bounds { lease_losses: 1, breaks: 1, time_outs: 1, ..Bounds::QUIET });
}

#[test]
fn what_postgresql_is_told_is_always_durable() {
    holds(Bounds { lease_losses: 1, breaks: 1, time_outs: 1, acknowledges: true, ..Bounds::QUIET });
}

#[test]
fn it_does_not_matter_where_transactions_are_cut() {
    holds(Bounds { lease_losses: 1, breaks: 1, log: LONGER, batch: 2, ..Bounds::QUIET });
    holds(Bounds { lease_losses: 1, breaks: 1, log: LONGER, atomic_up_to: 1, ..Bounds::QUIET });
}

#[test]
fn steps_that_are_taken_together_elsewhere_make_no_difference_when_taken_one_by_one() {
    holds(Bounds { lease_losses: 1, breaks: 1, time_outs: 1, step_by_step: true, ..Bounds::QUIET });
}

#[test]
fn no_transaction_is_torn_where_every_doubled_end_is_noticed() {
    holds(Bounds { lease_losses: 1, breaks: 1, doubled_ends: 1, ..Bounds::QUIET });
    holds(Bounds { lease_losses: 1, breaks: 1, doubled_ends: 2, log: LONGER, ..STREAMING });
}

/// Waiting for acknowledgements is the second line, behind the instance rule.
#[test]
fn a_bracket_that_is_only_sent_is_enough_where_every_doubled_end_is_noticed() {
    let bounds = Bounds { lease_losses: 1, breaks: 1, doubled_ends: 2, step_by_step: true, ..STREAMING };
    holds_without(&[Defence::OpenFirst, Defence::CloseLast], bounds, MOST);
}

#[test]
fn a_torn_transaction_is_neither_lost_nor_doubled() {
    holds(Bounds { lease_losses: 1, compactions: 1, ..UNNOTICED });
    holds(Bounds { doubled_ends: 2, compactions: 1, log: LONGER, ..UNNOTICED });
    holds(Bounds { doubled_ends: 2, compactions: 1, batch: 2, ..UNNOTICED });
    holds(Bounds { doubled_ends: 2, compactions: 1, log: &[&['a', 'b', 'a']], atomic_up_to: 1, ..UNNOTICED });
}

#[test]
fn two_etcds_lose_nothing_and_come_to_an_end() {
    let verdict = Some(Code::EtcdReset);
    holds(Bounds { etcd_faults: 1, verdict, claims: 5, ..STREAMING });
    holds(Bounds { etcd_faults: 1, lease_losses: 1, verdict, claims: 4, ..STREAMING });
}

#[test]
fn a_holder_that_goes_on_without_etcd_harms_nobody() {
    holds(Bounds { etcd_cuts: 2, lease_losses: 1, ..STREAMING });
    holds(Bounds { etcd_cuts: 1, lease_losses: 1, breaks: 1, ..STREAMING });
}

#[test]
fn without_the_instance_rule_a_transaction_becomes_visible_in_part() {
    breaks("instance_rule", Bounds { doubling_is_noticed: true, ..UNNOTICED }, &[Defence::InstanceRule]);
}

#[test]
fn with_an_instance_that_goes_on_after_its_abort_two_late_ends_double_a_row() {
    let bounds = Bounds { doubled_ends: 2, ..UNNOTICED };
    breaks("abort_ends_instance", bounds, &[Defence::AbortEndsInstance]);
}

#[test]
fn without_the_bracket_a_late_commit_doubles_a_row() {
    breaks("bracket_late_commit", UNNOTICED, &[Defence::Bracket]);
}

#[test]
fn without_the_bracket_a_late_abort_loses_a_row() {
    breaks("bracket_late_abort", UNNOTICED, &[Defence::Bracket, Defence::AbortEndsInstance]);
}

#[test]
fn with_an_open_that_is_only_sent_first_a_late_commit_doubles_a_row() {
    breaks("open_first", UNNOTICED, &[Defence::OpenFirst]);
}

#[test]
fn with_a_close_that_is_only_sent_last_a_late_commit_loses_a_row() {
    breaks("close_last", UNNOTICED, &[Defence::CloseLast]);
}

#[test]
fn a_torn_transaction_that_nobody_looks_for_doubles_a_row() {
    breaks("read_back", UNNOTICED, &[Defence::ReadBack]);
}

#[test]
fn a_torn_transaction_that_the_claim_does_not_repeat_is_forgotten() {
    breaks("torn_repeated", Bounds { breaks: 2, ..UNNOTICED }, &[Defence::TornRepeated]);
}

#[test]
fn a_compacted_row_comes_again_where_only_its_own_id_is_looked_for() {
    let bounds = Bounds { compactions: 1, log: &[&['b'], &['a', 'a', 'b']], ..UNNOTICED };
    breaks("greater_id_of_key", bounds, &[Defence::GreaterIdOfKey]);
}

/// Not a defence removed, but one that the protocol does not have.
#[test]
fn a_deposed_leader_of_a_data_partition_hides_what_was_published() {
    breaks("stale_read_back", Bounds { stale_data_reads: 1, ..UNNOTICED }, &[]);
}

#[test]
fn without_a_claim_two_sessions_stream_under_one_term() {
    breaks("claim", Bounds { lease_losses: 1, ..Bounds::QUIET }, &[Defence::Claim]);
}

#[test]
fn progress_that_is_read_before_init_is_not_all_that_older_sessions_commit() {
    breaks("read_after_init", Bounds { lease_losses: 1, ..Bounds::QUIET }, &[Defence::ReadAfterInit]);
}

#[test]
fn a_deposed_leader_of_the_progress_partition_shows_an_old_position() {
    breaks("read_to_own_open", Bounds { stale_progress_reads: 1, breaks: 1, ..STREAMING }, &[Defence::ReadToOwnOpen]);
}

#[test]
fn an_uncommitted_position_loses_a_row() {
    breaks("read_committed", Bounds { breaks: 1, ..STREAMING }, &[Defence::ReadCommitted]);
}

#[test]
fn a_position_that_is_kept_in_memory_doubles_a_row() {
    breaks("fence_per_session", Bounds { breaks: 1, ..STREAMING }, &[Defence::FencePerSession]);
}

#[test]
fn workers_with_transactional_ids_of_their_own_do_not_fence_each_other() {
    breaks("shared_transactional_id", Bounds { lease_losses: 1, ..STREAMING }, &[Defence::SharedTransactionalId]);
}

#[test]
fn a_worker_that_does_not_read_its_key_again_takes_the_stream_from_the_holder() {
    breaks("key_read_again", Bounds { lease_losses: 1, ..Bounds::QUIET }, &[Defence::KeyReadAgain]);
}

#[test]
fn a_worker_cut_off_from_etcd_that_goes_on_behind_any_claim_takes_the_stream_from_the_holder() {
    let bounds = Bounds { etcd_cuts: 1, lease_losses: 1, breaks: 1, ..STREAMING };
    breaks("last_claim_is_own", bounds, &[Defence::LastClaimIsOwn]);
}

#[test]
fn a_worker_cut_off_from_etcd_that_goes_on_after_it_was_fenced_fights_the_holder() {
    let bounds = Bounds { etcd_cuts: 1, lease_losses: 1, ..STREAMING };
    breaks("fenced_asks_etcd", bounds, &[Defence::FencedAsksEtcd]);
}

#[test]
fn a_slow_worker_that_reads_what_its_successor_wrote_stops_a_sound_pipeline() {
    breaks("key_read_before_verdict", Bounds { lease_losses: 1, ..Bounds::QUIET }, &[Defence::KeyReadBeforeVerdict]);
}

#[test]
fn holders_of_two_etcds_take_the_stream_from_each_other_for_ever() {
    breaks("clusters_left", Bounds { etcd_faults: 1, ..STREAMING }, &[Defence::ClustersLeft]);
}

#[test]
fn without_the_brokers_verification_a_late_commit_loses_a_row() {
    breaks("partition_verification", Bounds { streaming: false, ..UNNOTICED }, &[Defence::PartitionVerification]);
}

#[test]
fn a_position_that_is_confirmed_before_it_is_durable_opens_a_gap() {
    breaks("ack_after_commit", Bounds { breaks: 1, acknowledges: true, ..STREAMING }, &[Defence::AckAfterCommit]);
}
