//! A config file's text, and where in it what stands.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::{
    ConfigError,
    error::Problem,
    section::{Form, Key, SectionSchema},
    suggest::nearest,
};

/// A file that has been read.
#[derive(Debug)]
pub(crate) struct Document<'a> {
    path: PathBuf,
    text: &'a str,
}

impl<'a> Document<'a> {
    pub(crate) fn new(path: &Path, text: &'a str) -> Self {
        Self {
            path: path.to_owned(),
            text,
        }
    }

    /// Reads the settings: syntax, keys, values, in this order.
    pub(crate) fn settings<T: DeserializeOwned>(
        &self,
        sections: &[SectionSchema],
    ) -> Result<T, ConfigError> {
        let root = DeTable::parse(self.text).map_err(|error| self.syntax_error(&error))?;
        self.check_keys(root.get_ref(), sections)?;
        toml::from_str(self.text).map_err(|error| self.value_error(root.get_ref(), &error))
    }

    /// Whether the file sets the key.
    pub(crate) fn sets(&self, key: &str) -> bool {
        self.offset_of(key).is_some()
    }

    /// The error for a problem, with the line of the first of its keys that the file sets.
    pub(crate) fn error(&self, problem: Problem) -> ConfigError {
        let offset = problem.keys.iter().find_map(|key| self.offset_of(key));
        self.error_at(offset, problem)
    }

    fn error_at(&self, offset: Option<usize>, problem: Problem) -> ConfigError {
        let line = offset.map(|at| {
            let before = &self.text.as_bytes()[..at.min(self.text.len())];
            1 + before.iter().filter(|b| **b == b'\n').count()
        });
        ConfigError::Invalid {
            path: self.path.clone(),
            line,
            problem,
        }
    }

    fn offset_of(&self, dotted: &str) -> Option<usize> {
        let root = DeTable::parse(self.text).ok()?;
        offset_in(root.get_ref(), dotted)
    }

    fn syntax_error(&self, error: &toml::de::Error) -> ConfigError {
        let what = format!("this is not TOML: {}", one_line(error.message()));
        let remedy = match error.message().contains("duplicate") {
            true => "write every key and section once",
            false => "write key = value, with texts in quotes, or comment the line out with #",
        };
        self.error_at(
            error.span().map(|span| span.start),
            Problem::new(&[], what, remedy),
        )
    }

    fn value_error(&self, root: &DeTable<'_>, error: &toml::de::Error) -> ConfigError {
        let at = error.span().map(|span| span.start);
        let key = at.map(|at| key_at(root, at)).unwrap_or_default();
        let keys: &[&str] = match key.as_str() {
            "" => &[],
            key => &[key],
        };
        self.error_at(at, Problem::new(keys, plain_words(error.message()), ""))
    }

    fn check_keys(
        &self,
        root: &DeTable<'_>,
        sections: &[SectionSchema],
    ) -> Result<(), ConfigError> {
        for (name, value) in root {
            let Some(section) = sections.iter().find(|s| s.name == name.get_ref().as_ref()) else {
                let problem = unknown_section(name.get_ref(), value.get_ref(), sections);
                return Err(self.error_at(Some(name.span().start), problem));
            };
            let prefix = section.name;
            match (section.form, value.get_ref()) {
                (Form::Table, DeValue::Table(table)) => {
                    self.check_table(prefix, table, section, sections)?;
                }
                (Form::Named, DeValue::Table(entries)) => {
                    for (entry, value) in entries {
                        if let DeValue::Table(table) = value.get_ref() {
                            let prefix = format!("{prefix}.{:?}", entry.get_ref());
                            self.check_table(&prefix, table, section, sections)?;
                        }
                    }
                }
                // Of the wrong type, which the types themselves tell.
                _ => {}
            }
        }
        Ok(())
    }

