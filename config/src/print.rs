//! Settings as documented TOML.

use std::fmt::Write as _;

use hawker_model::Role;
use serde::Serialize;
use toml::{Table, Value};

use crate::{
    NodeConfig, SchedulerConfig,
    schema::File,
    section::{Form, SectionSchema},
};

impl NodeConfig {
    /// The settings as TOML, each key with its documentation. Read again, it gives the same.
    pub fn to_documented_toml(&self) -> String {
        let mut defaults = Self::for_role(self.node.role);
        defaults.node.role = Role::Node;
        documented(self, &defaults)
    }
}

impl SchedulerConfig {
    /// The settings as TOML, each key with its documentation. Read again, it gives the same.
    pub fn to_documented_toml(&self) -> String {
        documented(self, &Self::default())
    }
}

fn documented<T: File + Serialize>(settings: &T, defaults: &T) -> String {
    let (values, defaults) = (table_of(settings), table_of(defaults));
    let mut out = format!(
        "# {}. Every key may be left out.\n\
         # Sizes: \"64MiB\", \"10GB\", or bytes. Times: \"300ms\", \"3s\", \"5m\".\n",
        T::ABOUT
    );
    for section in T::SECTIONS {
        let value = lookup(&values, section.name);
        match section.form {
            Form::Table => {
                let default = lookup(&defaults, section.name).and_then(Value::as_table);
                comments(&mut out, section.about, true);
                line(&mut out, &format!("[{}]", section.name));
                keys(&mut out, section, value.and_then(Value::as_table), default);
            }
            Form::Repeated => {
                let entries = value.and_then(Value::as_array);
                let tables: Vec<_> = entries
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_table)
                    .collect();
                entries_of(&mut out, section, &format!("[[{}]]", section.name), &tables);
            }
            Form::Named => {
                let entries = value.and_then(Value::as_table);
                named(&mut out, section, entries);
            }
        }
    }
    out
}

fn named(out: &mut String, section: &SectionSchema, entries: Option<&Table>) {
    let entries: Vec<_> = entries
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name, value.as_table()?)))
        .collect();
    if entries.is_empty() {
        let head = format!("[{}.\"harbor.example:8443\"]", section.name);
        entries_of(out, section, &head, &[]);
    }
    for (name, table) in entries {
        let name = Value::String(name.clone());
        entries_of(
            out,
            section,
            &format!("[{}.{name}]", section.name),
            &[table],
        );
    }
}

/// Entries of a section that may have any number; without one, an example in comments.
fn entries_of(out: &mut String, section: &SectionSchema, head: &str, tables: &[&Table]) {
    if tables.is_empty() {
        comments(out, section.about, true);
        for key in section.keys {
            comments(out, &[&format!(" {}:", key.name)], false);
            comments(out, key.doc, false);
        }
        line(out, &format!("# {head}"));
        for example in section.example.lines() {
            line(out, &format!("# {example}"));
        }
    }
    for table in tables {
        comments(out, section.about, true);
        line(out, head);
        keys(out, section, Some(table), None);
    }
}

fn keys(
    out: &mut String,
    section: &SectionSchema,
    values: Option<&Table>,
    defaults: Option<&Table>,
) {
    for key in section.keys {
        let Some(value) = values.and_then(|values| values.get(key.name)) else {
            continue;
        };
        // A list of tables follows as a section of its own.
        if is_repeated(section, key.name) {
            continue;
        }
        comments(out, key.doc, false);
        match defaults.and_then(|defaults| defaults.get(key.name)) {
            Some(default) if default != value => line(out, &format!("# (default: {default})")),
            _ => {}
        }
        line(out, &format!("{} = {value}", key.name));
    }
}

/// Whether the key of a section is printed as `[[section.key]]`.
fn is_repeated(section: &SectionSchema, key: &str) -> bool {
    let name = format!("{}.{key}", section.name);
    NodeConfig::SECTIONS
        .iter()
        .chain(SchedulerConfig::SECTIONS)
        .any(|other| other.form == Form::Repeated && other.name == name)
}

fn comments(out: &mut String, lines: &[&str], apart: bool) {
    if apart {
        out.push('\n');
    }
    for text in lines {
        line(out, &format!("#{text}"));
    }
}

fn line(out: &mut String, text: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
}

fn lookup<'a>(table: &'a Table, dotted: &str) -> Option<&'a Value> {
    let mut names = dotted.split('.');
    let first = table.get(names.next()?)?;
    names.try_fold(first, |value, name| value.get(name))
}

/// The settings as a TOML table. They are structs of texts, numbers and lists, so this cannot fail;
/// a test prints every key.
fn table_of<T: Serialize>(settings: &T) -> Table {
    Table::try_from(settings).unwrap_or_default()
}
