//! Many schedules, and what makes them worth anything: that they are the same every time, and that a missing guard shows.

use pgbaton_sim::{mutants, script, sweep, tell};

/// What every change pays for; `cargo xtask simulate` runs as many as there is time for.
const SCHEDULES: u64 = 20_000;

#[test]
fn no_schedule_violates_an_invariant() {
    let tally = sweep(1_000_000, SCHEDULES, None, false);
    assert_eq!(tally.schedules, SCHEDULES);
    assert!(tally.found.is_empty(), "cargo xtask simulate --seed N tells the story of: {:#?}", tally.found);
}

#[test]
fn the_same_seed_has_the_same_trace() {
    for seed in 0..20 {
        let script = script(seed);
        let (one, other) = (tell(&script, None).unwrap(), tell(&script, None).unwrap());
        assert_eq!(one, other);
        assert_ne!(one.hash, tell(&script.replacen("seed ", "seed 1", 1), None).unwrap().hash);
    }
}

/// Those that show within a few schedules; `cargo xtask simulate --mutants` looks for all of them.
#[test]
fn a_guard_that_is_missing_shows() {
    let quick = [
        "no_claim",
        "read_before_init",
        "ack_before_commit",
        "compare_lsns_across_timelines",
        "watermark_not_cut_at_the_fork",
        "no_post_start_slot_check",
        "no_lease_check",
        "highest_ack_wins",
        "terminate_without_comparing",
        "fence_per_tenure",
        "guard_by_create_revision",
        "instance_reused_after_an_abort",
        "no_bracket",
        "ids_by_the_servers_timeline",
        "gone_without_having_had_the_stream",
        "published_before_standbys_have_flushed",
    ];
    for mutant in quick {
        assert!(mutants().any(|known| known == mutant), "{mutant} is gone");
        let tally = sweep(0, 300, Some(mutant), true);
        assert!(!tally.found.is_empty(), "{mutant} was not caught");
    }
}

/// It takes answers of etcd that are slow and then none at all, under `strict`: one schedule in some hundred.
#[test]
fn a_deadline_that_is_counted_from_the_reply_shows() {
    let script = "seed 2\nworkers 2\npolicy strict\npause 0.060s\nat 4.000s slow holder etcd 0.900s 60.000s\n\
                  at 9.200s cut holder etcd both 14.000s\nheal 25.000s\n";
    assert_eq!(tell(script, None).unwrap().violation, None);
    let told = tell(script, Some("deadline_counted_from_the_reply")).unwrap();
    assert_eq!(told.violation.map(|(invariant, _)| invariant), Some(24));
}

/// Whoever comes first streams, and the others leave it alone.
#[test]
fn of_eight_workers_that_start_at_once_one_claims_and_when_it_dies_one_follows() {
    for seed in 0..100 {
        let script = format!("seed {seed}\nworkers 8\nat 20.000s kill holder\nheal 40.000s\n");
        let told = tell(&script, None).unwrap();
        assert_eq!(told.violation, None, "{script}");
        assert_eq!(told.story.matches(" claims term ").count(), 2, "{script}{}", told.story);
    }
}
