//! Where data goes: stdout, as a table for people or as one JSON document for programs. Talk goes to stderr.

use std::io::{self, Write};

use anyhow::{Context, Result};
use api::Page;
use serde::Serialize;
use serde_json::Value;

use crate::table::{self, Column};
use crate::terminal;

/// How this command shows its data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Shows tables, or JSON when asked for.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Tells whether programs read this.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Shows one thing, a line for each field.
    pub(crate) fn record<T: Serialize>(self, value: &T, fields: &[Column]) -> Result<()> {
        let value = to_value(value)?;
        if self.json {
            return document(&value);
        }
        write(&table::record(&value, fields))
    }

    /// Shows a page of a list, a row for each item; says on stderr when there is more.
    pub(crate) fn page<T: Serialize>(self, page: &Page<T>, columns: &[Column]) -> Result<()> {
        if self.json {
            return document(&to_value(page)?);
        }
        let rows = page.data.iter().map(to_value).collect::<Result<Vec<_>>>()?;
        write(&table::table(&rows, columns))?;
        if let Some(cursor) = &page.next_cursor {
            talk(&format!(
                "there is more: pass --cursor {}",
                terminal::one_line(cursor)
            ));
        }
        Ok(())
    }

    /// Shows a text, or the JSON of the value it was made from.
    pub(crate) fn text<T: Serialize>(self, value: &T, text: &str) -> Result<()> {
        if self.json {
            return document(&to_value(value)?);
        }
        write(&terminal::lines(text))
    }

    /// Shows one line of a stream: a compact JSON line, or the text if there is any.
    pub(crate) fn stream<T: Serialize>(self, value: &T, text: &str) -> Result<()> {
        if self.json {
            let line = serde_json::to_string(value).context("write JSON")?;
            return write(&format!("{}\n", terminal::json(&line)));
        }
        write(&terminal::lines(text))
    }
}

/// Says something to the person at the terminal; what others wrote in it cannot move the cursor.
pub(crate) fn talk(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(io::stderr(), "{}", terminal::lines(text));
}

fn to_value<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).context("write JSON")
}

fn document(value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("write JSON")?;
    // Indentation is the only place where a line end can stand in a JSON text.
    let lines = text.lines().map(terminal::json);
    write(&format!("{}\n", lines.collect::<Vec<_>>().join("\n")))
}

fn write(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("write to stdout")
}
