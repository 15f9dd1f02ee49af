//! Edits of TOML that somebody else wrote: comments, order and indentation stay.

use toml_edit::{
    Array, ArrayOfTables, DocumentMut, InlineTable, Item, RawString, Table, TableLike, Value,
};

/// What stands in the way of an edit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no table there: write it as [{0}]")]
pub(crate) struct NoTable(String);

/// Sets a value below tables, which are made where they are missing.
pub(crate) fn set(
    document: &mut DocumentMut,
    path: &[&str],
    value: impl Into<Value>,
) -> Result<(), NoTable> {
    let Some((key, tables)) = path.split_last() else {
        return Ok(());
    };
    let (table, depth) = table_at(document, tables)?;
    let value = value.into();
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(there) if same(there, &value) => {}
        Some(there) => {
            let decor = there.decor().clone();
            *there = value;
            *there.decor_mut() = decor;
        }
        None => {
            let indent = indentation(table).or(depth);
            table.insert(key, Item::Value(value));
            if let (Some(indent), Some(mut key)) = (indent, table.key_mut(key)) {
                key.leaf_decor_mut().set_prefix(indent);
            }
        }
    }
    Ok(())
}

/// Appends a table to a list of tables, which is made where it is missing.
pub(crate) fn append(
    document: &mut DocumentMut,
    path: &[&str],
    entry: Table,
) -> Result<(), NoTable> {
    let Some((key, tables)) = path.split_last() else {
        return Ok(());
    };
    let (table, _) = table_at(document, tables)?;
    if !table.contains_key(key) {
        table.insert(key, Item::ArrayOfTables(ArrayOfTables::new()));
    }
    match table.get_mut(key) {
        Some(Item::ArrayOfTables(entries)) => entries.push(entry),
        Some(Item::Value(Value::Array(entries))) => push_inline(entries, entry),
        _ => return Err(NoTable(path.join("."))),
    }
    Ok(())
}

fn push_inline(entries: &mut Array, entry: Table) {
    let mut inline: InlineTable = entry.into_inline_table();
    inline.fmt();
    entries.push(Value::InlineTable(inline));
}

/// Removes what stands at a path, if anything does.
pub(crate) fn remove(document: &mut DocumentMut, path: &[&str]) -> Result<(), NoTable> {
    let Some((key, tables)) = path.split_last() else {
        return Ok(());
    };
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for name in tables {
        let Some(inner) = table.get_mut(name) else {
            return Ok(());
        };
        let inner = inner.as_table_like_mut();
        table = inner.ok_or_else(|| NoTable((*name).to_owned()))?;
    }
    table.remove(key);
    Ok(())
}

/// The table at a path; missing ones are made, as deep as their neighbours. With the blanks in front
/// of the keys of one that was made, where its head has some.
fn table_at<'a>(
    document: &'a mut DocumentMut,
    path: &[&str],
) -> Result<(&'a mut dyn TableLike, Option<String>), NoTable> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    let mut inside = None;
    for (depth, name) in path.iter().enumerate() {
        if !table.contains_key(name) {
            let mut new = Table::new();
            // Without values of its own it needs no head.
            new.set_implicit(true);
            if let Some(blanks) = depth_of_tables(table) {
                new.decor_mut().set_prefix(format!("\n{blanks}"));
                inside = Some(format!("{blanks}  "));
            }
            table.insert(name, Item::Table(new));
        }
        let inner = table.get_mut(name).and_then(Item::as_table_like_mut);
        table = inner.ok_or_else(|| NoTable(path[..=depth].join(".")))?;
    }
    Ok((table, inside))
}

/// The blanks in front of the heads of the tables in a table, where there are some.
fn depth_of_tables(table: &dyn TableLike) -> Option<String> {
    let mut inner = table.iter().filter_map(|(_, item)| item.as_table());
    let head = inner.find(|table| !table.is_implicit() && !table.is_dotted())?;
    blanks(head.decor().prefix())
}

/// The blanks in front of a table's keys; `None` where it has no keys or they stand in one line.
fn indentation(table: &dyn TableLike) -> Option<String> {
    let (name, _) = table.iter().find(|(_, item)| item.is_value())?;
    blanks(table.key(name)?.leaf_decor().prefix())
}

/// The blanks at the end of what stands before something.
fn blanks(prefix: Option<&RawString>) -> Option<String> {
    let prefix = prefix.and_then(RawString::as_str).unwrap_or_default();
    let last = prefix.rsplit('\n').next().unwrap_or_default();
    (!last.is_empty() && last.trim().is_empty()).then(|| last.to_owned())
}

fn same(one: &Value, other: &Value) -> bool {
    let plain = |value: &Value| {
        let mut value = value.clone();
        value.decor_mut().clear();
        value
    };
    match (one, other) {
        (Value::String(one), Value::String(other)) => one.value() == other.value(),
        (Value::Boolean(one), Value::Boolean(other)) => one.value() == other.value(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| same(a, b))
        }
        _ => plain(one).to_string() == plain(other).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str, path: &[&str], value: &str) -> String {
        let mut document: DocumentMut = text.parse().unwrap();
        set(&mut document, path, value).unwrap();
        document.to_string()
    }

    #[test]
    fn value_keeps_its_comment_and_its_neighbours() {
        let text = "# top\n[a] # head\n  # above\n  b = \"x\" # beside\n  c = 1\n\n[d]\n";
        assert_eq!(
            edited(text, &["a", "b"], "y"),
            "# top\n[a] # head\n  # above\n  b = \"y\" # beside\n  c = 1\n\n[d]\n"
        );
        assert_eq!(edited(text, &["a", "b"], "x"), text);
    }

    #[test]
    fn new_key_stands_as_deep_as_its_neighbours() {
        assert_eq!(
            edited("[a]\n  b = 1\n\n  [a.c]\n    d = 1\n", &["a", "e"], "x"),
            "[a]\n  b = 1\n  e = \"x\"\n\n  [a.c]\n    d = 1\n"
        );
    }

    #[test]
    fn missing_tables_are_made_where_they_belong() {
        assert_eq!(
            edited("[a.b]\nc = 1\n\n[z]\n", &["a", "b", "d.e", "f"], "x"),
            "[a.b]\nc = 1\n\n[a.b.\"d.e\"]\nf = \"x\"\n\n[z]\n"
        );
        assert_eq!(
            edited("a = { b = 1 }\n", &["a", "c", "d"], "x"),
            "a = { b = 1 , c = { d = \"x\" } }\n"
        );
        assert_eq!(
            edited("a.b = 1\n", &["a", "c"], "x"),
            "a.b = 1\na.c = \"x\"\n"
        );
    }

    #[test]
    fn new_table_stands_as_deep_as_its_neighbours() {
        assert_eq!(
            edited("[a]\n  [a.b]\n    c = 1\n[z]\n", &["a", "d", "e"], "x"),
            "[a]\n  [a.b]\n    c = 1\n\n  [a.d]\n    e = \"x\"\n[z]\n"
        );
    }

    #[test]
    fn scalar_in_the_way_is_named() {
        let mut document: DocumentMut = "[a]\nb = 1\n".parse().unwrap();
        let error = set(&mut document, &["a", "b", "c"], "x").unwrap_err();
        assert_eq!(error, NoTable("a.b".to_owned()));
    }
}
