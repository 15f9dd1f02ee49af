//! Who `hawker get` asks as: a user that is named, else the calling user's login at the registry.
//!
//! Passwords come from standard input or from Docker's logins, go to hawkerd in a header over its
//! socket, and are in no argument, query or message of this command. (A URL with a password in it is
//! its user's own choice.)

use std::{io::Read as _, path::PathBuf};

use base64::Engine as _;
use clap::Args;
use hawker_model::{RegistryHost, Repository};
use hawker_p2p::{Account, Login};
use hawker_swarm::Secret;
use url::{Host, Url};

use super::CliError;
use crate::layers::DockerConfig;

/// Longest password that is read, in bytes: some are tokens.
const MAX_PASSWORD_LEN: u64 = 64 << 10;
/// Docker's user name for what is no password but an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// Ask as this user; without it, Docker's logins are used where the URL is a registry's
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    user: Option<String>,
    /// Read the user's password from standard input
    #[arg(long, requires = "user")]
    password_stdin: bool,
    /// Ask as nobody, whatever Docker knows
    #[arg(long, conflicts_with = "user")]
    anonymous: bool,
}

impl LoginArgs {
    /// Who asks for `url`. What the URL holds of that is taken out of it.
    pub(super) async fn account(&self, url: &mut Url) -> Result<Option<Account>, CliError> {
        let of_url = take_userinfo(url)?;
        match (&self.user, of_url) {
            (Some(_), Some(_)) => Err(CliError::failed(
                "--user is given, and the URL names a user too",
            )),
            (Some(user), None) => password().map(|password| Some(login(user, password))),
            (None, Some(account)) => Ok(Some(account)),
            (None, None) if self.anonymous => Ok(None),
            (None, None) => Ok(of_docker(url).await),
        }
    }
}

/// The account as the value of an `Authorization` header, as `hawkerd` reads it.
pub(super) fn authorization(account: &Account) -> Secret {
    let (username, password) = match account {
        Account::Login(login) => (login.username.as_str(), &login.password),
        Account::IdentityToken(token) => (TOKEN_USER, token),
    };
    let pair = format!("{username}:{}", password.expose());
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    Secret::new(format!("Basic {encoded}"))
}

fn login(username: &str, password: Secret) -> Account {
    Account::Login(Login {
        username: username.to_owned(),
        password,
    })
}

fn password() -> Result<Secret, CliError> {
    let mut text = String::new();
    let mut input = std::io::stdin().take(MAX_PASSWORD_LEN);
    let read = input.read_to_string(&mut text);
    read.map_err(|error| CliError::failed(format!("cannot read the password: {error}")))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(CliError::failed("standard input holds no password")),
        password => Ok(Secret::new(password)),
    }
}

fn take_userinfo(url: &mut Url) -> Result<Option<Account>, CliError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let username = decoded(url.username())?;
    let password = decoded(url.password().unwrap_or_default())?;
    // Fails only for URLs that cannot have a user at all.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Ok(Some(login(&username, Secret::new(password))))
}

/// Percent-decoded, where a `+` is a `+`.
fn decoded(text: &str) -> Result<String, CliError> {
    let escaped = text.replace('+', "%2B");
    let pair = format!("={escaped}");
    let mut pairs = url::form_urlencoded::parse(pair.as_bytes());
    let value = pairs.next().map(|(_, value)| value.into_owned());
    match value.unwrap_or_default() {
        value if value.contains('\u{fffd}') => Err(CliError::failed("the URL's user is not UTF-8")),
        value => Ok(value),
    }
}

/// The calling user's login at the registry that the URL is of.
async fn of_docker(url: &Url) -> Option<Account> {
    let (registry, repository) = registry_of(url)?;
    let dir = match std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    let config = DockerConfig::new(dir.join("config.json"));
    config.account(&registry, &repository).await
}

/// The registry and repository of a URL of the distribution API. Logins go over TLS, or stay on this
/// machine.
fn registry_of(url: &Url) -> Option<(RegistryHost, Repository)> {
    let is_loopback = match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    };
    if url.scheme() != "https" && !is_loopback {
        return None;
    }
    let (front, _) = url.path().strip_prefix("/v2/")?.rsplit_once('/')?;
    let (name, kind) = front.rsplit_once('/')?;
    let repository = Repository::parse(name).ok()?;
    let host = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str()?),
        None => url.host_str()?.to_owned(),
    };
    let registry = RegistryHost::parse(&host).ok()?;
    matches!(kind, "blobs" | "manifests").then_some((registry, repository))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn user_of_the_url_is_taken_out_of_it() {
        let mut with = url("https://a%40b:p%3Aw+1@h.example/f?x=1");
        let account = take_userinfo(&mut with).unwrap().unwrap();
        assert_eq!(account, login("a@b", Secret::new("p:w+1")));
        assert_eq!(with.as_str(), "https://h.example/f?x=1");
        assert_eq!(take_userinfo(&mut with).unwrap(), None);
        assert!(take_userinfo(&mut url("https://a%ff:p@h/")).is_err());
    }

    #[test]
    fn only_urls_of_registries_get_their_login() {
        let of = |text: &str| {
            let (registry, repository) = registry_of(&url(text))?;
            Some(format!("{registry} {}", repository.as_str()))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(of("https://R.io/v2/a/b/blobs/x"), some("r.io a/b"));
        assert_eq!(
            of("https://r.io:5000/v2/a/manifests/t"),
            some("r.io:5000 a")
        );
        assert_eq!(
            of("http://127.0.0.1:5000/v2/a/blobs/x"),
            some("127.0.0.1:5000 a")
        );
        for other in [
            "http://r.io/v2/a/blobs/x",
            "https://r.io/v2/",
            "https://r.io/f",
            "https://r.io/v2/a/tags/list",
            "https://r.io/v2/A/blobs/x",
            "https://r.io/x/v2/a/blobs/x",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn accounts_are_told_as_docker_writes_them() {
        let told = |account| authorization(&account).expose().to_owned();
        assert_eq!(told(login("ann", Secret::new("pw"))), "Basic YW5uOnB3");
        let token = Account::IdentityToken(Secret::new("t"));
        assert_eq!(told(token), "Basic PHRva2VuPjp0");
    }
}
