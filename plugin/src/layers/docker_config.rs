//! The logins of Docker's command on this host: its `config.json`, and the helpers that it names.
//!
//! Read again whenever the file has changed. Nothing is kept of it but in memory.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hawker_model::{RegistryHost, Repository};
use hawker_p2p::{Account, Login};
use hawker_swarm::Secret;
use serde::Deserialize;
use tracing::warn;

use super::helper;

/// Under which Docker files its own registry.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Longest file that is read, in bytes.
const MAX_FILE_LEN: u64 = 4 << 20;
/// How long a helper's answer is used: an image's layers ask all at once.
const KEEP_ANSWERS: Duration = Duration::from_secs(60);
/// Answers remembered at most. Whoever names an image names a server to ask for.
const MOST_ANSWERS: usize = 128;

/// Docker's configuration file, whether it is there or not.
pub(crate) struct DockerConfig {
    path: PathBuf,
    /// Where helpers are looked for in place of the `PATH`.
    helpers: Option<OsString>,
    file: Mutex<Option<(Stamp, Arc<File>)>>,
    /// What helpers said. Locked while one is asked, so that it is asked once for many layers.
    answers: Mutex<HashMap<Question, Arc<Slot>>>,
}

/// What changes when a file is written.
type Stamp = Option<(SystemTime, u64)>;
/// A helper's name and the server.
type Question = (String, String);
type Slot = tokio::sync::Mutex<Option<(Instant, Option<Account>)>>;

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// Where the file says that a login is.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Account(Account),
    /// A helper's name, and the server to ask it for.
    Helper(String, String),
}

impl DockerConfig {
    /// The file at `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            helpers: None,
            file: Mutex::default(),
            answers: Mutex::default(),
        }
    }

    /// Who is logged in at a registry. What cannot be read is logged, and is nobody.
    pub(crate) async fn account(
        &self,
        registry: &RegistryHost,
        repository: &Repository,
    ) -> Option<Account> {
        let file = self.read().await;
        match file.find(registry, repository)? {
            Found::Account(account) => Some(account),
            Found::Helper(name, server) => self.ask(name, server).await,
        }
    }

    /// Helpers are asked anew: what they said was refused.
    pub(super) fn forget_answers(&self) {
        lock(&self.answers).clear();
    }

    async fn read(&self) -> Arc<File> {
        let path = self.path.clone();
        let stamp = stamp_of(&path).await;
        if let Some((of, file)) = &*lock(&self.file)
            && *of == stamp
        {
            return Arc::clone(file);
        }
        let file = match stamp {
            Some((_, len)) => read(&path, len).await.unwrap_or_else(|error| {
                let path = path.display();
                warn!(%path, %error, "cannot use Docker's logins (credentials.docker_config)");
                File::default()
            }),
            None => File::default(),
        };
        let mut held = lock(&self.file);
        let file = match held.take() {
            // Another layer was faster.
            Some((of, file)) if of == stamp => file,
            _ => {
                self.forget_answers();
                Arc::new(file)
            }
        };
        *held = Some((stamp, Arc::clone(&file)));
        file
    }

    async fn ask(&self, name: String, server: String) -> Option<Account> {
        let question = (name.clone(), server.clone());
        let slot = self.slot(question);
        let mut slot = slot.lock().await;
        if let Some((at, account)) = &*slot
            && at.elapsed() < KEEP_ANSWERS
        {
            return account.clone();
        }
        let asked = helper::ask(&name, &server, self.helpers.as_ref()).await;
        let account = asked.unwrap_or_else(|error| {
            warn!(%server, %error, "a credential helper of Docker's gives no login");
            None
        });
        *slot = Some((Instant::now(), account.clone()));
        account
    }
}

