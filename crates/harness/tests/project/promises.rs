//! Every promise has a story that holds it: `docs/promises.md` is a table whose last column names, in backticks, test
//! functions under `crates/harness/tests/stories`.

use std::collections::BTreeSet;
use std::path::Path;

/// The functions in these sources.
fn functions(sources: &str) -> BTreeSet<&str> {
    sources.lines().filter_map(|line| Some(line.trim_start().strip_prefix("fn ")?.split_once('(')?.0)).collect()
}

/// The names in backticks in the last column of a table, without its head.
fn named(page: &str) -> Vec<&str> {
    let rows = page.lines().filter(|line| line.starts_with('|')).skip(2);
    let stories = rows.filter_map(|row| row.trim_end().trim_end_matches('|').rsplit('|').next());
    stories.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

fn read_all(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            text += &read_all(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(&path).expect("a source can be read");
        }
    }
    text
}

#[test]
fn each_promise_has_its_story() {
    let stories = read_all(&crate::root().join("crates/harness/tests/stories"));
    let page = std::fs::read_to_string(crate::root().join("docs/promises.md"));
    // As long as there is no story, nothing can be promised.
    let page = if stories.is_empty() { page.unwrap_or_default() } else { page.expect("the promises can be read") };
    let (stories, promises) = (functions(&stories), named(&page));
    assert!(stories.is_empty() || !promises.is_empty(), "the page names no story");
    let missing: Vec<_> = promises.iter().filter(|promise| !stories.contains(*promise)).collect();
    assert!(missing.is_empty(), "promises without a story: {missing:?}");
}

#[test]
fn the_page_and_the_sources_are_read_right() {
    let page = "# Promises in `docs`\n\n| promise | story |\n|---|---|\n| `x` is kept | `a_story`, `b` |\n| `wardline -h` | `c_1` |\n";
    assert_eq!(named(page), ["a_story", "b", "c_1"]);
    let sources = "#[test]\nfn a_story() {\n    fn b(x: u8) {}\n}\n// fn c()\nfn d\n";
    assert_eq!(functions(sources), BTreeSet::from(["a_story", "b"]));
}
