//! What was found in one place, counted by whom it is of. However many names somebody made up there, memory and report stay
//! small: the first of them by name are told, and the others as one.

use std::collections::{BTreeMap, BTreeSet};

use meridian_policy::vocabulary::DataClass;

use crate::{Check, Report};

/// Names that are told for each check.
const NAMED: usize = 100;
/// Whom the rest is of.
const OTHERS: &str = "and others";

/// The counts of one place.
#[derive(Debug, Default)]
pub struct Tally {
    seen: u64,
    found: BTreeMap<Check, Found>,
}

#[derive(Debug, Default)]
struct Found {
    named: BTreeMap<String, u64>,
    others: u64,
}

impl Tally {
    /// So many were looked at.
    pub fn saw(&mut self, count: u64) {
        self.seen += count;
    }

    /// How many were looked at.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// So many of somebody should not be there.
    pub fn find(&mut self, check: Check, of: &str, count: u64) {
        let found = self.found.entry(check).or_default();
        if let Some(known) = found.named.get_mut(of) {
            *known += count;
            return;
        }
        found.named.insert(of.to_owned(), count);
        // Whoever is dropped comes after all that stay, also the next time: those that stay are counted whole.
        if found.named.len() > NAMED
            && let Some((_, count)) = found.named.pop_last()
        {
            found.others += count;
        }
    }

    /// Puts it into the report.
    pub fn tell(self, place: &str, classes: &BTreeSet<DataClass>, report: &mut Report) {
        for (check, found) in self.found {
            let others = (found.others > 0).then(|| (OTHERS.to_owned(), found.others));
            for (of, count) in found.named.into_iter().chain(others) {
                report.find(check, place.to_owned(), Some(of), classes.clone(), count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tally: Tally) -> Vec<(Option<String>, u64)> {
        let policy = serde_json::from_value(serde_json::json!({
            "region": "us", "jurisdiction": "us", "revision": 7, "public_url": "https://us.example",
            "issuer": "https://us.example", "countries_served": ["US"], "homes": [], "directory": [], "peers": [],
            "exports": [], "imports": [], "retention": {}
        }));
        let mut report = Report::new(&policy.unwrap(), jiff::Timestamp::UNIX_EPOCH);
        tally.tell("social.workout", &BTreeSet::new(), &mut report);
        let findings = report.findings.into_iter();
        findings.map(|finding| (finding.of, finding.count)).collect()
    }

    #[test]
    fn the_same_again_is_one_finding() {
        let mut tally = Tally::default();
        tally.find(Check::ForeignRows, "stride-eu", 2);
        tally.find(Check::ForeignRows, "stride-eu", 3);
        assert_eq!(told(tally), [(Some("stride-eu".to_owned()), 5)]);
    }

    #[test]
    fn names_without_end_are_few_findings_whatever_their_order_and_nothing_is_left_out() {
        let (mut up, mut down) = (Tally::default(), Tally::default());
        for number in 0..5_000 {
            up.find(Check::ForeignRows, &format!("tenant-{:04}", number % 2_500), 1);
            down.find(
                Check::ForeignRows,
                &format!("tenant-{:04}", (4_999 - number) % 2_500),
                1,
            );
        }
        let told_up = told(up);
        assert_eq!(told_up, told(down));
        assert_eq!(told_up.len(), NAMED + 1);
        assert_eq!(told_up[0], (Some("tenant-0000".to_owned()), 2));
        assert_eq!(told_up.iter().map(|(_, count)| count).sum::<u64>(), 5_000);
    }
}
