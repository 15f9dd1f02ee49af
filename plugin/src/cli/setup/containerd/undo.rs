//! `hawker setup containerd --undo`.

use hawker_config::NodeConfig;

use super::{
    CliError, ContainerdArgs, RESTART, absolute, restart_hint,
    standing::Standing,
    switch::Switch,
    wait::{STOP_TIME, until_up},
};
use crate::{
    cli::setup::undo,
    setup::{
        content::Pending,
        machine::Containerd,
        restart::Restart,
        transaction::Transaction,
        verify::{self, VerifyError, Wanted},
    },
};

/// Takes everything back, containerd's content included.
pub(super) async fn run(args: &ContainerdArgs, restart: Option<Restart>) -> Result<(), CliError> {
    let transaction = args.common.transaction("containerd")?;
    let foreign = args.common.foreign();
    let has_changes = transaction.can_undo(foreign).map_err(CliError::failed)?;
    // Its way back must not hang on hawkerd's settings being sound.
    let hawkerd = args.common.hawkerd().unwrap_or_default();
    let config = absolute(&args.config)?;
    let before = Standing::find(args, &config, &hawkerd).await;
    let pending = Pending::new(&args.common.state_dir);
    let switch = Switch::new(&config, &before, false, &hawkerd, pending);
    if args.without_content {
        switch.give_up()?;
    }
    let is_ours = before.is_ours && !args.without_content;
    if !has_changes && !is_ours && !switch.is_owing()? {
        println!("nothing to undo");
        return Ok(());
    }
    if is_ours {
        let required = switch.require(restart.as_ref()).await;
        required.map_err(explained)?;
        switch.before().await.map_err(explained)?;
    }
    if has_changes || is_ours {
        take_back(&transaction, args)?;
    }
    match (&restart, is_ours) {
        (Some(restart), true) => return put_into_use(restart, &before, &switch).await,
        (Some(restart), false) if has_changes => restart.run().map_err(CliError::failed)?,
        (None, _) if has_changes || is_ours => restart_hint(RESTART),
        _ => {}
    }
    match is_ours {
        true => switch.finish().await,
        false => settle(args, &hawkerd, &switch).await,
    }
}

/// Does what is left to do about content, once the settings are what they were.
async fn settle(
    args: &ContainerdArgs,
    hawkerd: &NodeConfig,
    switch: &Switch,
) -> Result<(), CliError> {
    if !switch.is_owing()? {
        return Ok(());
    }
    let now = Standing::find(args, &absolute(&args.config)?, hawkerd).await;
    let settled = match (now.is_ours, args.without_content) {
        (true, _) => Err("containerd has its content there until it is restarted".to_owned()),
        (false, true) => switch.repay().await.map_err(|error| error.to_string()),
        (false, false) => switch.settle().await.map_err(|error| error.to_string()),
    };
    let Err(why) = settled else { return Ok(()) };
    let left = format!("{why}: --undo once more releases what hawkerd keeps for containerd");
    match args.without_content {
        true => println!("note: {left}"),
        false => return Err(CliError::Failed(left)),
    }
    Ok(())
}

fn take_back(transaction: &Transaction<'_>, args: &ContainerdArgs) -> Result<(), CliError> {
    let restored = undo(transaction, args.common.foreign())?;
    if !restored.is_empty() {
        println!(
            "containers made with the snapshotter go on, and cannot be started again: where there \
             are some, drain the node (kubectl drain)"
        );
    }
    Ok(())
}

async fn put_into_use(
    restart: &Restart,
    before: &Standing,
    switch: &Switch,
) -> Result<(), CliError> {
    restart.run().map_err(CliError::failed)?;
    let found = async || {
        let containerd = Containerd::connect(&before.address).await?;
        let plugins = containerd.plugins().await?;
        verify::plugins(&plugins, before.plugins.as_deref(), Wanted::stock())?;
        Ok::<_, VerifyError>(containerd)
    };
    let containerd = until_up(STOP_TIME, found).await.map_err(CliError::failed)?;
    switch.after(&containerd).await?;
    switch.finish().await
}

/// What to do where hawkerd gives nothing back.
fn explained(error: CliError) -> CliError {
    CliError::Failed(format!(
        "{error}. No settings were changed; with hawkerd running, try again. Where that cannot be: \
         --without-content takes them back, and images that lack content have to be pulled again"
    ))
}