impl DockerConfig {
    fn slot(&self, question: Question) -> Arc<Slot> {
        let mut answers = lock(&self.answers);
        if answers.len() >= MOST_ANSWERS {
            // What nobody is asking for now.
            answers.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(answers.entry(question).or_default())
    }
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerConfig")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

async fn stamp_of(path: &Path) -> Stamp {
    let found = tokio::fs::metadata(path).await.ok()?;
    Some((found.modified().ok()?, found.len()))
}

async fn read(path: &Path, len: u64) -> io::Result<File> {
    if len > MAX_FILE_LEN {
        let reason = format!("it is longer than {MAX_FILE_LEN} bytes");
        return Err(io::Error::other(reason));
    }
    let bytes = tokio::fs::read(path).await?;
    // serde's own words may quote what stands there.
    serde_json::from_slice(&bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        io::Error::other(format!(
            "line {line}, column {column} is not as Docker writes it"
        ))
    })
}

impl File {
    /// The login for a repository. A helper for just this registry goes before what the file
    /// holds, and that before the helper for everything.
    fn find(&self, registry: &RegistryHost, repository: &Repository) -> Option<Found> {
        let helper = self.cred_helpers.iter().find(|(key, helper)| {
            !helper.is_empty() && Key::parse(key).is_some_and(|key| key.is_for(registry))
        });
        if let Some((key, helper)) = helper {
            return Some(Found::Helper(helper.clone(), key.clone()));
        }
        let entries = self.auths.iter().filter_map(|(text, entry)| {
            let key = Key::parse(text)?;
            let fits = key.is_for(registry) && key.covers(repository);
            fits.then(|| (key.path.len(), entry.account()))
        });
        // Podman and Kubernetes write paths: the longest knows best.
        let held = entries
            .filter_map(|(len, account)| Some((len, account?)))
            .max_by_key(|(len, _)| *len);
        if let Some((_, account)) = held {
            return Some(Found::Account(account));
        }
        let server = match registry.as_str() {
            "docker.io" => HUB_KEY.to_owned(),
            other => other.to_owned(),
        };
        let store = &self.creds_store;
        (!store.is_empty()).then(|| Found::Helper(store.clone(), server))
    }
}

/// For what a login is filed: `host[:port]`, with or without a scheme and a path.
struct Key<'a> {
    host: String,
    path: &'a str,
}