    fn check_table(
        &self,
        prefix: &str,
        table: &DeTable<'_>,
        section: &SectionSchema,
        sections: &[SectionSchema],
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = name.get_ref().as_ref();
            if !section.keys.iter().any(|known| known.name == key) {
                let problem = unknown_key(prefix, key, section.keys, sections);
                return Err(self.error_at(Some(name.span().start), problem));
            }
            let inner = format!("{prefix}.{key}");
            let repeated = sections.iter().find(|s| s.name == inner);
            if let (Some(section), DeValue::Array(entries)) = (repeated, value.get_ref()) {
                for entry in entries.iter() {
                    if let DeValue::Table(table) = entry.get_ref() {
                        self.check_table(&inner, table, section, sections)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn unknown_section(name: &str, value: &DeValue<'_>, sections: &[SectionSchema]) -> Problem {
    if !matches!(value, DeValue::Table(_)) {
        let remedy = match section_with(name, sections) {
            Some(section) => format!("it belongs under [{section}]"),
            None => "every key belongs under a [section]; see --print-config".to_owned(),
        };
        return Problem::new(&[name], "this key stands in no section", remedy);
    }
    let names: Vec<_> = sections.iter().map(|section| section.name).collect();
    let remedy = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean [{near}]?"),
        None => format!("there are {}", names.join(", ")),
    };
    Problem::new(&[name], "there is no such section", remedy)
}

fn unknown_key(prefix: &str, key: &str, known: &[Key], sections: &[SectionSchema]) -> Problem {
    let names: Vec<_> = known.iter().map(|key| key.name).collect();
    let remedy = match (
        nearest(key, names.iter().copied()),
        section_with(key, sections),
    ) {
        (Some(near), _) => format!("did you mean {near}?"),
        (None, Some(section)) => format!("it belongs under [{section}]"),
        (None, None) => format!("there are {}", names.join(", ")),
    };
    Problem::new(
        &[&format!("{prefix}.{key}")],
        "there is no such key",
        remedy,
    )
}

/// The one section that has such a key.
fn section_with(key: &str, sections: &[SectionSchema]) -> Option<&'static str> {
    let mut having = sections
        .iter()
        .filter(|section| section.form == Form::Table)
        .filter(|section| section.keys.iter().any(|known| known.name == key));
    match (having.next(), having.next()) {
        (Some(section), None) => Some(section.name),
        _ => None,
    }
}

/// Where a dotted key stands.
fn offset_in(table: &DeTable<'_>, dotted: &str) -> Option<usize> {
    table.iter().find_map(|(name, value)| {
        let rest = strip_name(dotted, name.get_ref())?;
        match (rest, value.get_ref()) {
            ("", _) => Some(name.span().start),
            (rest, DeValue::Table(inner)) => offset_in(inner, rest),
            _ => None,
        }
    })
}

/// What is left of a dotted key behind `name`, which may stand there in quotes.
fn strip_name<'a>(dotted: &'a str, name: &str) -> Option<&'a str> {
    let rest = dotted
        .strip_prefix(&format!("{name:?}"))
        .or_else(|| dotted.strip_prefix(name))?;
    match rest {
        "" => Some(""),
        rest => rest.strip_prefix('.'),
    }
}

/// The dotted key whose name or value holds the byte at `at`.
fn key_at(table: &DeTable<'_>, at: usize) -> String {
    let holds = |span: Range<usize>| span.contains(&at);
    let found = table.iter().find_map(|(name, value)| {
        let inner = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, at),
            DeValue::Array(entries) => entries
                .iter()
                .filter_map(|entry| match entry.get_ref() {
                    DeValue::Table(inner) => Some(key_at(inner, at)),
                    _ => None,
                })
                .find(|key| !key.is_empty())
                .unwrap_or_default(),
            _ => String::new(),
        };
        let quoted = match name.get_ref() {
            name if is_bare(name) => name.to_string(),
            name => format!("{name:?}"),
        };
        match inner.as_str() {
            "" => (holds(name.span()) || holds(value.span())).then_some(quoted),
            inner => Some(format!("{quoted}.{inner}")),
        }
    });
    found.unwrap_or_default()
}

/// Whether TOML takes the key without quotes.
fn is_bare(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// What serde says, without words that only a programmer knows.
fn plain_words(message: &str) -> String {
    let mut message = one_line(message);
    if let Some(at) = message.rfind("expected struct ") {
        message.replace_range(at.., "expected a section");
    }
    for (word, plain) in [
        ("invalid type: ", "it is "),
        ("invalid value: ", "it is "),
        ("unknown variant ", "there is no "),
        ("missing field ", "it lacks the key "),
        ("expected u16", "expected a whole number from 0 to 65535"),
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected a section"),
        ("expected a string", "expected a text in quotes"),
        ("expected path string", "expected a path in quotes"),
        ("expected a boolean", "expected true or false"),
    ] {
        message = message.replacen(word, plain, 1);
    }
    message
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
