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

/// Puts a text into the list of texts at a path, unless it is in it. A list that is missing is made,
/// with `others` behind it.
pub(crate) fn list(
    document: &mut DocumentMut,
    path: &[&str],
    text: &str,
    others: &[&str],
    place: Place,
) -> Result<(), NoTable> {
    let Some((key, tables)) = path.split_last() else {
        return Ok(());
    };
    let (table, _) = table_at(document, tables)?;
    let Some(there) = table.get_mut(key) else {
        let texts = std::iter::once(text).chain(others.iter().copied());
        return set(document, path, Array::from_iter(texts));
    };
    let texts = there.as_array_mut();
    let texts = texts.ok_or_else(|| NoTable(path.join(".")))?;
    if texts.iter().any(|there| there.as_str() == Some(text)) {
        return Ok(());
    }
    let at = match place {
        Place::First => 0,
        Place::Last => texts.len(),
    };
    // In a list with a line for each, it gets one too.
    let line = texts.get(at.min(texts.len().saturating_sub(1)));
    let line = line.and_then(|beside| beside.decor().prefix()?.as_str());
    let line = line.filter(|prefix| prefix.contains('\n')).map(blank_line);
    texts.insert(at, text);
    if let (Some(line), Some(new)) = (line, texts.get_mut(at)) {
        new.decor_mut().set_prefix(line);
    }
    // What was first stood right behind the bracket.
    let pushed = texts.get_mut(1).filter(|_| at == 0);
    if let Some(pushed) = pushed.filter(|text| is_bare(text)) {
        pushed.decor_mut().set_prefix(" ");
    }
    Ok(())
}

/// Whether nothing stands in front of a value, not even a blank.
fn is_bare(value: &Value) -> bool {
    let prefix = value.decor().prefix().and_then(RawString::as_str);
    prefix.unwrap_or_default().is_empty()
}

/// Where in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Last,
}

/// A line's end and the blanks after it, without what is said between.
fn blank_line(prefix: &str) -> String {
    let indent = prefix.rsplit('\n').next().unwrap_or_default();
    format!("\n{indent}")
}

/// Takes a text out of the list of texts at a path, where there is such a list.
pub(crate) fn unlist(document: &mut DocumentMut, path: &[&str], text: &str) {
    let texts = item_at(document, path).and_then(Item::as_array_mut);
    if let Some(texts) = texts {
        texts.retain(|there| there.as_str() != Some(text));
    }
}

/// Edits the tables of the list at a path, and drops those of which `edit` says so.
pub(crate) fn entries(
    document: &mut DocumentMut,
    path: &[&str],
    mut edit: impl FnMut(&mut dyn TableLike) -> Keep,
) {
    match item_at(document, path) {
        Some(Item::ArrayOfTables(tables)) => {
            let kept = tables.iter_mut().map(|table| edit(table) == Keep::Yes);
            let mut kept = kept.collect::<Vec<_>>().into_iter();
            tables.retain(|_| kept.next().unwrap_or(true));
        }
        Some(Item::Value(Value::Array(values))) => {
            let kept = values.iter_mut().map(|value| match value {
                Value::InlineTable(table) => edit(table) == Keep::Yes,
                _ => true,
            });
            let mut kept = kept.collect::<Vec<_>>().into_iter();
            values.retain(|_| kept.next().unwrap_or(true));
        }
        _ => {}
    }
}

/// Whether an entry stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Yes,
    No,
}

/// Sets a value in a table of a list, beside what else it says.
pub(crate) fn set_in(table: &mut dyn TableLike, key: &str, text: &str) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(there) => {
            let decor = there.decor().clone();
            *there = text.into();
            *there.decor_mut() = decor;
        }
        None => {
            let indent = indentation(table);
            table.insert(key, Item::Value(text.into()));
            if let (Some(indent), Some(mut key)) = (indent, table.key_mut(key)) {
                key.leaf_decor_mut().set_prefix(indent);
            }
        }
    }
}

/// Gives what stands in a table another name; its place, its comments and what is in it stay.
pub(crate) fn rename(document: &mut DocumentMut, table: &str, old: &str, new: &str) {
    let table = document.get_mut(table).and_then(Item::as_table_like_mut);
    if let Some(table) = table
        && let Some(item) = table.remove(old)
    {
        table.insert(new, item);
    }
}

/// Writes a text of a list otherwise.
pub(crate) fn rename_text(document: &mut DocumentMut, list: &str, old: &str, new: &str) {
    let texts = document.get_mut(list).and_then(Item::as_array_mut);
    for text in texts.into_iter().flat_map(Array::iter_mut) {
        if text.as_str() == Some(old) {
            let decor = text.decor().clone();
            *text = new.into();
            *text.decor_mut() = decor;
        }
    }
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

/// What stands at a path, if anything does.
fn item_at<'a>(document: &'a mut DocumentMut, path: &[&str]) -> Option<&'a mut Item> {
    let (first, rest) = path.split_first()?;
    let first = document.as_table_mut().get_mut(first)?;
    // Not by `Item::get_mut`, which makes what is missing.
    rest.iter()
        .try_fold(first, |item, name| item.as_table_like_mut()?.get_mut(name))
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
    fn text_is_put_into_a_list_as_the_list_is_written() {
        let listed = |text: &str, place| {
            let mut document: DocumentMut = text.parse().unwrap();
            list(&mut document, &["a"], "x", &["w"], place).unwrap();
            let once = document.to_string();
            list(&mut document, &["a"], "x", &["w"], place).unwrap();
            assert_eq!(document.to_string(), once, "a second time");
            let mut back = document.clone();
            unlist(&mut back, &["a"], "x");
            (once, back.to_string())
        };
        for (text, place, expected) in [
            ("", Place::First, "a = [\"x\", \"w\"]\n"),
            ("a = []\n", Place::Last, "a = [\"x\"]\n"),
            ("a = [\"y\"] # c\n", Place::Last, "a = [\"y\", \"x\"] # c\n"),
            ("a = [\"y\"]\n", Place::First, "a = [\"x\", \"y\"]\n"),
            (
                "a = [\n  # one\n  \"y\",\n  \"z\",\n]\n",
                Place::Last,
                "a = [\n  # one\n  \"y\",\n  \"z\",\n  \"x\",\n]\n",
            ),
        ] {
            let (once, back) = listed(text, place);
            assert_eq!(once, expected);
            let back: toml::Table = back.parse().unwrap();
            assert!(!back["a"].to_string().contains('x'), "{back}");
        }
        let mut document: DocumentMut = "a = 1\n".parse().unwrap();
        assert!(list(&mut document, &["a"], "x", &[], Place::Last).is_err());
    }

    #[test]
    fn scalar_in_the_way_is_named() {
        let mut document: DocumentMut = "[a]\nb = 1\n".parse().unwrap();
        let error = set(&mut document, &["a", "b", "c"], "x").unwrap_err();
        assert_eq!(error, NoTable("a.b".to_owned()));
    }
}
