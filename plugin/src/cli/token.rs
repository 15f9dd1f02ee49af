//! `hawker token`: what lets new hosts get their certificate from a scheduler.

use std::time::Duration;

use clap::{Args, Subcommand};
use hawker_config::Interval;
use hawker_enrol::TokenId;
use hawker_model::{HostId, Role};
use http::Method;
use serde_json::{Value, json};

use super::{CliError, scheduler::SchedulerArgs, table::table};

/// Makes and lists tokens, on a scheduler that issues certificates.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token, and show it this one time
    ///
    /// Whoever has it can become a host of the cluster: hand it on as you would a password.
    Create(CreateArgs),
    /// Show the tokens that can be used still
    List(ListArgs),
    /// Make a token worthless; hosts that joined with it stay
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// What hosts may become with it: node, seed or scheduler
    #[arg(long, default_value = "node")]
    role: Role,
    /// The only name that it is good for; needed to replace a host that has a certificate
    #[arg(long, value_name = "NAME")]
    host: Option<HostId>,
    /// How often it may be used
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    /// For how long it may be used, such as "1h" or "7d"
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: Interval,
    /// Print the token alone
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    scheduler: SchedulerArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    scheduler: SchedulerArgs,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The token's id, as the list shows it; or the whole token
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    scheduler: SchedulerArgs,
}

pub(super) async fn run(args: TokenArgs) -> Result<(), CliError> {
    match args.command {
        TokenCommand::Create(args) => create(&args).await,
        TokenCommand::List(args) => list(&args).await,
        TokenCommand::Revoke(args) => revoke(&args).await,
    }
}

async fn create(args: &CreateArgs) -> Result<(), CliError> {
    let lifetime: Duration = args.ttl.duration();
    let order = json!({
        "role": args.role,
        "host": args.host,
        "uses": args.uses,
        "seconds": lifetime.as_secs(),
    });
    let made = args.scheduler.ask(Method::POST, "/v1/tokens", Some(order));
    let made = made.await?;
    let token = made["token"].as_str().unwrap_or_default();
    if args.quiet {
        println!("{token}");
        return Ok(());
    }
    println!("{token}\n");
    println!(
        "It is not shown again. On the new {} (within {}):",
        args.role, args.ttl
    );
    println!("  hawker join --scheduler THIS-HOST --token-file -    (and paste it)");
    Ok(())
}

async fn list(args: &ListArgs) -> Result<(), CliError> {
    let tokens = args.scheduler.ask(Method::GET, "/v1/tokens", None).await?;
    let row = |token: &Value| {
        ["id", "role", "host", "uses", "expires"]
            .map(|key| match &token[key] {
                Value::String(text) => text.clone(),
                Value::Null => "any".to_owned(),
                other => other.to_string(),
            })
            .to_vec()
    };
    let rows: Vec<_> = tokens.as_array().into_iter().flatten().map(row).collect();
    match rows.is_empty() {
        true => println!("no token can be used"),
        false => print!(
            "{}",
            table(&["ID", "ROLE", "HOST", "USES", "EXPIRES"], &rows)
        ),
    }
    Ok(())
}

async fn revoke(args: &RevokeArgs) -> Result<(), CliError> {
    // Of a whole token only the id leaves this process.
    let id = args.id.split('.').nth(1).unwrap_or(&args.id);
    let id: TokenId = id.parse().map_err(CliError::failed)?;
    let path = format!("/v1/tokens/{id}");
    args.scheduler.ask(Method::DELETE, &path, None).await?;
    println!("token {id} is worthless");
    Ok(())
}