impl<'a> Key<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let bare = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(text);
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
            other => other.to_ascii_lowercase(),
        };
        let path = path.trim_end_matches('/');
        // Docker's old way to write the API's version.
        let path = if matches!(path, "v1" | "v2") {
            ""
        } else {
            path
        };
        (!host.is_empty()).then_some(Self { host, path })
    }

    fn is_for(&self, registry: &RegistryHost) -> bool {
        let name = registry.as_str();
        let name = match name {
            "index.docker.io" | "registry-1.docker.io" => "docker.io",
            other => other,
        };
        self.host == name
    }

    fn covers(&self, repository: &Repository) -> bool {
        let rest = repository.as_str().strip_prefix(self.path);
        self.path.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Entry {
    /// The login that an entry holds; `None` where a helper keeps it.
    fn account(&self) -> Option<Account> {
        if !self.identitytoken.is_empty() {
            return Some(Account::IdentityToken(Secret::new(&self.identitytoken)));
        }
        let (username, password) = match self.auth.is_empty() {
            false => decode(&self.auth)?,
            true => (self.username.clone(), self.password.clone()),
        };
        let is_login = !username.is_empty() && !password.is_empty();
        is_login.then(|| {
            Account::Login(Login {
                username,
                password: Secret::new(password),
            })
        })
    }
}

/// `base64(name:password)`, as Docker pads it with zeros.
fn decode(auth: &str) -> Option<(String, String)> {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decoded = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient)
        .decode(auth.trim())
        .ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Some((
        username.to_owned(),
        password.trim_end_matches('\0').to_owned(),
    ))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use proptest::prelude::*;

    use super::*;

    fn find(file: &str, registry: &str, repository: &str) -> Option<Found> {
        let file: File = serde_json::from_str(file).unwrap();
        file.find(
            &RegistryHost::parse(registry).unwrap(),
            &Repository::parse(repository).unwrap(),
        )
    }

    fn login(username: &str, password: &str) -> Found {
        Found::Account(Account::Login(Login {
            username: username.to_owned(),
            password: Secret::new(password),
        }))
    }

    #[test]
    fn logins_are_found_under_all_names_of_their_registry() {
        // ann:pw
        for key in [
            HUB_KEY,
            "docker.io",
            "index.docker.io",
            "https://docker.io",
            "registry-1.docker.io",
        ] {
            let file = format!(r#"{{"auths":{{"{key}":{{"auth":"YW5uOnB3"}}}}}}"#);
            assert_eq!(
                find(&file, "docker.io", "a"),
                Some(login("ann", "pw")),
                "{key}"
            );
            assert_eq!(find(&file, "r.io", "a"), None);
        }
        let file = r#"{"auths":{"https://R.io:5000/v2/":{"username":"u","password":"p"}}}"#;
        assert_eq!(find(file, "r.io:5000", "a"), Some(login("u", "p")));
        assert_eq!(find(file, "r.io", "a"), None);
    }

    #[test]
    fn the_longest_path_wins_and_other_paths_count_for_nothing() {
        let file = r#"{"auths":{
            "r.io":{"username":"all","password":"p"},
            "r.io/team":{"username":"team","password":"p"},
            "r.io/other":{"username":"other","password":"p"}}}"#;
        assert_eq!(find(file, "r.io", "team/app"), Some(login("team", "p")));
        assert_eq!(find(file, "r.io", "teams"), Some(login("all", "p")));
    }

    #[test]
    fn identity_tokens_and_helpers_are_found() {
        let helper = |name: &str, server: &str| Some(Found::Helper(name.into(), server.into()));
        let file = r#"{
            "auths":{"r.io":{"auth":"MDAwOg==","identitytoken":"t"},"s.io":{},"h.io":{"auth":"YW5uOnB3"}},
            "credsStore":"all","credHelpers":{"h.io":"one","e.io":""}}"#;
        let token = Found::Account(Account::IdentityToken(Secret::new("t")));
        assert_eq!(find(file, "r.io", "a"), Some(token));
        assert_eq!(find(file, "s.io", "a"), helper("all", "s.io"));
        assert_eq!(find(file, "h.io", "a"), helper("one", "h.io"));
        assert_eq!(find(file, "e.io", "a"), helper("all", "e.io"));
        assert_eq!(find(file, "docker.io", "a"), helper("all", HUB_KEY));
    }

    #[tokio::test]
    async fn file_is_read_again_when_it_has_changed() {
        let dir = tempfile::tempdir().unwrap();
        let config = DockerConfig::new(dir.path().join("config.json"));
        let (registry, repository) = (
            RegistryHost::parse("r.io").unwrap(),
            Repository::parse("a").unwrap(),
        );
        assert_eq!(config.account(&registry, &repository).await, None);
        for (text, known) in [
            (r#"{"auths":{"r.io":{"auth":"YW5uOnB3"}}}"#, true),
            ("nonsense: hush", false),
            (
                r#"{"auths":{"r.io":{"username":"u","password":"p"}}}"#,
                true,
            ),
        ] {
            fs::write(dir.path().join("config.json"), text).unwrap();
            let account = config.account(&registry, &repository).await;
            assert_eq!(account.is_some(), known, "{text}");
        }
        assert!(!format!("{config:?}").contains("YW5"));
    }

    #[tokio::test]
    async fn helper_is_asked_once_for_many_layers_and_anew_after_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("docker-credential-count");
        let answer = r#"{"Username":"ann","Secret":"pw"}"#;
        let count = dir.path().join("count").display().to_string();
        fs::write(
            &script,
            format!("#!/bin/sh\necho x >> {count}\necho '{answer}'\n"),
        )
        .unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("config.json"), r#"{"credsStore":"count"}"#).unwrap();
        let mut config = DockerConfig::new(dir.path().join("config.json"));
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        config.helpers = Some(path.into());
        let (registry, repository) = (
            RegistryHost::parse("r.io").unwrap(),
            Repository::parse("a").unwrap(),
        );
        let asks = (0..8).map(|_| config.account(&registry, &repository));
        let accounts = futures::future::join_all(asks).await;
        assert!(accounts.iter().all(Option::is_some));
        let asked = || fs::read_to_string(&count).unwrap().lines().count();
        assert_eq!(asked(), 1);
        config.forget_answers();
        config.account(&registry, &repository).await;
        assert_eq!(asked(), 2);
    }

    #[tokio::test]
    async fn memory_for_answers_is_bounded() {
        let config = DockerConfig::new(PathBuf::from("nowhere"));
        for number in 0..3 * MOST_ANSWERS {
            let asked = config.ask("../none".to_owned(), number.to_string()).await;
            assert_eq!(asked, None);
        }
        assert!(lock(&config.answers).len() <= MOST_ANSWERS);
    }

    proptest! {
        #[test]
        fn any_file_is_survived(key in "\\PC{0,40}", auth in "\\PC{0,40}") {
            let file = serde_json::json!({"auths": {key: {"auth": auth}}}).to_string();
            let _ = find(&file, "r.io", "a");
        }
    }
}
