//! Lists as every command prints them: one row a line, columns two spaces apart, the same on a terminal and in a pipe.

/// The header and the rows. No cell is empty and none breaks its line, so that `awk -F '  +'` finds the columns.
pub(super) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| row.map(|cell| in_one_line(&cell))));
    let widths: [usize; N] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default());
    let line = |cells: &[String; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(line).collect()
}

/// Control characters are written out: a stored text must not move somebody's cursor.
fn in_one_line(cell: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    match cell.trim() {
        "" => "-".to_owned(),
        cell => cell.chars().map(shown).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_two_spaces_apart_and_nothing_hangs_over() {
        let rows = [["conn_1", "Größe", ""], ["c", "two\nlines\u{1b}[31m", "x"]];
        insta::assert_snapshot!(table(["ID", "NAME", "END"], rows.map(|row| row.map(str::to_owned))), @r"
        ID      NAME                  END
        conn_1  Größe                 -
        c       two\nlines\u{1b}[31m  x
        ");
    }
}
