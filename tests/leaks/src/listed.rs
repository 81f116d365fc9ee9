//! The README's table against the tests that there are.

use crate::table::say;

const README: &str = include_str!("../README.md");
const SOURCES: [&str; 7] = [
    include_str!("answers.rs"),
    include_str!("border.rs"),
    include_str!("engine.rs"),
    include_str!("erasure.rs"),
    include_str!("../../../operator/tests/hub_leaks/admission.rs"),
    include_str!("../../../operator/tests/hub_leaks/placement.rs"),
    include_str!("../../../operator/tests/hub_leaks/reach.rs"),
];

/// The rows of the table: path, layers, tests.
fn rows() -> Vec<[&'static str; 3]> {
    let rows = README
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let cells = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        <[&str; 3]>::try_from(cells).unwrap_or_else(|_| panic!("three cells: {row}"))
    });
    cells.filter(|[path, ..]| *path != "Path").collect()
}

#[test]
fn every_path_has_a_test_or_a_reason_why_not_and_every_test_a_path() {
    let mut listed = Vec::new();
    for [path, layers, tests] in rows() {
        let named: Vec<&str> = tests.split('`').filter(|name| name.starts_with("leak_")).collect();
        match layers.strip_prefix("not applicable: ") {
            Some(why) => say(&format!("leak {path} | not applicable | {why}")),
            None => assert!(!named.is_empty(), "{path} has no test"),
        }
        listed.extend(named);
    }
    let written = SOURCES.iter().flat_map(|source| source.split("async fn ").skip(1));
    let mut written: Vec<&str> = written
        .filter_map(|rest| rest.split('(').next())
        .filter(|name| name.starts_with("leak_"))
        .collect();
    listed.sort_unstable();
    written.sort_unstable();
    assert_eq!(listed, written);
}

#[test]
fn the_layers_of_a_test_are_those_of_its_row() {
    for [path, layers, tests] in rows()
        .into_iter()
        .filter(|[_, layers, _]| !layers.starts_with("not applicable"))
    {
        for layer in layers.split("; ") {
            let quoted = format!("\"{layer}\"");
            assert!(
                SOURCES.iter().any(|source| source.contains(&quoted)),
                "{path}: {layer} ({tests})"
            );
        }
    }
}
