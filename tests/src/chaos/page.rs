//! The report of a run for people: one HTML file that needs nothing else. A timeline of faults, holders, lag and takeovers, the
//! verdict, and the faults as a table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use super::story::{self, Takeover};
use super::{Run, Struck};

/// Pixels of a second, of the names beside the lanes, and of a lane.
const SECOND: f64 = 6.0;
const NAMES: f64 = 150.0;
const LANE: f64 = 16.0;
/// Height of the lag's curve, whose scale is logarithmic from 10 ms to 100 s.
const CURVE: f64 = 90.0;

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em;max-width:75em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse}\
td,th{padding:.15em .8em .15em 0;text-align:left;vertical-align:top}th{border-bottom:1px solid #999}\
td.n{text-align:right;font-variant-numeric:tabular-nums}.good{color:#1a7f37}.bad{color:#b00020}\
.scroll{overflow-x:auto;border:1px solid #ccc}svg text{font:11px system-ui,sans-serif;fill:#333}\
.key span{display:inline-block;width:.9em;height:.9em;margin:0 .3em 0 1em;vertical-align:-.1em}";

/// The page.
#[must_use]
pub fn render(run: &Run, takeovers: &[Takeover]) -> String {
    let (verdict, load) = (&run.outcome.verdict, &run.outcome.load);
    let word = if run.is_clean() { "<b class=good>clean</b>" } else { "<b class=bad>not clean</b>" };
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>pgbaton: chaos, seed {seed}</title><style>{STYLE}</style>\
         <h1>pgbaton under chaos: {word}</h1><p>Seed {seed}, {minutes:.1} minutes, {faults} faults, {terms} new terms of which {owners} \
         with another owner. {written} transactions written, {received} received, {lost} lost, {duplicated} duplicated, {invented} \
         invented, {order} out of order; {marked} phantoms marked, {unmarked} unmarked; {unknown} commits whose outcome the \
         writer did not learn. After the last heal rows flowed again in {recovered}.</p>",
        seed = run.options.seed,
        minutes = run.options.lasts.as_secs_f64() / 60.0,
        faults = run.struck.len(),
        terms = takeovers.len(),
        owners = takeovers.iter().filter(|takeover| takeover.owner_changed).count(),
        written = verdict.written,
        received = verdict.received,
        lost = verdict.lost,
        duplicated = verdict.duplicated,
        invented = verdict.invented,
        order = verdict.out_of_order,
        marked = verdict.phantoms.marked,
        unmarked = verdict.phantoms.unmarked,
        unknown = load.unknown,
        recovered = run.recovered_seconds.map_or("never".into(), |seconds| format!("{seconds:.1} s")),
    );
    for trouble in run.troubles.iter().chain(&run.outcome.lies) {
        let _ = write!(page, "<p class=bad>{}</p>", escape(trouble));
    }
    page += "<h2>Timeline</h2><p class=key>a worker <span style='background:#2da44e'></span>streams\
        <span style='background:#bbd6ee'></span>stands by<span style='background:#e3c75f'></span>starts\
        <span style='background:#b00020'></span>is in quarantine; no colour: it does not answer.\
        <span style='background:#8250df'></span>fault<span style='background:#d4581d'></span>no row came through.\
        A line through all lanes is a new term. Hover for details.</p><div class=scroll>";
    page += &timeline(run, takeovers);
    page += "</div><h2>From a fault to the first row committed after it</h2>";
    page += &figures(run);
    page += "<h2>Invariants</h2><table><tr><th>no.<th>what<th>checked<th>broken<th>first counter-example";
    for invariant in &verdict.invariants {
        let class = if invariant.ok { "good" } else { "bad" };
        let _ = write!(
            page,
            "<tr><td class=n>{}<td class={class}>{}<td class=n>{}<td class=n>{}<td>{}",
            invariant.id,
            escape(invariant.what),
            invariant.checked,
            invariant.broken,
            escape(invariant.first.as_deref().unwrap_or(""))
        );
    }
    page += "</table><h2>Faults</h2><table><tr><th>at s<th>until s<th>fault<th>first row after ms<th>";
    for struck in &run.struck {
        let _ = write!(
            page,
            "<tr><td class=n>{:.1}<td class=n>{:.1}<td>{}<td class=n>{}<td class=bad>{}",
            struck.at_seconds,
            struck.healed_seconds,
            escape(&struck.fault.to_string()),
            story::first_row_ms(struck.at, &run.outcome.sights).map_or("never".into(), |ms| ms.to_string()),
            escape(struck.error.as_deref().unwrap_or(""))
        );
    }
    page += "</table></html>\n";
    page
}

/// Lanes from top to bottom: workers, lag, then one for each that was struck.
fn timeline(run: &Run, takeovers: &[Takeover]) -> String {
    let seconds = run.seen.last().map_or(0.0, |last| since(run, last.at)).max(1.0);
    let x = |second: f64| NAMES + second * SECOND;
    let workers: Vec<&String> = run
        .seen
        .iter()
        .flat_map(|seen| seen.workers.keys())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let mut targets: BTreeMap<String, Vec<&Struck>> = BTreeMap::new();
    for struck in &run.struck {
        for target in &struck.fault.targets {
            targets.entry(target.clone()).or_default().push(struck);
        }
    }
    let mut body = String::new();
    let mut y = LANE;
    for minute in 0..=(seconds / 60.0) as u32 {
        let at = x(f64::from(minute) * 60.0);
        let _ = write!(body, "<text x={at:.0} y=11>{minute} min</text>");
    }
    for worker in workers {
        let _ = write!(body, "<text x=4 y={:.0}>{worker}</text>", y + 12.0);
        body += &roles(run, worker, y);
        y += LANE + 2.0;
    }
    y += 6.0;
    body += &curve(run, y);
    y += CURVE + 10.0;
    for (target, faults) in &targets {
        let _ = write!(body, "<text x=4 y={:.0}>{}</text>", y + 12.0, escape(target));
        for struck in faults {
            let width = ((struck.healed_seconds - struck.at_seconds) * SECOND).max(3.0);
            let _ = write!(
                body,
                "<rect x={:.1} y={:.0} width={width:.1} height={:.0} fill=#8250df fill-opacity=.75><title>{:.1} s: {}</title></rect>",
                x(struck.at_seconds),
                y + 2.0,
                LANE - 4.0,
                struck.at_seconds,
                escape(&struck.fault.to_string())
            );
        }
        y += LANE;
    }
    for takeover in takeovers {
        let at = x(since(run, takeover.at));
        let (from, to) = (&takeover.from, &takeover.to);
        let _ = write!(
            body,
            "<line x1={at:.1} x2={at:.1} y1={LANE} y2={y:.0} stroke=#555 stroke-opacity=.5 stroke-width={}>\
             <title>{} term {} timeline {} -&gt; {} term {} timeline {} after {} {}</title></line>",
            if takeover.owner_changed { 2 } else { 1 },
            from.worker,
            from.term,
            from.timeline,
            to.worker,
            to.term,
            to.timeline,
            takeover.fault,
            escape(&takeover.target)
        );
    }
    format!("<svg xmlns=http://www.w3.org/2000/svg width={:.0} height={:.0}>{body}</svg>", x(seconds) + 20.0, y + 8.0)
}

fn since(run: &Run, at: Instant) -> f64 {
    at.saturating_duration_since(run.start).as_secs_f64()
}

/// A worker's roles as bars; equal neighbours are one bar.
fn roles(run: &Run, worker: &str, y: f64) -> String {
    let mut bars: Vec<(f64, f64, &str, &str, u64)> = Vec::new();
    for seen in &run.seen {
        let at = since(run, seen.at);
        let Some(said) = seen.workers.get(worker) else { continue };
        match bars.last_mut() {
            Some(bar) if bar.2 == said.role && bar.3 == said.state && bar.4 == said.term && at - bar.1 < 0.8 => {
                bar.1 = at
            }
            _ => bars.push((at, at + 0.25, &said.role, &said.state, said.term)),
        }
    }
    bars.into_iter().fold(String::new(), |mut text, (from, to, role, state, term)| {
        let colour = match role {
            "active" => "#2da44e",
            "standby" => "#bbd6ee",
            "quarantined" => "#b00020",
            _ => "#e3c75f",
        };
        let _ = write!(
            text,
            "<rect x={:.1} y={y:.0} width={:.1} height={LANE} fill={colour}><title>{from:.1} s to {to:.1} s: {worker} {role}, {state}, term {term}</title></rect>",
            NAMES + from * SECOND,
            ((to - from) * SECOND).max(1.0)
        );
        text
    })
}

fn curve(run: &Run, top: f64) -> String {
    let height = |seconds: f64| top + CURVE - ((seconds.clamp(0.01, 100.0).log10() + 2.0) / 4.0) * CURVE;
    let mut text = format!("<text x=4 y={:.0}>age of rows that arrive</text>", top + 12.0);
    for (seconds, name) in [(0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"), (100.0, "100 s")] {
        let y = height(seconds);
        let _ = write!(
            text,
            "<line x1={NAMES} x2=100% y1={y:.0} y2={y:.0} stroke=#ddd /><text x={:.0} y={:.0} text-anchor=end>{name}</text>",
            NAMES - 4.0,
            y + 4.0
        );
    }
    for (from, to) in story::silences(run.start, &run.outcome.sights) {
        let _ = write!(
            text,
            "<rect x={:.1} y={top:.0} width={:.1} height={CURVE} fill=#d4581d fill-opacity=.25><title>{from:.1} s to {to:.1} s: no row, {:.1} s</title></rect>",
            NAMES + from * SECOND,
            (to - from) * SECOND,
            to - from
        );
    }
    text += "<polyline fill=none stroke=#0969da points='";
    for (second, late) in story::lag(run.start, &run.outcome.sights) {
        let _ = write!(text, "{:.1},{:.1} ", NAMES + (second as f64 + 0.5) * SECOND, height(late));
    }
    text + "'/>"
}

/// By kind of fault: how many, and the spread of their times.
fn figures(run: &Run) -> String {
    let mut kinds: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for struck in &run.struck {
        let what = struck.fault.fault.to_string();
        let what = what.split(' ').next().unwrap_or_default();
        let whom = struck.fault.targets.first().map_or("", String::as_str);
        let whom = match whom.split_once('/') {
            Some((_, "")) => "all ways of a worker",
            Some(("peers", _)) => "the way to a worker",
            Some((_, to)) if to.starts_with("kafka") => "a worker's way to Kafka",
            Some((_, to)) if to.starts_with("etcd") => "a worker's way to etcd",
            Some(_) => "a worker's way to PostgreSQL",
            None => whom.split('-').next().unwrap_or_default(),
        };
        let ms = story::first_row_ms(struck.at, &run.outcome.sights).unwrap_or(u64::MAX);
        kinds.entry(format!("{what} {whom}")).or_default().push(ms);
    }
    let mut table = "<table><tr><th>fault<th>times<th>median ms<th>worst ms".to_owned();
    for (kind, mut times) in kinds {
        times.sort_unstable();
        let ms = |ms: u64| if ms == u64::MAX { "never".into() } else { ms.to_string() };
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        let _ = write!(
            table,
            "<tr><td>{}<td class=n>{}<td class=n>{}<td class=n>{}",
            escape(&kind),
            times.len(),
            ms(median),
            ms(worst)
        );
    }
    table + "</table>"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
