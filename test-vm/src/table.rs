//! Results in columns.

/// A table: the first column is text, the others are numbers.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    #[must_use]
    pub(crate) fn new(heads: &[&str]) -> Self {
        Self {
            rows: vec![heads.iter().map(|&head| head.to_owned()).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    #[must_use]
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let width = *width;
                match column {
                    0 => text += &format!("{cell:width$}"),
                    _ => text += &format!("  {cell:>width$}"),
                }
            }
            text = text.trim_end().to_owned() + "\n";
        }
        text
    }
}

/// Bytes in MB (10^6), as network people count.
#[must_use]
pub(crate) fn megabytes(len: u64) -> String {
    format!("{:.1} MB", len as f64 / 1e6)
}

#[must_use]
pub(crate) fn seconds(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let mut table = Table::new(&["host", "time"]);
        table.row(["node1".to_owned(), "1.5 s".to_owned()]);
        table.row(["n".to_owned(), "10.5 s".to_owned()]);
        assert_eq!(
            table.render(),
            "host     time\nnode1   1.5 s\nn      10.5 s\n"
        );
    }
}
