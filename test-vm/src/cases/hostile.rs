//! Liars with a certificate, against the real daemons.

use anyhow::Result;

use super::Case;
use crate::hostile::{self, Page, Villain};

pub(super) const CASES: &[Case] = &[Case::new("hostile_peers_never_win", 240, never_win)];

/// Nothing wrong is accepted, nobody honest is convicted, and the liar is isolated.
fn never_win() -> Result<()> {
    let seen = hostile::run(&Villain::all())?;
    println!("{}", hostile::document(&Page { seen: seen.clone() }));
    hostile::check(&seen)
}
