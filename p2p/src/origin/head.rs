//! What an origin says of a blob or file without its body.

use std::sync::Arc;

use hawker_swarm::{Secret, Source};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LAST_MODIFIED, RANGE,
    },
};
use url::Url;

use super::{
    Account, OriginClient, OriginError, Ours, Redirects, Refused, Wanted,
    budget::Errand,
    endpoint::{Endpoint, Standing},
    exchange::Answer,
    range::ContentRange,
    retry::Backoff,
    token::own_headers,
};

/// What an origin says of a blob or file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginHead {
    /// Bytes of the whole. `None`: the origin does not say.
    pub length: Option<u64>,
    /// As the origin writes it, `W/` and quotes included.
    pub etag: Option<String>,
    /// As the origin writes it.
    pub last_modified: Option<String>,
    pub content_type: Option<String>,
    /// Whether the origin sends readers elsewhere.
    pub redirected: bool,
}

impl OriginHead {
    /// Reads an answer of success, or of a range that lies outside.
    pub(super) fn of(answer: &Answer) -> Self {
        let headers = answer.headers();
        let length = match (encoding(headers), answer.status()) {
            (Some(_), _) => None,
            (None, StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE) => {
                ContentRange::of_headers(headers).and_then(|range| range.total)
            }
            (None, _) => content_length(headers),
        };
        Self {
            length,
            etag: text(headers, ETAG),
            last_modified: text(headers, LAST_MODIFIED),
            content_type: text(headers, CONTENT_TYPE),
            redirected: answer.redirected,
        }
    }

    /// What is known where only the length is.
    pub(super) fn of_length(length: Option<u64>) -> Self {
        Self {
            length,
            ..Self::default()
        }
    }

    /// The entity tag, if it vouches for every byte.
    pub(super) fn strong_etag(&self) -> Option<&str> {
        self.etag
            .as_deref()
            .filter(|etag| etag.starts_with('"') && etag.len() > 1)
    }

    /// What shows that `now` describes other bytes than `self`.
    pub(crate) fn difference(&self, now: &Self) -> Option<String> {
        let differ = |then: &Option<String>, now: &Option<String>, name: &str| match (then, now) {
            (Some(then), Some(now)) if then != now => {
                Some(format!("its {name} was {then} and is {now}"))
            }
            _ => None,
        };
        differ(&self.etag, &now.etag, "entity tag")
            .or_else(|| differ(&self.last_modified, &now.last_modified, "date"))
            .or_else(|| match (self.length, now.length) {
                (Some(then), Some(now)) if then != now => {
                    Some(format!("its length was {then} and is {now} bytes"))
                }
                _ => None,
            })
    }
}

/// The encoding that a body is in, if it is not the body itself. Object stores write `aws-chunked`
/// of bodies that are as they are.
pub(super) fn encoding(headers: &HeaderMap) -> Option<String> {
    let value = text(headers, CONTENT_ENCODING)?;
    let harmless = |coding: &str| {
        matches!(
            coding.trim().to_ascii_lowercase().as_str(),
            "" | "identity" | "aws-chunked"
        )
    };
    (!value.split(',').all(harmless)).then_some(value)
}

/// `Content-Length`, where it is a number.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Asks about `source`; once more if that failed for the moment.
pub(super) async fn head(
    client: &OriginClient,
    source: &Source,
) -> Result<OriginHead, OriginError> {
    let (head, _) = head_of(client, Wanted::parse(source)?).await?;
    Ok(head)
}

/// Asks about `source` with its own credential alone.
pub(super) async fn head_own(
    client: &OriginClient,
    source: &Source,
) -> Result<(OriginHead, Option<Secret>), OriginError> {
    let wanted = Wanted {
        refused: Refused::IsRefused,
        ..Wanted::parse(source)?
    };
    let (head, shown) = head_of(client, wanted).await?;
    Ok((head, secret(shown)))
}

/// Asks about `source` with its own credential alone, and with nothing of ours beside it.
pub(super) async fn head_for_others(
    client: &OriginClient,
    source: &Source,
) -> Result<OriginHead, OriginError> {
    let wanted = Wanted {
        refused: Refused::IsRefused,
        ours: Ours::Withheld,
        ..Wanted::parse(source)?
    };
    let (head, _) = head_of(client, wanted).await?;
    Ok(head)
}

