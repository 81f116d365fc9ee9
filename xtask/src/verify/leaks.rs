//! What the leak tests say: a line for each path and layer, among everything else in the logs of the lanes.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::progress::Log;

/// The lines of all lanes, in order, each once.
#[derive(Debug, Default)]
pub struct Leaks(BTreeSet<String>);

impl Leaks {
    /// Takes the lines of one lane. The harness may have begun a line of its own before one.
    pub fn add(&mut self, log: &str) {
        // A test that fails says its lines again, in quotes.
        let said = log.lines().filter(|line| !line.ends_with("\","));
        let said = said.filter_map(|line| line.find("leak ").map(|at| &line[at..]));
        self.0
            .extend(said.filter(|line| line.matches(" | ").count() == 2).map(str::to_owned));
    }

    /// Writes them into a log of their own, and gives where that is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, paths: &Paths) -> Result<String> {
        let log = Log::fresh(paths, "test-leaks")?;
        let text: String = self.0.iter().map(|line| format!("{line}\n")).collect();
        fs::write(log.path(), text).with_context(|| format!("cannot write the log {}", log.shown()))?;
        Ok(log.shown().to_owned())
    }

    fn count(&self, layers: &str, came_to: &str) -> usize {
        let is_one = |line: &&String| {
            let mut cells = line.split(" | ").skip(1);
            let (of, what) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
            of.starts_with(layers) && what.starts_with(came_to)
        };
        self.0.iter().filter(is_one).count()
    }
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "layers alone: {} held, {} did not; all off: {} seen, {} not; not applicable: {}",
            self.count("layer ", "held"),
            self.count("layer ", "seen"),
            self.count("all off", "seen"),
            self.count("all off", "held"),
            self.count("not applicable", ""),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Leaks;

    #[test]
    fn each_line_is_counted_once_wherever_it_stands() {
        let mut leaks = Leaks::default();
        leaks.add("test a::leak_x ... leak x | layer roles alone | held\nleak x | all off | seen\nok\n");
        leaks.add("leak x | layer keys alone | seen\nleak y | not applicable | there is none\na leak is told of\n");
        leaks.add("leak x | all off | seen\n    \"leak x | all off | seen\",\n");
        let said = "layers alone: 1 held, 1 did not; all off: 1 seen, 0 not; not applicable: 1";
        assert_eq!(leaks.to_string(), said);
    }
}
