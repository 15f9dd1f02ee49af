//! What a seed says of manifests that other hosts wish for.
//!
//! It asks the registry once for all who wish for the same at once: with what they show, and nothing
//! of its own, as it judges claims ([`super::judge`]). What anybody may have it asks for in nobody's
//! name first, so that hosts with a token each are served by one answer; where that is not given, it
//! is not tried again for a while. Only a yes is kept, a tag's for a moment ([`answers`]).

mod answers;
mod given;

use std::time::Duration;

use hawker_model::{Repository, Target};
use hawker_p2p::{GivenManifest, ManifestWish, OriginError, Resolution};
use hawker_swarm::Source;
use url::Url;

use super::{
    Access, AccessError, RightsSettings, claim::is_password, judge::JUST_NOW, right_key::Holder,
};
use crate::noted::Noted;

use self::answers::Answers;
pub(super) use self::given::Name;

/// How long what the registry does not give to nobody is not asked for in nobody's name.
const CLOSED: Duration = Duration::from_secs(300);
/// How long that is so after an answer that says nothing of it, or none from the token service: who
/// has a token needs none from there and does not wait for it with each manifest.
const CLOSED_UNSAID: Duration = Duration::from_secs(15);

/// Everything that a seed keeps to answer such questions.
#[derive(Debug)]
pub(super) struct Resolver {
    answers: Answers,
    /// Repositories, registries and single manifests that are known not to be given to nobody.
    closed: Noted<Holder>,
    /// How long an answer is good for,
    keep: Duration,
    /// and that of what a tag names.
    keep_tags: Duration,
}

impl Resolver {
    pub(super) fn new(settings: &RightsSettings) -> Self {
        let keep = settings.keep.min(JUST_NOW);
        Self {
            answers: Answers::default(),
            closed: Noted::default(),
            keep,
            keep_tags: settings.keep_tags.min(keep),
        }
    }

    /// How long the registry's answer to a wish serves others.
    fn keeps(&self, wish: &ManifestWish) -> Duration {
        match wish.digest() {
            Some(_) => self.keep,
            None => self.keep_tags,
        }
    }

    /// Forgets what registries gave. That something is not for everybody stays known: it grants
    /// nothing.
    pub(super) fn forget(&self) {
        self.answers.forget();
    }
}

impl Access {
    /// What the registry gives for another host's wish to whoever shows its credential.
    pub(crate) async fn resolve(&self, wish: &ManifestWish) -> Resolution {
        let sought = match self.is_to_resolve(wish) {
            Ok(sought) => sought,
            Err(reason) => return Resolution::Failed(reason.to_owned()),
        };
        let resolved = match self.resolve_for_all(wish, &sought).await {
            // Nobody's refusal is told to nobody else.
            Err(_) if wish.source.authorization.is_some() => self.resolve_for_one(wish).await,
            resolved => resolved,
        };
        match resolved {
            Ok(manifest) if wish.whole && manifest.bytes.is_none() => {
                Resolution::Failed("it is too long to be handed on".to_owned())
            }
            Ok(manifest) => Resolution::Given(GivenManifest {
                bytes: manifest.bytes.filter(|_| wish.whole),
                ..manifest
            }),
            Err(NotGiven::Closed) => {
                Resolution::Failed("it is not for everybody, as far as is known".to_owned())
            }
            Err(NotGiven::Error(error)) => refusal(error),
        }
    }

    /// Where it is, if it is a wish that a seed answers, or why it is none.
    fn is_to_resolve<'a>(&self, wish: &'a ManifestWish) -> Result<Sought<'a>, &'static str> {
        let sought = Sought::of_wish(wish).ok_or("only manifests of registries are resolved")?;
        if wish.source.authorization.as_ref().is_some_and(is_password) {
            return Err("passwords are not for seeds");
        }
        match self.origin().shows_ours(&wish.source) {
            true => Err("the seed has a login, header or client certificate of its own there"),
            false => Ok(sought),
        }
    }

    /// Asks in nobody's name, unless that was in vain lately.
    async fn resolve_for_all(
        &self,
        wish: &ManifestWish,
        sought: &Sought<'_>,
    ) -> Result<GivenManifest, NotGiven> {
        let resolver = &self.0.resolver;
        let public = ManifestWish {
            source: Source {
                url: wish.source.url.clone(),
                authorization: None,
            },
            ..wish.clone()
        };
        let ask = || async {
            // Whoever asked a moment ago has noted it before his answer is known.
            let is_closed = sought.names().map(|name| resolver.closed.holds(&name));
            if is_closed.contains(&true) {
                return Err(NotGiven::Closed);
            }
            let given = self.ask_for_manifest(wish, Name::Nobodys).await;
            if let Err(error) = &given
                && let Some(kept) = closed_for(error)
            {
                resolver.closed.note(sought.closed_by(error), kept);
            }
            given.map_err(NotGiven::Error)
        };
        let keep = resolver.keeps(wish);
        resolver.answers.answer(&public, keep, ask).await
    }

    /// Asks with what the wish shows.
    async fn resolve_for_one(&self, wish: &ManifestWish) -> Result<GivenManifest, NotGiven> {
        let resolver = &self.0.resolver;
        let ask = || async {
            let given = self.ask_for_manifest(wish, Name::Theirs).await;
            given.map_err(NotGiven::Error)
        };
        let keep = resolver.keeps(wish);
        resolver.answers.answer(wish, keep, ask).await
    }
}

