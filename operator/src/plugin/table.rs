//! Aligned columns, as kubectl writes them.

use std::fmt;

/// Between two columns.
const GAP: &str = "   ";

/// Rows under a header. Without rows nothing is written but that there are none.
pub struct Table {
    title: String,
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new(title: impl Into<String>, header: &[&'static str]) -> Self {
        Self {
            title: title.into(),
            header: header.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; an empty cell is shown as a dash.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(shown).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        if self.rows.is_empty() {
            return writeln!(f, "  none");
        }
        let header: Vec<String> = self.header.iter().map(ToString::to_string).collect();
        let lines = || std::iter::once(&header).chain(&self.rows);
        let widths: Vec<usize> = (0..header.len())
            .map(|column| lines().filter_map(|line| Some(line.get(column)?.chars().count())).max())
            .map(Option::unwrap_or_default)
            .collect();
        for line in lines() {
            let padded: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            writeln!(f, "  {}", padded.join(GAP).trim_end())?;
        }
        Ok(())
    }
}

/// A text on one line, cut where it gets long.
#[must_use]
pub fn short(text: &str, limit: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.chars().count() {
        all if all <= limit => line,
        all => {
            let kept: String = line.chars().take(limit).collect();
            format!("{kept}… ({all} characters)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_spaces() {
        let mut table = Table::new("REGIONS", &["NAME", "READY"]);
        table.row(["eu".to_owned(), "True".to_owned()]);
        table.row(["asia-pacific".to_owned(), String::new()]);
        assert_eq!(
            table.to_string(),
            "REGIONS\n  NAME           READY\n  eu             True\n  asia-pacific   -\n"
        );
        assert_eq!(Table::new("POOLS", &["NAME"]).to_string(), "POOLS\n  none\n");
    }

    #[test]
    fn a_long_text_is_cut_and_says_how_long_it_is() {
        assert_eq!(short("a\n b", 10), "a b");
        assert_eq!(short("abcdef", 3), "abc… (6 characters)");
    }
}
