//! Columns of text.

/// Lays out rows under a head, columns two blanks apart.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(head[column].chars().count())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str("  ");
            line.push_str(cell);
            let blanks = width - cell.chars().count();
            line.extend(std::iter::repeat_n(' ', blanks));
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["a".to_owned(), "long".to_owned()],
            vec!["äöü".to_owned(), "b".to_owned()],
        ];
        assert_eq!(
            table(&["X", "Y"], &rows),
            "  X    Y\n  a    long\n  äöü  b\n"
        );
    }
}
