//! Who may have which bytes: the one place where that is found out.
//!
//! Knowing a digest is no right to its bytes. Whoever wants a blob, a client of the mirror or the
//! snapshotter for an image, makes a [`Claim`]: where, what, and the credential shown (or none). Two
//! things stand before a byte is handed out:
//!
//! * the **right** ([`Access::establish`]): the origin is asked with that very credential, by one
//!   cheap request, and its answer is remembered for a while ([`rights`]). Hosts ask the blob's seed,
//!   which asks once for all who show the same ([`seed_first`]); a seed answers by [`judge`], and of
//!   manifests by [`resolve`];
//! * **possession** ([`Access::read`]): the origin is known to hold the very bytes that are here, or
//!   has shown it ([`possession`]).
//!
//! A refusal is about one credential at one place and ends all that was granted to it there. No
//! credential is used for anybody but whoever showed it, and none is written anywhere.

mod claim;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod judge;
mod jwt;
mod metrics;
mod offers;
mod possession;
mod reading;
mod resolve;
mod right_key;
mod rights;
mod sample;
mod seed_first;
mod wishing;

use std::{
    future::Future,
    ops::Range,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, Either, select};
use hawker_model::{Digest, RegistryHost, Repository, TaskId};
use hawker_p2p::{Account, Blob, Node, OriginClient, OriginError, Race};
use hawker_swarm::{Secret, Source};
use http::HeaderName;
use url::Url;

use crate::noted::Noted;

use self::{
    claim::Asker,
    offers::Offers,
    possession::{Proofs, Question},
    resolve::Resolver,
    right_key::{Item, RightKey},
    rights::{Basis, Granted, Rights},
    seed_first::judged,
};
pub(crate) use self::{
    claim::{Claim, Place},
    error::{AccessError, PossessionError, ReadError},
    metrics::AccessMetrics,
    reading::Recourse,
    right_key::Holder,
    rights::{RepositoryRights, Right, RightsSettings},
    seed_first::{Granting, Grantor, Heard, ask as ask_seed_first},
};

/// Where registries tell a manifest's digest.
pub(crate) const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");
/// How long a registry that could not be reached is taken to be down: while there is grace, not every
/// request has to find that out for itself.
const OUTAGE: Duration = Duration::from_secs(5);
/// Longest revision of a file that is remembered as it is, in bytes.
const MAX_REVISION_LEN: usize = 256;

/// Asks for rights, and remembers them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: Node,
    origin: OriginClient,
    patience: Duration,
    rights: Rights,
    proofs: Proofs,
    /// Who could not reach a registry. By asker and repository, not by registry: one repository of a
    /// registry may fail while all others answer, and whoever makes one fail must not lengthen any
    /// right by it, least of all one that has been withdrawn.
    outages: Noted<Holder>,
    offers: Offers,
    resolver: Resolver,
    metrics: AccessMetrics,
}

impl Access {
    /// Asks the origins and seeds of `node`, and gives up when an origin has not answered for
    /// `patience`.
    pub(crate) fn new(
        node: Node,
        patience: Duration,
        rights: RightsSettings,
        metrics: AccessMetrics,
    ) -> Self {
        Self(Arc::new(Inner {
            origin: node.origin().clone(),
            node,
            patience,
            resolver: Resolver::new(&rights),
            rights: Rights::new(rights),
            proofs: Proofs::default(),
            outages: Noted::default(),
            offers: Offers::default(),
            metrics,
        }))
    }

    /// The client for origins.
    pub(crate) fn origin(&self) -> &OriginClient {
        &self.0.origin
    }

    /// The claimant's right, remembered or asked for.
    pub(crate) async fn establish(&self, claim: &Claim) -> Result<Right, AccessError> {
        if let Some(right) = self.0.rights.find(&claim.key) {
            self.0.metrics.used(Basis::Remembered);
            return Ok(right);
        }
        self.establish_asking(claim).await
    }

    /// As [`Access::establish`], but asked for each time: what is at a URL may have changed. What is
    /// remembered holds only while the origin cannot be reached.
    pub(crate) async fn establish_anew(&self, claim: &Claim) -> Result<Right, AccessError> {
        self.0.rights.age(&claim.key);
        self.establish_asking(claim).await
    }

