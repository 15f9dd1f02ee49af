//! What somebody wishes for, and what they show for it.

use std::{fmt, sync::Arc};

use hawker_model::{Digest, RegistryHost, Repository, TaskId};
use hawker_p2p::{Account, OriginClient, OriginError, OriginGroup};
use hawker_swarm::{Secret, Source};
use url::Url;

use super::right_key::{Holder, Item, RightKey};

/// Where something is, for people: it says nothing of who asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    registry: Arc<str>,
    repository: Arc<str>,
}

impl Place {
    pub(super) fn named(registry: &str, repository: &str) -> Self {
        Self {
            registry: registry.into(),
            repository: repository.into(),
        }
    }

    /// The registry, or the server of a file.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    /// Empty for a file.
    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.repository {
            "" => f.write_str(&self.registry),
            repository => write!(f, "{}/{repository}", self.registry),
        }
    }
}

/// What ties a task to its URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tie {
    /// The URL names the task: a registry's blob by its digest, or a file whose task is made of its
    /// URL. Whoever may have the one may have the other.
    Url,
    /// The asker says that what is at the URL has this digest: every asker's right needs a proof.
    Asker,
}

/// Where whoever asks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// At this host: its own logins, headers and client certificates are for them too.
    Here,
    /// At another host, which named the source.
    Elsewhere,
}

/// Somebody's wish for a blob or a file, with what they show for it.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(super) task: TaskId,
    pub(super) source: Source,
    pub(super) place: Place,
    pub(super) key: RightKey,
    pub(super) tie: Tie,
    /// Who asks, where that is not simply whoever shows the source's credential.
    pub(super) account: Option<Account>,
    pub(super) asker: Asker,
    /// Whose word counts for whose bytes.
    pub(super) group: OriginGroup,
}

impl Claim {
    /// For a blob of a registry's. `credential`: `None` is who is configured for it, or nobody.
    pub(crate) fn blob(
        origin: &OriginClient,
        registry: &RegistryHost,
        repository: &Repository,
        digest: Digest,
        credential: Option<&Secret>,
    ) -> Result<Self, OriginError> {
        let url = String::from(origin.blob_url(registry, repository, &digest)?);
        let task = TaskId::Blob(digest);
        Ok(Self {
            task,
            key: RightKey {
                holder: Holder::of_repository(repository_of(&url), credential),
                item: Item::Task(task),
            },
            source: Source {
                url,
                authorization: credential.cloned(),
            },
            place: Place::named(registry.as_str(), repository.as_str()),
            tie: Tie::Url,
            account: None,
            asker: Asker::Here,
            group: origin.same_group(registry),
        })
    }

    /// For what is at a URL: what has this digest, or whatever is there.
    pub(crate) fn file(
        origin: &OriginClient,
        url: &Url,
        digest: Option<Digest>,
        credential: Option<&Secret>,
    ) -> Self {
        let source = Source {
            url: url.to_string(),
            authorization: credential.cloned(),
        };
        let bare = source.url.split('?').next().unwrap_or_default();
        let (task, item, tie) = match digest.map(TaskId::Blob) {
            Some(task) => (task, Item::Task(task), Tie::Asker),
            None => (TaskId::Url([0; 32]), Item::File, Tie::Url),
        };
        Self {
            task,
            key: RightKey {
                holder: Holder::of_file(bare, &source),
                item,
            },
            place: Place::named(url.host_str().unwrap_or_default(), ""),
            tie,
            account: None,
            asker: Asker::Here,
            group: origin.group_of_url(url),
            source,
        }
    }

    /// The same, now that the file's task is known.
    pub(crate) fn for_task(mut self, task: TaskId) -> Self {
        self.task = task;
        self
    }

    /// The same, asked for by an account whose password or identity token we hold. It shows nothing
    /// else.
    pub(crate) fn by(mut self, account: Account) -> Self {
        let url = self.source.url.as_str();
        let place = match self.place.repository() {
            // A file is only itself, whatever its address looks like.
            "" => url,
            _ => repository_of(url),
        };
        self.key.holder = Holder::of_account(place, &account);
        self.source.authorization = None;
        self.account = Some(account);
        self
    }

