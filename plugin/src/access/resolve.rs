//! What a seed says of manifests that other hosts wish for.
//!
//! It asks the registry once for all who wish for the same at once: with what they show, and nothing
//! of its own, as it judges claims ([`super::judge`]). What anybody may have it asks for in nobody's
//! name first, so that hosts with a token each are served by one answer; where that is not given, it
//! is not tried again for a while ([`closed`]). Only a yes is kept, a tag's for a moment ([`answers`]).

mod answers;
mod closed;
mod given;

use std::time::Duration;

use hawker_model::{Repository, Target};
use hawker_p2p::{GivenManifest, ManifestWish, OriginError, Resolution};
use hawker_swarm::Source;
use url::Url;

use super::{Access, AccessError, claim::is_password, judge::JUST_NOW, right_key::Holder};

pub(super) use self::given::Name;
use self::{answers::Answers, closed::Closed};

/// Everything that a seed keeps to answer such questions.
#[derive(Debug)]
pub(super) struct Resolver {
    answers: Answers,
    closed: Closed,
    /// How long what a tag names is good for.
    keep_tags: Duration,
}

impl Resolver {
    pub(super) fn new(keep_tags: Duration) -> Self {
        Self {
            answers: Answers::default(),
            closed: Closed::default(),
            keep_tags,
        }
    }

    /// How long the registry's answer to a wish serves others.
    fn keeps(&self, wish: &ManifestWish) -> Duration {
        match wish.digest() {
            Some(_) => JUST_NOW,
            None => self.keep_tags.min(JUST_NOW),
        }
    }
}

impl Access {
    /// What the registry gives for another host's wish to whoever shows its credential.
    pub(crate) async fn resolve(&self, wish: &ManifestWish) -> Resolution {
        if let Err(reason) = self.is_to_resolve(wish) {
            return Resolution::Failed(reason.to_owned());
        }
        let resolved = match self.resolve_for_all(wish).await {
            None if wish.source.authorization.is_none() => {
                return Resolution::Failed(
                    "it is not for everybody, as far as is known".to_owned(),
                );
            }
            None => self.resolve_for_one(wish).await,
            Some(resolved) => resolved,
        };
        match resolved {
            Ok(manifest) if wish.whole && manifest.bytes.is_none() => {
                Resolution::Failed("it is too long to be handed on".to_owned())
            }
            Ok(manifest) => Resolution::Given(GivenManifest {
                bytes: manifest.bytes.filter(|_| wish.whole),
                ..manifest
            }),
            Err(error) => refusal(error),
        }
    }

    /// Whether it is a wish that a seed answers, or why not.
    fn is_to_resolve(&self, wish: &ManifestWish) -> Result<(), &'static str> {
        if Sought::of_wish(wish).is_none() {
            return Err("only manifests of registries are resolved");
        }
        if wish.source.authorization.as_ref().is_some_and(is_password) {
            return Err("passwords are not for seeds");
        }
        match self.origin().shows_ours(&wish.source) {
            true => Err("the seed has a login, header or client certificate of its own there"),
            false => Ok(()),
        }
    }

    /// Asks in nobody's name, unless that was in vain lately. `None`: not everybody gets it.
    async fn resolve_for_all(
        &self,
        wish: &ManifestWish,
    ) -> Option<Result<GivenManifest, AccessError>> {
        let resolver = &self.0.resolver;
        let sought = Sought::of_wish(wish)?;
        if sought
            .names()
            .iter()
            .any(|name| resolver.closed.holds(name))
        {
            return None;
        }
        let public = ManifestWish {
            source: Source {
                url: wish.source.url.clone(),
                authorization: None,
            },
            ..wish.clone()
        };
        let ask = || self.ask_for_manifest(wish, Name::Nobodys);
        let keep = resolver.keeps(wish);
        match resolver.answers.answer(&public, keep, ask).await {
            Ok(manifest) => Some(Ok(manifest)),
            Err(error) => {
                // A registry that cannot be asked says nothing of who may have what.
                let is_busy = matches!(
                    &error,
                    AccessError::Origin(OriginError::TooManyRequests { .. })
                );
                if is_busy || !error.is_outage() {
                    resolver.closed.note(sought.closed_by(&error));
                }
                // Nobody's refusal is told to nobody else.
                wish.source.authorization.is_none().then_some(Err(error))
            }
        }
    }

    /// Asks with what the wish shows.
    async fn resolve_for_one(&self, wish: &ManifestWish) -> Result<GivenManifest, AccessError> {
        let resolver = &self.0.resolver;
        let ask = || self.ask_for_manifest(wish, Name::Theirs);
        let keep = resolver.keeps(wish);
        resolver.answers.answer(wish, keep, ask).await
    }
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
        let (server, repository) = prefix.split_once("/v2/")?;
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
