//! Scripts with the stories that they must tell: `tests/scenarios/NAME.txt`, the script, a line of dashes, the story.
//!
//! What happens all the time (commits, routine states) is left out, and times are cut to tenths of a second, so that a story
//! is what a reviewer would tell. `UPDATE_SCENARIOS=1 cargo test -p pgbaton-sim --test scenarios` writes them anew: read
//! the difference.

use std::path::PathBuf;

use pgbaton_sim::tell;

const RULE: &str = "----------------------------------------";

/// The lines that make the story.
fn retold(story: &str) -> String {
    let routine = |line: &str| {
        line.contains("commits ") || line.contains("commit of instance") || line.contains("no leader is known")
    };
    let mut out = String::new();
    for line in story.lines().filter(|line| !routine(line)) {
        let (time, rest) = line.trim_start().split_once("s ").unwrap_or(("", line));
        let tenths = time.find('.').map_or(time, |dot| &time[..dot + 2]);
        out.push_str(&format!("{tenths:>6} {}\n", rest.trim_start()));
    }
    out
}

#[test]
fn every_scenario_tells_its_story() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut names: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert!(!names.is_empty());
    let mut wrong = Vec::new();
    for path in names {
        let text = std::fs::read_to_string(&path).unwrap();
        let (script, expected) = text.split_once(&format!("{RULE}\n")).unwrap_or((&text, ""));
        let told = tell(script, None).unwrap_or_else(|line| panic!("{}: no such line: {line}", path.display()));
        assert_eq!(told.violation, None, "{}", path.display());
        let story = retold(&told.story);
        if story == expected {
            continue;
        }
        if std::env::var_os("UPDATE_SCENARIOS").is_some() {
            std::fs::write(&path, format!("{script}{RULE}\n{story}")).unwrap();
        } else {
            wrong.push(format!("{}:\n{story}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "these stories are other ones now:\n{}", wrong.join("\n"));
}
