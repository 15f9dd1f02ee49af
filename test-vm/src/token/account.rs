//! Accounts and what they may pull.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::Grant;

/// All that the service goes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    pub accounts: BTreeMap<String, Account>,
    /// Repositories that anybody may pull: names, or "public/*".
    pub public: Vec<String>,
    /// How long tokens hold.
    pub token_seconds: u64,
    pub mode: Mode,
}

/// Whoever shows this password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    pub password: String,
    /// Repositories that it may pull: names, or "team/*".
    pub repositories: Vec<String>,
    /// Nothing is issued from this second of the epoch on, as for a robot account that expires.
    pub expires: Option<u64>,
    pub is_revoked: bool,
}

/// What the service does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Serves,
    /// Answers nothing, ever.
    Hangs,
    /// Answers 500.
    Fails,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            accounts: BTreeMap::new(),
            public: Vec::new(),
            token_seconds: 300,
            mode: Mode::Serves,
        }
    }
}

impl Account {
    #[must_use]
    pub fn new(password: &str, repositories: &[&str]) -> Self {
        Self {
            password: password.to_owned(),
            repositories: repositories.iter().map(|&it| it.to_owned()).collect(),
            expires: None,
            is_revoked: false,
        }
    }

    #[must_use]
    pub fn expired(mut self) -> Self {
        self.expires = Some(0);
        self
    }
}

impl Rules {
    /// The account of this name when the password is its own and it still holds.
    pub(super) fn login(&self, name: &str, password: &str) -> Option<&Account> {
        let account = self.accounts.get(name)?;
        let holds = account.expires.is_none_or(|at| now() < at) && !account.is_revoked;
        (holds && account.password == password).then_some(account)
    }

    /// What of the wishes is granted to an account, or to nobody: pulling alone.
    pub(super) fn granted(&self, account: Option<&Account>, wishes: &[Grant]) -> Vec<Grant> {
        let own = account.map_or(&[][..], |it| &it.repositories);
        let allowed = |name: &str| self.public.iter().chain(own).any(|it| covers(it, name));
        let wanted = wishes.iter().filter(|wish| wish.kind == "repository");
        let granted = wanted.filter(|wish| allowed(&wish.name));
        granted.map(|wish| Grant::pull(&wish.name)).collect()
    }
}

fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_is_granted_its_own_and_public_repositories_alone() {
        let account = Account::new("p", &["team/*", "one"]);
        let rules = Rules {
            public: vec!["public/*".to_owned()],
            ..Rules::default()
        };
        let wishes = ["team/a", "one", "one/b", "public/c", "other"].map(Grant::pull);
        let names = |grants: Vec<Grant>| grants.into_iter().map(|it| it.name).collect::<Vec<_>>();
        let own = names(rules.granted(Some(&account), &wishes));
        assert_eq!(own, ["team/a", "one", "public/c"]);
        assert_eq!(names(rules.granted(None, &wishes)), ["public/c"]);
    }

    #[test]
    fn wrong_expired_and_revoked_accounts_do_not_log_in() {
        let mut rules = Rules {
            accounts: BTreeMap::from([
                ("right".to_owned(), Account::new("p", &[])),
                ("old".to_owned(), Account::new("p", &[]).expired()),
            ]),
            ..Rules::default()
        };
        assert!(rules.login("right", "p").is_some());
        assert!(rules.login("right", "q").is_none());
        assert!(rules.login("old", "p").is_none());
        assert!(rules.login("none", "p").is_none());
        if let Some(account) = rules.accounts.get_mut("right") {
            account.is_revoked = true;
        }
        assert!(rules.login("right", "p").is_none());
    }
}