    /// In memory of its own: a question is large, and is waited for inside of all that needs a right.
    fn establish_asking<'a>(
        &'a self,
        claim: &'a Claim,
    ) -> BoxFuture<'a, Result<Right, AccessError>> {
        Box::pin(async move {
            let (right, _) = self.establish_by(claim, || self.ask(claim)).await?;
            Ok(right)
        })
    }

    async fn establish_by<F>(
        &self,
        claim: &Claim,
        ask: impl FnOnce() -> F,
    ) -> Result<(Right, Basis), AccessError>
    where
        F: Future<Output = Result<Granted, AccessError>>,
    {
        let inner = &*self.0;
        let holder = &claim.key.holder;
        if inner.outages.holds(holder)
            && let Some(right) = inner.rights.held(&claim.key)
        {
            inner.metrics.used(Basis::Grace);
            return Ok((right, Basis::Grace));
        }
        let established = inner.rights.establish(&claim.key, &claim.place, ask).await;
        let is_outage = match &established {
            Ok((_, basis)) => *basis == Basis::Grace,
            Err(error) => error.is_outage(),
        };
        if is_outage {
            inner.outages.note(*holder, OUTAGE);
        }
        let (right, basis) = established?;
        inner.metrics.used(basis);
        Ok((right, basis))
    }

    /// Asks for a right: the seed first, where that may be.
    async fn ask(&self, claim: &Claim) -> Result<Granted, AccessError> {
        let inner = &*self.0;
        let holder = &claim.key.holder;
        if !self.hears_seeds(holder) || !claim.is_for_judges() || self.account_of(claim)?.is_some()
        {
            return self.ask_origin(claim).await;
        }
        let race = Race::default();
        let seed = async {
            let verdict = inner.node.ask_seed(claim.task, &claim.source, &race);
            self.believed(holder, judged(verdict.await))
        };
        let (grantor, answer) = ask_seed_first(seed, &race, || self.ask_origin(claim)).await;
        if grantor == Grantor::Seed {
            inner.metrics.asked(grantor, &answer);
        }
        answer.map(|granted| Granted {
            shown: claim.source.authorization.clone(),
            ..granted
        })
    }

    /// Whether a seed's yes counts for somebody: it may be from before a refusal that was met here a
    /// moment ago, and is too old in any case where nothing is to be remembered.
    fn hears_seeds(&self, holder: &Holder) -> bool {
        let rights = &self.0.rights;
        rights.remembers() && !rights.was_ended(holder, judge::JUST_NOW)
    }

    /// What a seed said, where it still counts: the refusal may have come meanwhile.
    fn believed<T>(&self, holder: &Holder, heard: Heard<T>) -> Heard<T> {
        match heard {
            Heard::Granted(_) if !self.hears_seeds(holder) => Heard::Nothing,
            heard => heard,
        }
    }

    /// Asks the origin itself, with what is shown or, where nothing is, as whoever is configured.
    async fn ask_origin(&self, claim: &Claim) -> Result<Granted, AccessError> {
        let inner = &*self.0;
        let account = self.account_of(claim)?;
        let asking = async {
            match &account {
                Some(account) => {
                    let url = parsed(claim)?;
                    inner.origin.head_as(&url, account).await
                }
                None if claim.asker == Asker::Elsewhere => {
                    let head = inner.origin.head_for_others(&claim.source).await?;
                    Ok((head, None))
                }
                None if claim.is_blob_of_registry() => {
                    inner.origin.head_blob_own(&claim.source).await
                }
                None => inner.origin.head_own(&claim.source).await,
            }
        };
        let asked = tokio::time::timeout(inner.patience, asking).await;
        let answer = match asked {
            Ok(answer) => answer.map_err(AccessError::from),
            Err(_) => Err(AccessError::Slow),
        };
        inner.metrics.asked(Grantor::Origin, &answer);
        let (head, shown) = answer?;
        let own = &claim.source.authorization;
        // What an anonymous asker was given is not worth to be handed around, and no password is where
        // nothing had to be shown.
        let is_other = shown != *own && (shown.is_some() || claim.shows_password());
        let is_bought = account.is_some() || own.is_some() && is_other;
        let bought = is_bought.then(|| shown.clone());
        // A blob's digest says which one it is.
        let is_file = claim.key.item == Item::File;
        let revision = head.etag.or(head.last_modified).filter(|_| is_file);
        Ok(Granted {
            right: Right {
                length: head.length,
                revision: revision.map(short),
                bought,
                is_proven: false,
            },
            shown: shown.filter(|_| is_bought).or_else(|| own.clone()),
        })
    }

    fn account_of(&self, claim: &Claim) -> Result<Option<Account>, AccessError> {
        match (&claim.account, &claim.source.authorization) {
            (Some(account), _) => Ok(Some(account.clone())),
            (None, Some(_)) => Ok(None),
            (None, None) => Ok(self.0.origin.account_of(&parsed(claim)?)),
        }
    }

    /// Where the network finds what was granted, and what it shows there.
    pub(crate) fn source(&self, claim: &Claim, right: &Right) -> Source {
        let own = || claim.source.authorization.clone();
        let source = Source {
            url: claim.source.url.clone(),
            authorization: right.bought.clone().unwrap_or_else(own),
        };
        self.0.offers.note(claim, &source);
        source
    }

    /// For whom a source was handed to the network.
    pub(crate) fn offered(&self, task: TaskId, source: &Source) -> Option<Claim> {
        self.0.offers.find(task, source)
    }

    /// The same before the right stands, where it will hardly be refused: the origin accepted the
    /// claimant lately for something else of the repository.
    pub(crate) fn likely_source(&self, claim: &Claim) -> Option<Source> {
        let is_likely = claim.is_for_judges()
            && self.0.rights.is_accepted(&claim.key.holder)
            && matches!(self.account_of(claim), Ok(None));
        is_likely.then(|| {
            self.0.offers.note(claim, &claim.source);
            claim.source.clone()
        })
    }

    /// Has the claim's origin show that it holds `blob`.
    async fn prove(
        &self,
        claim: &Claim,
        right: &Right,
        blob: &Blob,
        recourse: Recourse,
    ) -> Result<(), PossessionError> {
        let inner = &*self.0;
        let source = self.source(claim, right);
        let is_proven = || {
            let right = inner.rights.held(&claim.key);
            right.is_some_and(|right| right.is_proven)
        };
        let question = Question {
            origin: &inner.origin,
            claim,
            source: &source,
            blob,
            patience: inner.patience,
            recourse,
        };
        // Rare, and large: a part of everything that reads.
        let proven = Box::pin(inner.proofs.prove(&question, is_proven)).await;
        inner.metrics.compared(&proven);
        match &proven {
            Ok(()) => inner.rights.prove(&claim.key),
            Err(PossessionError::Refused(_)) => inner.rights.end(&claim.key.holder),
            Err(_) => {}
        }
        proven
    }

    /// Whether a proof of the claim's is being made.
    pub(crate) fn is_proving(&self, claim: &Claim) -> bool {
        self.0.proofs.is_running(&claim.key)
    }

    /// Whether it has just been tried in vain to prove that the claim's origin holds what is here
    /// of `range`: reading it would end in an error.
    pub(crate) fn is_unproven(
        &self,
        claim: &Claim,
        right: &Right,
        blob: &Blob,
        range: Range<u64>,
    ) -> bool {
        let is_open = !right.is_proven && self.0.proofs.is_open(&claim.key);
        is_open && !possession::is_known(claim, blob, range)
    }

    /// The origin refused after all what it had granted: whatever it granted to this credential at
    /// this place counts no more.
    pub(crate) fn end(&self, claim: &Claim) {
        self.0.rights.end(&claim.key.holder);
    }

    /// Remembers that the origin accepted a credential for a repository. It gives no right to any
    /// blob, but it makes one likely.
    pub(crate) fn note_accepted(&self, visitor: &Visitor) {
        self.0.rights.note_accepted(&visitor.holder, &visitor.place);
    }

    /// The origin refused a credential at a repository: none of its rights there counts any more.
    pub(crate) fn note_refused(&self, visitor: &Visitor) {
        self.0.rights.end(&visitor.holder);
    }

    /// Remembers that the origin gave somebody a manifest that was asked for then, unless it has
    /// refused him since.
    pub(crate) fn note_manifest(&self, visitor: &Visitor, manifest: Digest, asked: Instant) {
        let key = RightKey::of_manifest(visitor.holder, manifest);
        let granted = Granted {
            right: Right::default(),
            shown: visitor.credential.clone(),
        };
        self.0.rights.grant(&key, &visitor.place, granted, asked);
    }

    /// Whether the origin gave somebody a manifest lately.
    pub(crate) fn may_see(&self, visitor: &Visitor, manifest: Digest) -> bool {
        let key = RightKey::of_manifest(visitor.holder, manifest);
        let is_fresh = self.0.rights.find(&key).is_some();
        if is_fresh {
            self.0.metrics.used(Basis::Remembered);
        }
        is_fresh
    }

    /// The same for while the registry cannot be reached.
    pub(crate) fn may_still_see(&self, visitor: &Visitor, manifest: Digest) -> bool {
        let key = RightKey::of_manifest(visitor.holder, manifest);
        let is_held = self.0.rights.held(&key).is_some();
        if is_held {
            self.0.metrics.used(Basis::Grace);
        }
        is_held
    }

    /// Forgets the rights to a repository, to all of a registry, or all, and tells how many those
    /// were. A registry goes by all names that lead to the same address. What registries gave for
    /// other hosts' wishes is forgotten whole: it is a moment's.
    pub(crate) fn forget(&self, registry: Option<&str>, repository: Option<&str>) -> usize {
        let address = |name: &str| {
            let name = RegistryHost::parse(name).ok()?;
            self.0.origin.base_url(&name).ok()
        };
        self.0.resolver.forget();
        let wanted = registry.map(|name| (name, address(name)));
        self.0.rights.forget(&|place| {
            let is_there = wanted.as_ref().is_none_or(|(name, wanted)| {
                place.registry() == *name
                    || wanted.is_some() && address(place.registry()) == *wanted
            });
            is_there && repository.is_none_or(|repository| place.repository() == repository)
        })
    }

    /// How many rights are remembered.
    pub(crate) fn len(&self) -> usize {
        self.0.rights.len()
    }

    /// What is remembered, by repository.
    pub(crate) fn report(&self) -> Vec<RepositoryRights> {
        self.0.rights.report()
    }

    /// Somebody at a repository.
    pub(crate) fn visitor(
        &self,
        registry: &RegistryHost,
        repository: &Repository,
        credential: Option<&Secret>,
    ) -> Result<Visitor, AccessError> {
        let holder = claim::holder(&self.0.origin, registry, repository, credential)?;
        Ok(Visitor {
            holder,
            place: Place::named(registry.as_str(), repository.as_str()),
            credential: credential.cloned(),
        })
    }
}

