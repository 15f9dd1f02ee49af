//! One thing that was looked at.

use std::fmt;

use serde::Serialize;

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// Good to know.
    Info,
    /// It works, and could be better; or it could not be looked at.
    Warn,
    /// It does not work.
    Fail,
}

impl Verdict {
    /// As it is printed.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// What was found, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) what: String,
    /// Empty where there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) remedy: String,
}

/// All of them, in the order of looking.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Findings {
    pub(crate) all: Vec<Finding>,
}

impl Findings {
    pub(crate) fn ok(&mut self, check: &'static str, what: impl fmt::Display) {
        self.add(check, Verdict::Ok, what, "");
    }

    pub(crate) fn info(&mut self, check: &'static str, what: impl fmt::Display) {
        self.add(check, Verdict::Info, what, "");
    }

    pub(crate) fn warn(&mut self, check: &'static str, what: impl fmt::Display, remedy: &str) {
        self.add(check, Verdict::Warn, what, remedy);
    }

    pub(crate) fn fail(&mut self, check: &'static str, what: impl fmt::Display, remedy: &str) {
        self.add(check, Verdict::Fail, what, remedy);
    }

    fn add(
        &mut self,
        check: &'static str,
        verdict: Verdict,
        what: impl fmt::Display,
        remedy: &str,
    ) {
        self.all.push(Finding {
            check,
            verdict,
            what: what.to_string(),
            remedy: remedy.to_owned(),
        });
    }

    /// How many have this verdict.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        let with = self.all.iter().filter(|finding| finding.verdict == verdict);
        with.count()
    }
}
