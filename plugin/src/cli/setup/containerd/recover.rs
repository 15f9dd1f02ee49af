//! What becomes of a run that was killed: its files stay where containerd keeps its content by them
//! already, and are taken back otherwise.
//!
//! With the wrong ones on disk, containerd's next start would be one without its images.

use super::{CliError, ContainerdArgs, absolute, standing::Standing};
use crate::{
    cli::setup,
    setup::{
        content,
        settings::Settings,
        transaction::{Cut, Transaction},
        version::ContainerdVersion,
    },
};

/// Ends a run that was killed, if there was one.
pub(super) async fn recover(
    args: &ContainerdArgs,
    transaction: &Transaction<'_>,
) -> Result<(), CliError> {
    let cut = transaction.cut_short().map_err(CliError::failed)?;
    let before = cut.iter().any(|file| is_ours(file, file.before.as_deref()));
    let now = cut.iter().any(|file| is_ours(file, file.now.as_deref()));
    if before == now || runs_with(args).await? != Some(now) {
        return setup::recover(transaction);
    }
    transaction.finish().map_err(CliError::failed)?;
    println!("an earlier setup was cut short: containerd runs with its changes, so they stay");
    Ok(())
}

/// Whether the running containerd keeps its content in hawkerd.
async fn runs_with(args: &ContainerdArgs) -> Result<Option<bool>, CliError> {
    // Its address must not hang on hawkerd's settings being sound.
    let hawkerd = args.common.hawkerd().unwrap_or_default();
    let standing = Standing::find(args, &absolute(&args.config)?, &hawkerd).await;
    Ok(standing.plugins.is_some().then_some(standing.is_ours))
}

/// Whether a file's text says that containerd keeps its content in hawkerd; those of certs.d do not.
fn is_ours(file: &Cut, text: Option<&str>) -> bool {
    let text = text.unwrap_or_default();
    let settings = Settings::parse(&file.path, text, ContainerdVersion::new(2, 0, 0)).ok();
    content::is_ours(None, settings.as_ref())
}