    /// For a source that another host names: only of a registry's blob whose URL names the task.
    pub(super) fn of_source(origin: &OriginClient, task: TaskId, source: &Source) -> Option<Self> {
        let url = Url::parse(&source.url).ok()?;
        // What is read of the text below is what is asked for: not what lies behind `?` or `#`.
        let is_plain = url.query().is_none() && url.fragment().is_none();
        if !is_plain || url.as_str() != source.url {
            return None;
        }
        let digest = task.digest()?;
        let (prefix, _) = source.url.rsplit_once("/blobs/")?;
        // A registry's name may be v2 as well.
        let (place, named) = url.path().rsplit_once("/blobs/")?;
        let (_, repository) = place.split_once("/v2/")?;
        if named != digest.to_string() || Repository::parse(repository).is_err() {
            return None;
        }
        let port = url.port().map(|port| format!(":{port}"));
        let server = format!("{}{}", url.host_str()?, port.unwrap_or_default());
        Some(Self {
            task,
            key: RightKey {
                holder: Holder::of_repository(prefix, source.authorization.as_ref()),
                item: Item::Task(task),
            },
            place: Place::named(&server, repository),
            tie: Tie::Url,
            account: None,
            asker: Asker::Elsewhere,
            group: origin.group_of_url(&url),
            source: source.clone(),
        })
    }

    /// What is wanted.
    pub(crate) fn task(&self) -> TaskId {
        self.task
    }

    /// Where, for people.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// What is shown, where it is not an account's.
    pub(crate) fn shows(&self) -> Option<&Secret> {
        self.source.authorization.as_ref()
    }

    /// Whether it is for a registry's blob: one thing, whoever asks.
    pub(super) fn is_blob_of_registry(&self) -> bool {
        self.tie == Tie::Url && matches!(self.key.item, Item::Task(_))
    }

    /// Whether it shows a password.
    pub(super) fn shows_password(&self) -> bool {
        self.shows().is_some_and(is_password)
    }

    /// Whether another host may be asked for its right: it shows what is good for one repository, or
    /// nothing, and its URL says what it is about. Passwords are not shown around.
    pub(super) fn is_for_judges(&self) -> bool {
        let named = self.tie == Tie::Url && self.source.url.ends_with(&self.task.to_string());
        named && self.account.is_none() && !self.shows_password()
    }
}

/// Whether a credential is a name and password.
pub(super) fn is_password(credential: &Secret) -> bool {
    let scheme = credential.expose().split(' ').next().unwrap_or_default();
    scheme.eq_ignore_ascii_case("basic")
}

/// Whoever shows `credential` at a repository.
pub(super) fn holder(
    origin: &OriginClient,
    registry: &RegistryHost,
    repository: &Repository,
    credential: Option<&Secret>,
) -> Result<Holder, OriginError> {
    // Every blob of it has the same beginning.
    let any = origin.blob_url(registry, repository, &Digest::from_bytes([0; 32]))?;
    Ok(Holder::of_repository(
        repository_of(any.as_str()),
        credential,
    ))
}

/// What all URLs of a repository begin with.
fn repository_of(blob_url: &str) -> &str {
    blob_url
        .rsplit_once("/blobs/")
        .map_or(blob_url, |(prefix, _)| prefix)
}

#[cfg(test)]
mod tests {
    use hawker_p2p::OriginConfig;
    use proptest::prelude::*;

    use super::*;

    fn origin() -> OriginClient {
        OriginClient::new(OriginConfig::default()).unwrap()
    }

    #[test]
    fn files_of_one_account_are_told_apart_by_their_whole_addresses() {
        let account = || Account::IdentityToken(Secret::new("t"));
        let key = |url: &str| {
            let url = Url::parse(url).unwrap();
            Claim::file(&origin(), &url, None, None).by(account()).key
        };
        let all = [
            "https://f.io/f?id=1",
            "https://f.io/f?id=2",
            "https://f.io/blobs/1",
            "https://f.io/blobs/2",
        ];
        for (i, one) in all.iter().enumerate() {
            for other in &all[i + 1..] {
                assert!(key(one) != key(other), "{one} {other}");
            }
        }
    }