/// Asks about `url` for an account.
pub(super) async fn head_as(
    client: &OriginClient,
    url: &Url,
    account: &Account,
) -> Result<(OriginHead, Option<Secret>), OriginError> {
    let source = Source {
        url: url.clone().into(),
        authorization: None,
    };
    let wanted = Wanted {
        account: Some(account.clone()),
        ..Wanted::parse(&source)?
    };
    let (head, shown) = head_of(client, wanted).await?;
    Ok((head, secret(shown)))
}

pub(super) fn secret(shown: Option<HeaderValue>) -> Option<Secret> {
    Some(Secret::new(shown?.to_str().ok()?))
}

/// What is said, and what was shown to whoever was asked first.
pub(super) type Said = (OriginHead, Option<HeaderValue>);

pub(super) async fn head_of(client: &OriginClient, wanted: Wanted) -> Result<Said, OriginError> {
    let mut backoff = Backoff::for_head(&client.0.config);
    loop {
        let error = match ask(client, &wanted).await {
            Ok(said) => return Ok(said),
            Err(error) => error,
        };
        match backoff.after(&error) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(error),
        }
    }
}

async fn ask(client: &OriginClient, wanted: &Wanted) -> Result<Said, OriginError> {
    let headers = headers(client);
    let answer = client
        .ask(
            Errand::Question,
            Method::HEAD,
            wanted,
            &headers,
            Redirects::Return,
        )
        .await?;
    match answer.location(&answer.url)? {
        Some(target) => {
            let elsewhere = elsewhere(wanted, &answer, target);
            let head = ask_elsewhere(client, &elsewhere).await?;
            Ok((head, answer.authorization))
        }
        None => conclude(client, wanted, answer).await,
    }
}

/// Asks where the origin sends readers. To be sent on is to be let in, but for what the other says:
/// a mere front door that sends everyone on decides nothing.
async fn ask_elsewhere(
    client: &OriginClient,
    elsewhere: &Wanted,
) -> Result<OriginHead, OriginError> {
    let headers = headers(client);
    let asked = match client
        .ask(
            Errand::Question,
            Method::HEAD,
            elsewhere,
            &headers,
            Redirects::Follow,
        )
        .await
    {
        // Signed URLs may be good for GET alone.
        Ok(answer) if answer.status() == StatusCode::FORBIDDEN => {
            ask_for_a_byte(client, elsewhere).await
        }
        Ok(answer) => conclude(client, elsewhere, answer).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok((head, _)) => Ok(OriginHead {
            redirected: true,
            ..head
        }),
        Err(
            error @ (OriginError::Denied { .. }
            | OriginError::NotFound { .. }
            | OriginError::PrivateAddress { .. }
            | OriginError::Redirect { .. }),
        ) => Err(error),
        Err(_) => Ok(OriginHead {
            redirected: true,
            ..OriginHead::default()
        }),
    }
}

/// What is wanted where an answer sends us. A credential goes along within the same server alone.
fn elsewhere(wanted: &Wanted, from: &Answer, target: Url) -> Wanted {
    let is_own = |endpoint: &Arc<Endpoint>| endpoint.standing == Standing::Own;
    let is_same = target.origin() == from.url.origin() && from.endpoint.as_ref().is_none_or(is_own);
    Wanted {
        url: target,
        on_behalf: match &from.endpoint {
            Some(_) => from.url.clone(),
            None => wanted.on_behalf.clone(),
        },
        authorization: wanted.authorization.clone().filter(|_| is_same),
        account: wanted.account.clone().filter(|_| is_same),
        refused: wanted.refused,
        ours: wanted.ours,
        by: wanted.by,
    }
}

async fn conclude(
    client: &OriginClient,
    wanted: &Wanted,
    answer: Answer,
) -> Result<Said, OriginError> {
    match answer.status() {
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
            ask_for_a_byte(client, wanted).await
        }
        status if status.is_success() => Ok((OriginHead::of(&answer), answer.authorization)),
        _ => Err(answer.error()),
    }
}

/// GET of the first byte, for servers that do not offer HEAD.
async fn ask_for_a_byte(client: &OriginClient, wanted: &Wanted) -> Result<Said, OriginError> {
    let mut headers = headers(client);
    headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
    let answer = client
        .ask(
            Errand::Question,
            Method::GET,
            wanted,
            &headers,
            Redirects::Follow,
        )
        .await?;
    match answer.status() {
        // Out of range: there is no first byte.
        status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => {
            Ok((OriginHead::of(&answer), answer.authorization))
        }
        _ => Err(answer.error()),
    }
}

/// The headers of a request for bytes as they are.
pub(super) fn headers(client: &OriginClient) -> HeaderMap {
    let mut headers = own_headers(client);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}
