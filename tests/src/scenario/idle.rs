//! A pipeline whose tables nobody writes, while others write as much as they can.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Play;
use crate::check::staged::Idle;

/// How often so many rows of so many bytes are written: 16 MiB each time, 512 MiB in all.
const STEPS: u64 = 32;
const ROWS: u64 = 8_700;
const ROW_BYTES: u64 = 1_900;
const ENOUGH_BYTES: u64 = 256 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What others write is not kept for a slot that it does not concern. How fast they write is not the worker's: they go on when it
/// has received all so far.
pub(super) async fn foreign_wal(play: &mut Play) -> Result<()> {
    let (own, _) = play.streaming("idle").await?;
    own.sql("create table others (filler text)".into()).await?;
    let number = |text: &str| text.parse::<f64>().map(|number| number.max(0.0) as u64);
    let begin = own.sql("select pg_current_wal_lsn()".into()).await?;
    let (mut written, mut most) = (0, 0);
    for step in 1..=STEPS {
        own.sql(format!("insert into others select repeat('x', {ROW_BYTES}) from generate_series(1, {ROWS})")).await?;
        let end = own.sql("select pg_current_wal_lsn()".into()).await?;
        let look = format!(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), '{begin}'),
                    pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), coalesce(write_lsn >= '{end}', false)
             from pg_replication_slots left join pg_stat_replication on pid = active_pid where slot_name = 'idle'"
        );
        let begun = Instant::now();
        loop {
            let answer = own.sql(look.clone()).await?;
            let [wal, retained, received] = answer.split('|').collect::<Vec<_>>()[..] else {
                anyhow::bail!("the slot answers {answer}")
            };
            let idle = Idle { written_bytes: number(wal)?, retained_bytes: number(retained)? };
            (written, most) = (idle.written_bytes, most.max(idle.retained_bytes));
            play.stage.note(|staged| staged.idle.push(idle));
            if received == "t" {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "step {step} is not received within {PATIENCE:?}: {answer}");
        }
    }
    play.fact("foreign_wal_mib", written >> 20);
    play.fact("most_retained_mib", most >> 20);
    play.ensure(written > ENOUGH_BYTES, "the others wrote too little")?;
    own.insert(11..=20).await?;
    own.until_told(20).await.context("after the idle time")?;
    own.sql("drop table others".into()).await?;
    own.end().await
}