    #[test]
    fn another_hosts_claim_is_the_same_as_ones_own() {
        let (origin, digest) = (origin(), Digest::of(b"x"));
        let registry = RegistryHost::parse("r.io:5000").unwrap();
        let repository = Repository::parse("team/app").unwrap();
        let secret = Secret::new("Bearer t");
        let own = Claim::blob(&origin, &registry, &repository, digest, Some(&secret)).unwrap();
        let others = Claim::of_source(&origin, own.task, &own.source).unwrap();
        assert!(own.key == others.key);
        assert_eq!(others.place.to_string(), "r.io:5000/team/app");
        let holder = holder(&origin, &registry, &repository, Some(&secret)).unwrap();
        assert!(holder == own.key.holder);
    }

    #[test]
    fn only_urls_that_name_the_task_are_judged() {
        let (origin, digest) = (origin(), Digest::of(b"x"));
        let task = TaskId::Blob(digest);
        for url in [
            format!("https://r.io/v2/a/blobs/{}", Digest::of(b"y")),
            format!("https://r.io/v2/a/blobs/{digest}?x=1"),
            format!("https://r.io?/v2/a/blobs/{digest}"),
            format!("https://r.io/x#/v2/a/blobs/{digest}"),
            format!("https://r.io\\v2/v2/a/blobs/{digest}"),
            format!("https://r.io/v2/a/b/../c/blobs/{digest}"),
            format!("https://r.io/v2/A/blobs/{digest}"),
            format!("https://r.io/files/{digest}"),
            format!("https://v2/v2/blobs/{digest}"),
            format!("https://v2/a/blobs/{digest}"),
            "https://r.io/f".to_owned(),
            String::new(),
        ] {
            let (source, authorization) = (url.clone(), None);
            let source = Source {
                url: source,
                authorization,
            };
            assert!(Claim::of_source(&origin, task, &source).is_none(), "{url}");
        }
    }

    #[test]
    fn a_registry_may_be_called_v2() {
        let (origin, digest) = (origin(), Digest::of(b"x"));
        let source = Source {
            url: format!("https://v2/v2/team/app/blobs/{digest}"),
            authorization: None,
        };
        let claim = Claim::of_source(&origin, TaskId::Blob(digest), &source).unwrap();
        assert_eq!(claim.place.to_string(), "v2/team/app");
    }

    #[test]
    fn digest_that_the_asker_says_ties_nothing() {
        let url = Url::parse("https://h/f?sig=1").unwrap();
        let claim = |digest| Claim::file(&origin(), &url, digest, None);
        let said = claim(Some(Digest::of(b"x")));
        assert_eq!(said.tie, Tie::Asker);
        assert_eq!(claim(None).tie, Tie::Url);
        assert!(!said.is_for_judges() && !claim(None).is_for_judges());
    }

    #[test]
    fn passwords_are_for_no_judge() {
        let (origin, digest) = (origin(), Digest::of(b"x"));
        let registry = RegistryHost::parse("r.io").unwrap();
        let repository = Repository::parse("a").unwrap();
        let claim = |shown: Option<&str>| {
            let shown = shown.map(Secret::new);
            Claim::blob(&origin, &registry, &repository, digest, shown.as_ref()).unwrap()
        };
        assert!(claim(None).is_for_judges());
        assert!(claim(Some("Bearer t")).is_for_judges());
        assert!(!claim(Some("basic YTpi")).is_for_judges());
        let token = Account::IdentityToken(Secret::new("t"));
        let by = claim(None).by(token.clone());
        assert!(!by.is_for_judges());
        assert!(by.key != claim(None).key && by.key == claim(Some("x")).by(token).key);
    }

    proptest! {
        #[test]
        fn any_url_of_a_host_is_survived(url in "(https://)?\\PC{0,60}") {
            let source = Source { url, authorization: None };
            let _ = Claim::of_source(&origin(), TaskId::Blob(Digest::of(b"x")), &source);
        }
    }
}
