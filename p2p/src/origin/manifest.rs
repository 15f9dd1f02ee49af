//! Manifests for other hosts: what they show is shown, and nothing of ours beside it.

use hawker_swarm::ManifestWish;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header::ACCEPT};

use super::{
    OriginClient, OriginError, Ours, PassBody, Redirects, Refused, Wanted,
    budget::Errand,
    error::shown,
    exchange::Answer,
    head::{encoding, headers},
    pass::response,
    retry::Backoff,
};

/// In whose name a registry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// That of the wish.
    Theirs,
    /// Nobody's, although the wish shows something: to find out whether everybody may have it. What
    /// a registry says to that concerns nobody else: where it has had enough of nobodies (429), it is
    /// not left in peace by those who show something.
    Nobodys,
}

/// Asks for a manifest, with HEAD where its bytes are not wanted; once more if that failed for the
/// moment.
pub(super) async fn manifest(
    client: &OriginClient,
    wish: &ManifestWish,
    name: Name,
) -> Result<Response<PassBody>, OriginError> {
    let mut wanted = Wanted {
        refused: Refused::IsRefused,
        ours: Ours::Withheld,
        ..Wanted::parse(&wish.source)?
    };
    if name == Name::Nobodys {
        (wanted.authorization, wanted.account) = (None, None);
    }
    let headers = accepting(client, wish)?;
    let method = match wish.whole {
        true => Method::GET,
        false => Method::HEAD,
    };
    let mut backoff = Backoff::for_head(&client.0.config);
    loop {
        let error = match ask(client, method.clone(), &wanted, &headers, name).await {
            Ok(answer) => return Ok(response(answer, client.0.config.read_timeout)),
            Err(error) => error,
        };
        let wait = backoff.after(&error).filter(|_| name == Name::Theirs);
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(error),
        }
    }
}

async fn ask(
    client: &OriginClient,
    method: Method,
    wanted: &Wanted,
    headers: &HeaderMap,
    name: Name,
) -> Result<Answer, OriginError> {
    let asking = client.ask_at_once(method, wanted, headers, Redirects::Follow);
    let errand = (Errand::Question, client.0.config.header_timeout / 4);
    let answer = match name {
        Name::Theirs => client.in_budget(&wanted.on_behalf, errand, asking).await?,
        Name::Nobodys => client.in_turn(&wanted.on_behalf, errand, asking).await?,
    };
    if answer.status() != StatusCode::OK {
        return Err(answer.error());
    }
    match encoding(answer.headers()) {
        Some(encoding) => Err(OriginError::Encoded {
            url: shown(&answer.url),
            encoding,
        }),
        None => Ok(answer),
    }
}

fn accepting(client: &OriginClient, wish: &ManifestWish) -> Result<HeaderMap, OriginError> {
    let mut headers = headers(client);
    if !wish.accept.is_empty() {
        let value = HeaderValue::from_str(&wish.accept);
        let value = value.map_err(|_| OriginError::InvalidUrl {
            url: super::error::shown_text(&wish.source.url),
            reason: "what is accepted there is no header value".to_owned(),
        })?;
        headers.insert(ACCEPT, value);
    }
    Ok(headers)
}
