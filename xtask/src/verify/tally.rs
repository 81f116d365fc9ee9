//! Counts of what was checked, read off the test runner's own closing lines.

use std::fmt;

/// How many checks passed, failed and were skipped, and why they were skipped.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Checks that held.
    pub passed: u32,
    /// Checks that did not.
    pub failed: u32,
    /// Checks that could not run here.
    pub skipped: u32,
    /// One sentence for each skipped check.
    pub reasons: Vec<String>,
}

impl Tally {
    /// One check that held or did not.
    pub fn one(held: bool) -> Self {
        Self {
            passed: u32::from(held),
            failed: u32::from(!held),
            ..Self::default()
        }
    }

    /// One check that could not run here, and why.
    pub fn skip(reason: impl Into<String>) -> Self {
        Self {
            skipped: 1,
            reasons: vec![reason.into()],
            ..Self::default()
        }
    }

    /// Adds another count to this one.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.reasons.extend(other.reasons);
    }

    /// Reads a closing line, `N passed, N failed, N skipped`.
    pub fn parse(line: &str) -> Option<Self> {
        let counted = line.contains(" passed, ") && line.contains(" failed");
        counted.then(|| Self {
            passed: number_before(line, " passed"),
            failed: number_before(line, " failed"),
            skipped: number_before(line, " skipped"),
            reasons: Vec::new(),
        })
    }

    /// Reads the closing lines of every test binary in a `cargo test` log, and the lines `SKIPPED: reason` by which a
    /// test says that it passed without checking anything.
    pub fn of_cargo_test(log: &str) -> Self {
        let mut tally = Self::default();
        let mut said = 0;
        for line in log.lines() {
            if let Some(counts) = line.trim().strip_prefix("test result: ") {
                tally.passed += number_before(counts, " passed");
                tally.failed += number_before(counts, " failed");
                let ignored = number_before(counts, " ignored");
                if ignored > 0 {
                    tally.skipped += ignored;
                    tally.reasons.push(format!("{ignored} marked #[ignore]"));
                }
            } else if let Some((_, reason)) = line.split_once("SKIPPED: ") {
                said += 1;
                tally.reasons.push(reason.trim().to_owned());
            }
        }
        // Each of these ended with ok and was counted with the others, in a line that came after its own.
        tally.skipped += said;
        tally.passed = tally.passed.saturating_sub(said);
        tally
    }
}

/// How many tests of a `cargo test` log whose name begins with `prefix` held and how many did not, in whatever module.
pub fn named(log: &str, prefix: &str) -> Tally {
    let mut tally = Tally::default();
    for line in log.lines() {
        let Some((path, ended)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else {
            continue;
        };
        let name = path.rsplit("::").next().unwrap_or(path);
        if name.starts_with(prefix) {
            tally.add(Tally::one(ended.trim() == "ok"));
        }
    }
    tally
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

fn number_before(text: &str, word: &str) -> u32 {
    text.split_once(word)
        .and_then(|(before, _)| before.rsplit(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Tally, named};

    #[test]
    fn closing_lines_of_all_test_binaries_are_added_up() {
        let log = "test a ... ok\n\ntest result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
                   test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured\n";
        let tally = Tally::of_cargo_test(log);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (15, 2, 1));
    }

    #[test]
    fn tests_are_counted_by_how_their_names_begin() {
        let log = "test catalogue_columns ... ok\ntest metrics::tests::catalogue_metric_labels ... FAILED\n\
                   test domain::tests::a_catalogue_is_read ... ok\ntest result: ok. 3 passed; 0 failed; 0 ignored\n";
        let tally = named(log, "catalogue_");
        assert_eq!((tally.passed, tally.failed), (1, 1));
    }

    #[test]
    fn a_test_that_says_it_was_skipped_does_not_count_as_passed() {
        let log = "SKIPPED: shared data is not there\ntest b ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        let tally = Tally::of_cargo_test(log);
        assert_eq!((tally.passed, tally.skipped), (0, 1));
        assert_eq!(tally.reasons, ["shared data is not there"]);
    }
}
