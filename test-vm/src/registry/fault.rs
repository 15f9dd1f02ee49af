//! How the registry is told to misbehave.

use serde::{Deserialize, Serialize};

/// One misbehaviour for some requests. The first fault that matches a request is applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Applies to paths that contain this.
    pub path: String,
    /// How many matching requests pass unharmed before.
    #[serde(default)]
    pub skip: u64,
    /// How many requests it is applied to; all when absent.
    #[serde(default)]
    pub times: Option<u64>,
    pub action: Action,
}

/// What is done to a request or its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// An error with an OCI body.
    Status {
        status: u16,
        retry_after_seconds: Option<u64>,
    },
    /// 401 with a Basic challenge unless the request carries this account.
    Basic { user: String, password: String },
    /// 401 with a Bearer challenge unless the request carries a token. Tokens are had at
    /// `/_token`, by anybody when there is no account.
    Bearer {
        user: Option<String>,
        password: Option<String>,
    },
    /// 307 to another port, which refuses credentials as object stores do.
    Redirect,
    /// The same, after this refusal is satisfied.
    RedirectWith { first: Box<Self> },
    /// 307 to another server.
    RedirectTo { base: String },
    /// 401 with a Bearer challenge that names this realm.
    Realm { realm: String },
    /// The connection ends after so many bytes of the body.
    Cut { after_len: u64 },
    /// Nothing comes any more after so many bytes of the body.
    Stall { after_len: u64 },
    /// The whole blob is sent whatever range was asked for.
    IgnoreRange,
    /// The byte at this place of the body is another one.
    Corrupt { at: u64 },
    /// The answer's head comes late.
    Delay { millis: u64 },
}

impl Fault {
    #[must_use]
    pub fn new(path: &str, action: Action) -> Self {
        Self {
            path: path.to_owned(),
            skip: 0,
            times: None,
            action,
        }
    }

    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    #[must_use]
    pub fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    #[must_use]
    pub fn status(path: &str, status: u16) -> Self {
        Self::new(
            path,
            Action::Status {
                status,
                retry_after_seconds: None,
            },
        )
    }

    /// Counts a request down; whether the fault is to be applied to it.
    pub(super) fn applies(&mut self, path: &str) -> bool {
        if !path.contains(&self.path) || self.times == Some(0) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times = self.times.map(|times| times - 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_skips_then_applies_so_many_times() {
        let mut fault = Fault::status("/blobs/", 500).skip(1).times(2);
        let applied: Vec<_> = (0..5).map(|_| fault.applies("/v2/a/blobs/x")).collect();
        assert_eq!(applied, [false, true, true, false, false]);
        assert!(!fault.applies("/v2/a/manifests/x"));
    }

    #[test]
    fn faults_survive_the_way_over_the_control_port() -> serde_json::Result<()> {
        let fault = Fault::new("x", Action::Cut { after_len: 7 }).times(1);
        let text = serde_json::to_string(&fault)?;
        assert_eq!(serde_json::from_str::<Fault>(&text)?, fault);
        Ok(())
    }
}
