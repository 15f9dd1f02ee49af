//! One question, asked of a registry's endpoints in turn until an answer stands.
//!
//! What an endpoint of the registry's own says stands, refusals included; only silence, a broken
//! connection and 5xx lead on. Of a mirror only success stands. An endpoint that failed is left
//! alone for a while ([`Endpoint::is_left_alone`]), then tried again.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method};
use url::Url;

use super::{
    OriginClient, OriginError, Ours, Redirects, Refused, Wanted,
    budget::{Errand, NoVisit},
    endpoint::{Endpoint, Standing},
    error::shown,
    exchange::Answer,
    registries::Way,
};

/// The ways that are left.
pub(super) struct Ways {
    left: std::vec::IntoIter<Way>,
    limit: Duration,
    /// Whether all of them failed of late: then none is given up early.
    all_failed: bool,
}

type Asked = Result<Answer, OriginError>;

impl Ways {
    pub(super) fn new(ways: Vec<Way>, limit: Duration) -> Self {
        let failed = |way: &Way| way.endpoint.as_ref().is_some_and(|e| e.is_left_alone());
        let all_failed = ways.iter().all(failed);
        Self {
            left: ways.into_iter(),
            limit,
            all_failed,
        }
    }

    pub(super) fn take(&mut self) -> Option<Way> {
        self.left.next()
    }

    fn is_last(&self) -> bool {
        self.left.as_slice().is_empty()
    }

    /// Waits for the answer of one way; not for long where another one is left.
    pub(super) async fn within(&self, way: &Way, asking: impl Future<Output = Asked>) -> Asked {
        if self.is_last() || self.all_failed {
            return asking.await;
        }
        let limit = self.limit;
        tokio::time::timeout(limit, asking)
            .await
            .unwrap_or_else(|_| {
                Err(OriginError::Timeout {
                    url: shown(&way.url),
                    awaited: "answer",
                    limit,
                })
            })
    }

    /// Notes how a way went. The answer, if it stands; else another way is to be gone.
    pub(super) fn settle(&self, way: &Way, asked: Asked) -> Option<Asked> {
        let failed = match &asked {
            Ok(answer) => answer.status().is_server_error(),
            Err(error) => error.is_outage(),
        };
        if let Some(endpoint) = &way.endpoint {
            match failed {
                true => endpoint.note_failure(),
                false => endpoint.note_answer(),
            }
        }
        let gives = |answer: &Answer| answer.status().as_u16() < 400;
        let is_mirror = way.standing() == Standing::Mirror;
        let leads_on = failed || (is_mirror && !asked.as_ref().is_ok_and(gives));
        if self.is_last() || !leads_on {
            return Some(asked.map(|answer| Answer {
                endpoint: way.endpoint.clone(),
                ..answer
            }));
        }
        if failed {
            let why = match asked {
                Ok(answer) => answer.error().to_string(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(endpoint = %shown(&way.url), %why, "the next endpoint is asked");
        }
        None
    }
}

impl OriginClient {
    /// Asks for `wanted` wherever it may be, until an answer stands, as soon as the registry may be
    /// asked.
    pub(super) async fn ask(
        &self,
        errand: Errand,
        method: Method,
        wanted: &Wanted,
        headers: &HeaderMap,
        redirects: Redirects,
    ) -> Result<Answer, OriginError> {
        let patience = match errand {
            Errand::Question => self.0.config.header_timeout / 4,
            Errand::Body(_) => self.0.config.longest_retry_after,
        };
        let asking = self.ask_at_once(method, wanted, headers, redirects);
        let errand = (errand, patience);
        self.in_budget(&wanted.on_behalf, errand, asking).await
    }

    /// Does what asks a registry, once it may be asked, and notes when it wants to be left in peace.
    pub(super) async fn in_budget(
        &self,
        registry: &Url,
        errand: (Errand, Duration),
        asking: impl Future<Output = Asked>,
    ) -> Asked {
        let answer = self.in_turn(registry, errand, asking).await?;
        if let Some(time) = answer.retry_after() {
            self.0.ledger(registry).close(time);
        }
        Ok(answer)
    }

    /// The same, but what the registry says of being left in peace is for who asked alone.
    pub(super) async fn in_turn(
        &self,
        registry: &Url,
        (errand, patience): (Errand, Duration),
        asking: impl Future<Output = Asked>,
    ) -> Asked {
        let ledger = self.0.ledger(registry);
        let refused = |reason| match reason {
            NoVisit::Peace(left) => OriginError::TooManyRequests {
                url: shown(registry),
                retry_after: Some(left),
            },
            NoVisit::Full(setting) => OriginError::OwnLimit {
                url: shown(registry),
                registry: self.0.registries.about(registry).registry,
                setting,
                limit: patience,
            },
        };
        let visit = ledger.visit(&errand, patience).await.map_err(refused)?;
        let answer = asking.await?;
        let visit = Some(visit);
        Ok(Answer { visit, ..answer })
    }

    pub(super) async fn ask_at_once(
        &self,
        method: Method,
        wanted: &Wanted,
        headers: &HeaderMap,
        redirects: Redirects,
    ) -> Asked {
        let mut ways = self.ways(wanted);
        loop {
            let Some(way) = ways.take() else {
                // There is always one way, and the last one settles.
                return Err(OriginError::InvalidUrl {
                    url: shown(&wanted.url),
                    reason: "no endpoint is left".to_owned(),
                });
            };
            let there = wanted.by(&way);
            let own_headers = match wanted.ours {
                Ours::Shown => way.headers(),
                Ours::Withheld if self.0.shows_client(&way.url) => {
                    let url = shown(&way.url);
                    return Err(OriginError::NotForOthers { url });
                }
                Ours::Withheld => HeaderMap::new(),
            };
            // Large, and waited for deep inside of what asks for rights and layers.
            let asking = self.ask_there(method.clone(), &there, headers, &own_headers, redirects);
            let asked = ways.within(&way, Box::pin(asking)).await;
            if let Some(stands) = ways.settle(&way, asked) {
                return stands;
            }
        }
    }

    fn ways(&self, wanted: &Wanted) -> Ways {
        if wanted.url != wanted.on_behalf {
            // Where a redirect leads, one is led nowhere else.
            let straight = Way::straight(&wanted.url);
            return Ways::new(vec![straight], self.0.config.endpoint_timeout);
        }
        let mut ways = self.0.registries.ways(&wanted.url);
        if wanted.refused == Refused::IsRefused || wanted.ours == Ours::Withheld {
            // What a mirror gives for our credential is nobody else's right.
            ways.retain(|way| {
                let shows_ours = |endpoint: &Arc<Endpoint>| {
                    !endpoint.headers.is_empty()
                        || self.0.accounts.contains_key(&endpoint.api().origin())
                        || self.0.shows_client(endpoint.api())
                };
                way.standing() == Standing::Own || !way.endpoint.as_ref().is_some_and(shows_ours)
            });
        }
        Ways::new(ways, self.0.config.endpoint_timeout)
    }
}

impl Wanted {
    /// The same where `way` leads. A mirror sees no credential of the registry.
    fn by(&self, way: &Way) -> Self {
        let is_straight = way.url == self.url;
        let is_own = way.standing() == Standing::Own;
        Self {
            url: way.url.clone(),
            on_behalf: match is_straight {
                true => self.on_behalf.clone(),
                false => way.url.clone(),
            },
            authorization: self.authorization.clone().filter(|_| is_own),
            account: self.account.clone().filter(|_| is_own),
            refused: self.refused,
            ours: self.ours,
            by: self.by,
        }
    }
}
