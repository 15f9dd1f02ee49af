//! What an origin says of a registry's blob to whoever shows a name and password unasked.
//!
//! What it takes is handed to seeds, and many registries take both a password and the token that it
//! buys. So they are asked without it first, and say what they want: a token is bought wherever
//! there are any, and nothing is shown where nothing is wanted. The password itself is shown where
//! the registry wants nothing else, or gives what is asked for nothing else.
//!
//! What a registry wants is found out once per repository and account: whoever comes meanwhile waits
//! for that, and later it costs no request. One that has wanted a password for one repository, and
//! offered no tokens, is shown it at once for all ([`super::auth`]).

use std::time::Duration;

use hawker_swarm::{Secret, Source};

use super::{
    Account, OriginClient, OriginError, OriginHead, Refused, Wanted,
    auth::Known,
    head::{Said, head_of, secret},
};

/// How long a registry whose token server cannot be asked is shown passwords at once.
const OUTAGE_KEPT: Duration = Duration::from_secs(60);

/// Asks about `source` with its own credential alone, by what that buys where it is a name and
/// password.
pub(super) async fn head(
    client: &OriginClient,
    source: &Source,
) -> Result<(OriginHead, Option<Secret>), OriginError> {
    let wanted = Wanted {
        refused: Refused::IsRefused,
        ..Wanted::parse(source)?
    };
    let authorizer = &client.0.authorizer;
    let asks_without = |account: &Account| !authorizer.wants_password(&wanted.url, account);
    let (head, shown) = match wanted.account.clone().filter(asks_without) {
        Some(account) => Box::pin(ask(client, wanted, &account)).await?,
        None => head_of(client, wanted).await?,
    };
    Ok((head, secret(shown)))
}

/// Asks without the password first.
async fn ask(
    client: &OriginClient,
    wanted: Wanted,
    account: &Account,
) -> Result<Said, OriginError> {
    let authorizer = &client.0.authorizer;
    let url = wanted.url.clone();
    let _turn = authorizer.turn(&url, account).await;
    let unasked = Wanted {
        authorization: None,
        ..wanted.clone()
    };
    let said = head_of(client, unasked).await;
    match &said {
        Ok((_, None)) => authorizer.note_nothing(&url, account),
        Err(error) if may_give_more(error, authorizer.known(&url, account)) => {
            return show(client, wanted, account, error).await;
        }
        _ => {}
    }
    said
}

/// Whether the registry may say something else to the password itself.
fn may_give_more(error: &OriginError, known: Known) -> bool {
    match (error, known) {
        // It has been shown.
        (_, Known::Password) => false,
        // Some registries hide from strangers what they have.
        (OriginError::NotFound { .. }, known) => known == Known::Nothing,
        (
            OriginError::Denied { .. }
            | OriginError::Token { .. }
            | OriginError::TokenServer { .. },
            _,
        ) => true,
        _ => false,
    }
}

/// Shows the password itself, as the client did, after all else ended in `error`.
async fn show(
    client: &OriginClient,
    wanted: Wanted,
    account: &Account,
    error: &OriginError,
) -> Result<Said, OriginError> {
    let url = wanted.url.clone();
    let alone = Wanted {
        account: None,
        ..wanted
    };
    let said = head_of(client, alone).await;
    match &said {
        Ok(_) => {
            let lasts = match error.is_outage() {
                true => OUTAGE_KEPT,
                false => Duration::MAX,
            };
            client.0.authorizer.note_password(&url, account, lasts);
        }
        // Merely that it wants a token, which cannot be had now.
        Err(OriginError::Denied { status: 401, .. }) if error.is_outage() => {
            return Err(error.clone());
        }
        Err(_) => {}
    }
    said
}
