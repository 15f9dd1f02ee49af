//! What has to come of every cell, written down before anything was tried.
//!
//! * The registry alone says who may have what, to each credential by itself; whether a peer or the
//!   node has the bytes changes nothing. A registry tells nobody without a right whether a blob
//!   exists.
//! * Daemons have a name and a password: the token service refuses wrong, expired and revoked ones,
//!   and those of another registry. To nobody, and for another repository, it issues a token that
//!   the registry then refuses. Whoever asks the mirror itself shows a token to the registry.
//! * While the registry is down, a right that stood is believed for the grace. A right that was
//!   never established, or that a refusal has ended, is not. Bytes that nobody has cannot come.
//!   A token whose time runs out while the registry is down cannot be renewed, and stays what it
//!   was when it was believed, for the grace.
//! * containerd and Docker show their account only to whom challenges them, and need a fresh token
//!   for each pull, which nobody issues while the registry is down. That goes for what anybody may
//!   pull as well: the token for it is issued to nobody in particular, but it is issued. (A registry
//!   that wants no tokens is another matter: see the case
//!   `open_image_is_pulled_while_the_registry_is_down`.) Docker alone is not challenged for what
//!   anybody may pull where a seed has asked for it in nobody's name: it gets the manifest without a
//!   token, its right is nobody's, and stands for the grace as that of whoever shows nothing.

use super::{
    Asker, Cell,
    Outcome::{self, Bytes, NoToken, NotFound, Refused, Unavailable},
    Reach, Shown, State,
};

/// By the states of the blob: unknown, at the registry, in a peer, local.
type Row = (Shown, [Outcome; 4]);

const NOBODY: [Outcome; 4] = [Unavailable; 4];

const RAW_UP: [Row; 8] = [
    (Shown::NothingAtPublic, [NotFound, Bytes, Bytes, Bytes]),
    (Shown::Nothing, [Refused; 4]),
    (Shown::Wrong, [Refused; 4]),
    (Shown::Right, [NotFound, Bytes, Bytes, Bytes]),
    (Shown::Expired, [Refused; 4]),
    (Shown::Revoked, [Refused; 4]),
    (Shown::OtherRepository, [Refused; 4]),
    (Shown::OtherRegistry, [Refused; 4]),
];

const RAW_GRACE: [Row; 8] = [
    (
        Shown::NothingAtPublic,
        [Unavailable, Unavailable, Bytes, Bytes],
    ),
    (Shown::Nothing, NOBODY),
    (Shown::Wrong, NOBODY),
    (Shown::Right, [Unavailable, Unavailable, Bytes, Bytes]),
    (Shown::Expired, [Unavailable, Unavailable, Bytes, Bytes]),
    (Shown::Revoked, NOBODY),
    (Shown::OtherRepository, NOBODY),
    (Shown::OtherRegistry, NOBODY),
];

const DAEMON_UP: [Row; 8] = [
    (Shown::NothingAtPublic, [NotFound, Bytes, Bytes, Bytes]),
    (Shown::Nothing, [Refused; 4]),
    (Shown::Wrong, [NoToken; 4]),
    (Shown::Right, [NotFound, Bytes, Bytes, Bytes]),
    (Shown::Expired, [NoToken; 4]),
    (Shown::Revoked, [NoToken; 4]),
    (Shown::OtherRepository, [Refused; 4]),
    (Shown::OtherRegistry, [NoToken; 4]),
];

/// What has to come of a cell.
#[must_use]
pub fn expected(cell: Cell) -> Outcome {
    let rows = match (cell.asker, cell.reach) {
        (Asker::Raw, Reach::Up) => &RAW_UP,
        (Asker::Raw, Reach::Grace) => &RAW_GRACE,
        (Asker::Docker, Reach::Grace) if cell.shown == Shown::NothingAtPublic => &RAW_GRACE,
        (_, Reach::Up) => &DAEMON_UP,
        (_, Reach::Down | Reach::Grace | Reach::Over) => return Unavailable,
    };
    let place = State::ALL.iter().position(|state| *state == cell.state);
    let row = rows.iter().find(|(shown, _)| *shown == cell.shown);
    let outcome = row.zip(place).and_then(|((_, row), place)| row.get(place));
    outcome.copied().unwrap_or(Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_row_for_every_credential() {
        for rows in [RAW_UP, RAW_GRACE, DAEMON_UP] {
            assert_eq!(rows.map(|(shown, _)| shown), Shown::ALL);
        }
    }
}
