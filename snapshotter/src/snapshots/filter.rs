//! containerd's filters: `name==foo,labels."a.b/c"~=^x`.
//!
//! ```text
//! filter   := selector ("," selector)*                all must match; nothing matches everything
//! selector := path [operator value]                   without: the field is present
//! path     := field ("." field)*                      of a snapshot: name, parent, kind, labels.<name>
//! field    := quoted | [A-Za-z0-9_]+
//! operator := "==" | "!=" | "~="                      equal, not equal, regular expression
//! value    := quoted | [^\s,]+
//! quoted   := "…" with Go's escapes; after ~= also /…/ and |…|
//! ```

mod parser;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, str::FromStr};

use regex::Regex;

use self::parser::Parser;
use super::info::{Info, Kind, Row};

/// Which things of one kind are wanted.
#[derive(Clone, Debug)]
pub struct Filter {
    selectors: Vec<Selector>,
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter {filter:?}: {why} at byte {at}")]
pub struct FilterError {
    filter: String,
    at: usize,
    why: String,
}

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filter {
    /// Reads a filter. The empty text matches everything.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let selectors = match text.is_empty() {
            true => Vec::new(),
            false => Parser::new(text).selectors()?,
        };
        Ok(Self { selectors })
    }

    /// Whether this snapshot is wanted.
    pub fn matches(&self, info: &Info) -> bool {
        self.matches_fields(&Fields {
            name: &info.name,
            parent: &info.parent,
            kind: info.kind,
            labels: &info.labels,
        })
    }

    /// Whether a thing is wanted whose fields have these values. A path has at least one part;
    /// `None`: there is no such field.
    pub fn matches_values<'a>(&self, value: impl Fn(&[String]) -> Option<&'a str>) -> bool {
        let mut selectors = self.selectors.iter();
        selectors.all(|selector| selector.test.passes(value(&selector.path)))
    }

    pub(super) fn matches_row(&self, name: &str, row: &Row) -> bool {
        self.matches_fields(&Fields {
            name,
            parent: &row.parent,
            kind: row.kind,
            labels: &row.labels,
        })
    }

    fn matches_fields(&self, fields: &Fields<'_>) -> bool {
        self.matches_values(|path| fields.value(path))
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}

struct Fields<'a> {
    name: &'a str,
    parent: &'a str,
    kind: Kind,
    labels: &'a BTreeMap<String, String>,
}

impl<'a> Fields<'a> {
    /// Of all but labels only the first part counts.
    fn value(&self, path: &[String]) -> Option<&'a str> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "name" => Some(self.name),
            "parent" => Some(self.parent),
            "kind" => Some(self.kind.as_str()),
            "labels" => self.labels.get(&rest.join(".")).map(String::as_str),
            _ => None,
        }
    }
}

impl Test {
    /// A field that is missing is empty for all but presence and equality.
    fn passes(&self, value: Option<&str>) -> bool {
        match self {
            Self::Present => value.is_some(),
            Self::Equal(wanted) => value == Some(wanted),
            Self::NotEqual(other) => value.unwrap_or("") != other,
            Self::Matches(regex) => regex.is_match(value.unwrap_or("")),
        }
    }
}