/// Why a seed has no manifest to give.
#[derive(Clone, Debug)]
enum NotGiven {
    /// It is known not to be for everybody.
    Closed,
    Error(AccessError),
}

/// Where a manifest is that another host wishes for.
struct Sought<'a> {
    url: &'a str,
    /// What all URLs of its repository begin with.
    prefix: &'a str,
    /// What all URLs of its registry begin with.
    server: &'a str,
}

impl<'a> Sought<'a> {
    /// Only a registry's manifest, at a URL that reads in one way.
    fn of_wish(wish: &'a ManifestWish) -> Option<Self> {
        let text = wish.source.url.as_str();
        let url = Url::parse(text).ok()?;
        let is_plain = url.query().is_none() && url.fragment().is_none();
        let (prefix, target) = text.rsplit_once("/manifests/")?;
        // A registry's name may be v2 as well.
        let (place, _) = url.path().rsplit_once("/manifests/")?;
        let (_, repository) = place.split_once("/v2/")?;
        let server = prefix.strip_suffix(repository)?.strip_suffix("/v2/")?;
        Repository::parse(repository).ok()?;
        Target::parse(target).ok()?;
        let is_sound = is_plain && url.as_str() == text && url.has_host();
        is_sound.then_some(Self {
            url: text,
            prefix,
            server,
        })
    }

    /// By what it may be known not to be for everybody.
    fn names(&self) -> [Holder; 3] {
        [self.url, self.prefix, self.server].map(|name| Holder::of_repository(name, None))
    }

    /// What is closed to nobody after this answer: some registries hide what they refuse, and one
    /// that has had enough has had it for all that is there.
    fn closed_by(&self, error: &AccessError) -> Holder {
        let name = match error {
            AccessError::Origin(OriginError::NotFound { .. }) => self.url,
            AccessError::Origin(OriginError::TooManyRequests { .. }) => self.server,
            _ => self.prefix,
        };
        Holder::of_repository(name, None)
    }
}

/// For how long something is closed to nobody after this answer, if it is. A registry that cannot be
/// asked says nothing of who may have what.
fn closed_for(error: &AccessError) -> Option<Duration> {
    let AccessError::Origin(of_origin) = error else {
        return None;
    };
    match of_origin {
        OriginError::Denied { .. }
        | OriginError::NotFound { .. }
        | OriginError::TooManyRequests { .. } => Some(CLOSED),
        OriginError::TokenServer { source, .. } if !source.is_outage() => Some(CLOSED),
        OriginError::TokenServer { .. } => Some(CLOSED_UNSAID),
        _ => (!error.is_outage()).then_some(CLOSED_UNSAID),
    }
}

fn refusal(error: AccessError) -> Resolution {
    match error {
        AccessError::Refused { status, challenges }
        | AccessError::Origin(OriginError::Denied {
            status, challenges, ..
        }) => Resolution::Denied { status, challenges },
        AccessError::Origin(OriginError::NotFound { .. }) => Resolution::NotFound,
        other => Resolution::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(url: &str) -> ManifestWish {
        ManifestWish {
            source: Source {
                url: url.to_owned(),
                authorization: None,
            },
            accept: String::new(),
            whole: true,
        }
    }

    #[test]
    fn a_manifest_is_sought_at_its_registry_which_may_be_called_v2() {
        for (url, prefix, server) in [
            (
                "https://r.io/v2/a/b/manifests/t",
                "https://r.io/v2/a/b",
                "https://r.io",
            ),
            (
                "https://r.io/x/v2/a/manifests/t",
                "https://r.io/x/v2/a",
                "https://r.io/x",
            ),
            (
                "https://v2/v2/a/manifests/t",
                "https://v2/v2/a",
                "https://v2",
            ),
        ] {
            let wish = wish(url);
            let sought = Sought::of_wish(&wish).unwrap();
            assert_eq!(
                (sought.url, sought.prefix, sought.server),
                (url, prefix, server)
            );
        }
    }

    #[test]
    fn only_a_registrys_manifest_at_a_url_that_reads_in_one_way_is_sought() {
        for url in [
            "https://r.io/a/manifests/t",
            "https://v2/v2/manifests/t",
            "https://v2/a/manifests/t",
            "https://r.io/v2/a/manifests/t?x=1",
            "https://r.io/f?/v2/a/manifests/t",
            "https://r.io/v2/a/../b/manifests/t",
            "https://r.io/v2/A/manifests/t",
            "",
        ] {
            assert!(Sought::of_wish(&wish(url)).is_none(), "{url}");
        }
    }
}
