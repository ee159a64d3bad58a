//! apt's sources: the address of the machine's own archive, from `*.sources` and from `*.list` files.

use std::fs;
use std::path::PathBuf;

/// The archive that serves suite `codename`, component main; Debian's own before anybody else's of the same suite.
pub(super) fn main_archive(codename: &str) -> Option<String> {
    let uris: Vec<_> = files().iter().flat_map(|text| archives(text, codename)).collect();
    let debian = uris.iter().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    debian.or(uris.first()).cloned()
}

fn files() -> Vec<String> {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path());
    let used = parts.filter(|path| path.extension().is_some_and(|end| end == "sources" || end == "list"));
    [PathBuf::from("/etc/apt/sources.list")].into_iter().chain(used).flat_map(fs::read_to_string).collect()
}

fn archives(text: &str, codename: &str) -> Vec<String> {
    let paragraphs = text.split("\n\n").filter_map(|paragraph| deb822(paragraph, codename));
    paragraphs.chain(text.lines().filter_map(|line| one_line(line, codename))).collect()
}

fn deb822(paragraph: &str, codename: &str) -> Option<String> {
    let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let has =
        |name: &str, word: &str| field(name).is_some_and(|words| words.split_whitespace().any(|found| found == word));
    let wanted = has("Types:", "deb") && has("Suites:", codename) && has("Components:", "main");
    wanted.then(|| field("URIs:")?.split_whitespace().next().map(str::to_owned)).flatten()
}

fn one_line(line: &str, codename: &str) -> Option<String> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    (suite == codename && words.any(|component| component == "main")).then(|| uri.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_sources_name_the_archive_and_not_its_security_suite() {
        let new = "Types: deb\n# a comment\nURIs: mirror://a/debian\nSuites: s s-updates\nComponents: main\n\nTypes: deb\nURIs: mirror://b/debian-security\nSuites: s-security\nComponents: main\n";
        assert_eq!(archives(new, "s"), ["mirror://a/debian"]);
        let old = "# deb mirror://no/debian s main\ndeb-src mirror://no s main\ndeb [signed-by=/k arch=amd64] mirror://a/debian s main contrib\ndeb mirror://b s-security main\n";
        assert_eq!(archives(old, "s"), ["mirror://a/debian"]);
    }
}
