//! Plain tables and records for people, made from the same JSON that `--json` prints.

use serde_json::Value;

use crate::terminal;

/// A column of a table, or a line of a record: its title and where the value stands in the JSON.
pub(crate) type Column = (&'static str, &'static str);

/// Draws rows under titles, columns parted by two spaces.
pub(crate) fn table(rows: &[Value], columns: &[Column]) -> String {
    let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let mut lines = vec![titles];
    lines.extend(
        rows.iter()
            .map(|row| columns.iter().map(|(_, pointer)| cell(row, pointer)).collect()),
    );
    let width = |column: usize| {
        lines
            .iter()
            .map(|line: &Vec<String>| line[column].chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Draws one thing, a line for each field; fields without a value are left out.
pub(crate) fn record(value: &Value, fields: &[Column]) -> String {
    let shown = fields
        .iter()
        .map(|(title, pointer)| (*title, cell(value, pointer)));
    let shown: Vec<_> = shown.filter(|(_, cell)| cell != NONE).collect();
    let width = shown.iter().map(|(title, _)| title.len()).max().unwrap_or(0);
    shown
        .iter()
        .map(|(title, cell)| format!("{title:<width$}  {cell}\n"))
        .collect()
}

/// What stands where there is nothing.
const NONE: &str = "-";

fn cell(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => NONE.to_owned(),
        Some(Value::String(text)) => terminal::one_line(text),
        Some(Value::Bool(flag)) => String::from(if *flag { "yes" } else { "no" }),
        Some(Value::Array(items)) if items.is_empty() => NONE.to_owned(),
        Some(Value::Array(items)) => {
            let items = items.iter().map(|item| match item {
                Value::String(text) => terminal::one_line(text),
                other => terminal::one_line(&other.to_string()),
            });
            items.collect::<Vec<_>>().join(",")
        }
        Some(Value::Object(fields)) if fields.is_empty() => NONE.to_owned(),
        Some(other) => terminal::one_line(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            json!({"name": "laptop", "path": null}),
            json!({"name": "a", "path": "direct"}),
        ];
        let text = table(&rows, &[("NAME", "/name"), ("PATH", "/path")]);
        assert_eq!(text, "NAME    PATH\nlaptop  -\na       direct\n");
    }

    #[test]
    fn a_record_leaves_out_what_is_not_there() {
        let value = json!({"name": "laptop", "tags": ["a", "b"], "os": null});
        let text = record(&value, &[("name", "/name"), ("os", "/os"), ("tags", "/tags")]);
        assert_eq!(text, "name  laptop\ntags  a,b\n");
    }

    #[test]
    fn hostile_names_cannot_draw() {
        let text = table(&[json!({"name": "a\u{1b}[2J\nb"})], &[("NAME", "/name")]);
        assert_eq!(text, "NAME\na\u{fffd}[2J\u{fffd}b\n");
    }
}