/// Somebody at a repository, for whatever is there.
#[derive(Clone, Debug)]
pub(crate) struct Visitor {
    holder: Holder,
    place: Place,
    credential: Option<Secret>,
}

impl Visitor {
    /// Whoever it is, and where, in a form that tells neither.
    pub(crate) fn holder(&self) -> Holder {
        self.holder
    }
}

/// A file's revision, of a length that can be remembered many times: its hash, where it is long.
fn short(revision: String) -> Arc<str> {
    match revision.len() {
        ..=MAX_REVISION_LEN => revision.into(),
        _ => Digest::of(revision.as_bytes()).to_string().into(),
    }
}

fn parsed(claim: &Claim) -> Result<Url, OriginError> {
    Url::parse(&claim.source.url).map_err(|error| OriginError::InvalidUrl {
        url: claim.place.to_string(),
        reason: error.to_string(),
    })
}

/// The right and what it is for, both at once; a refusal ends the other. For claims that will hardly
/// be refused: nothing is handed out before the right stands.
pub(crate) async fn both<R, E, O>(
    right: impl Future<Output = Result<R, E>>,
    opening: impl Future<Output = O>,
) -> Result<(R, O), E> {
    match select(pin!(right), pin!(opening)).await {
        Either::Left((right, opening)) => Ok((right?, opening.await)),
        Either::Right((opened, right)) => Ok((right.await?, opened)),
    }
}
