//! `hawker status`: what this host's hawkerd is doing.

use std::{io::IsTerminal as _, time::Duration};

use clap::Args;
use hawker_config::{LimitSettings, RateLimit};
use hawker_p2p::{BytesBySource, Flow, RoomStatus, TaskPhase, TaskProgress, Traffic};
use http_body_util::BodyExt;
use indicatif::HumanBytes;

use super::{
    CliError, SocketArgs,
    client::{Client, ClientError},
    table::table,
};
use crate::{
    content::ContentTotal,
    control::{ContentReport, LayerReport, LayerState, StatusReport},
};

/// Between two looks with `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print JSON, as hawkerd gives it
    #[arg(long)]
    json: bool,
    /// Look again every second, until interrupted
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

pub(super) async fn run(args: StatusArgs) -> Result<(), CliError> {
    loop {
        let text = look(&args).await?;
        if args.watch && std::io::stdout().is_terminal() {
            // Home, and clear what is below.
            print!("\x1b[H\x1b[J");
        }
        print!("{text}");
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

async fn look(args: &StatusArgs) -> Result<String, CliError> {
    let unreachable = |error: ClientError| CliError::Unreachable(error.to_string());
    let client = Client::connect(&args.socket.socket)
        .await
        .map_err(unreachable)?;
    let response = client.ask("/v1/status").await.map_err(CliError::failed)?;
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(CliError::failed)?;
    let body = body.to_bytes();
    if args.json {
        return Ok(String::from_utf8_lossy(&body).into_owned() + "\n");
    }
    let report = serde_json::from_slice(&body).map_err(|error| {
        CliError::Failed(format!(
            "the answer of hawkerd is not understood ({error}): is it of another version?"
        ))
    })?;
    Ok(show(&report))
}

fn show(report: &StatusReport) -> String {
    let node = &report.node;
    let mut text = format!(
        "{} ({}), hawkerd {}\n",
        node.host,
        node.role.as_str(),
        report.version
    );
    let list = |values: Vec<String>, none: &str| match values.is_empty() {
        true => none.to_owned(),
        false => values.join(", "),
    };
    let mirror = report.mirror.iter().map(ToString::to_string).collect();
    let advertised = node.advertised.iter().map(ToString::to_string).collect();
    text += &format!("mirror      {}\n", list(mirror, "none"));
    if let Some(socket) = &report.snapshotter {
        text += &format!("snapshotter {}\n", socket.display());
    }
    text += &format!("advertised  {}\n", list(advertised, "nothing"));
    for scheduler in &node.schedulers {
        let state = match (&scheduler.error, scheduler.connected) {
            (_, true) => "connected".to_owned(),
            (Some(error), false) => format!("not connected: {error}"),
            (None, false) => "not connected".to_owned(),
        };
        text += &format!("scheduler   {} {state}\n", scheduler.address);
    }
    text += &format!(
        "store       {} blobs, {} complete, {}\n",
        node.store.blobs,
        node.store.complete,
        HumanBytes(node.store.bytes)
    );
    if node.store.shared > 0 {
        text += &format!(
            "shared      {} blobs with containerd, {}\n",
            node.store.shared,
            HumanBytes(node.store.shared_bytes)
        );
    }
    text += &disk(&node.store.room);
    text += &format!("rights      {} remembered\n", report.rights);
    text += &format!("received    {}\n", received(&node.bytes));
    text += &format!("sent        {}\n", HumanBytes(node.bytes.sent));
    text += &traffic(&node.traffic, &report.limits);
    for warning in &node.warnings {
        text += &format!("WARNING     {warning}\n");
    }
    if let Some(content) = &report.content {
        text += &format!("content     {}\n", containerd_content(content));
    }
    text += &tasks(&node.tasks);
    text += &layers(&report.layers);
    if !node.peers.is_empty() {
        let rows: Vec<_> = node
            .peers
            .iter()
            .map(|peer| {
                let role = peer.role.as_str().to_owned();
                vec![peer.host.to_string(), role, peer.address.to_string()]
            })
            .collect();
        text += &format!("\n{}", table(&["PEER", "ROLE", "ADDRESS"], &rows));
    }
    text
}

fn disk(room: &RoomStatus) -> String {
    let (free, total) = (HumanBytes(room.free), HumanBytes(room.total));
    let mut text = format!("disk        {free} of {total} free");
    if let Some(high) = room.high_water {
        text += &format!(", blobs go above {} in use", HumanBytes(high));
    }
    if room.evicted > 0 {
        let bytes = HumanBytes(room.evicted_bytes);
        text += &format!("; {} blobs went ({bytes})", room.evicted);
    }
    if room.lost_pieces > 0 {
        text += &format!("; IT LOST {} PIECES", room.lost_pieces);
    }
    text + "\n"
}

/// What moves now, of how much that may.
fn traffic(traffic: &Traffic, limits: &LimitSettings) -> String {
    let of = |limit: RateLimit| match limit {
        RateLimit::Unlimited => "no limit".to_owned(),
        rate => format!("of {rate}"),
    };
    let line = |name: &str, flow: Flow, all, task| {
        format!(
            "{name:<11} {}/s ({}); the busiest blob {}/s ({})\n",
            HumanBytes(flow.all),
            of(all),
            HumanBytes(flow.busiest_task),
            of(task)
        )
    };
    let (down, up, origin) = (traffic.download, traffic.upload, traffic.back_to_source);
    line("download", down, limits.download, limits.download_per_task)
        + &line("upload", up, limits.upload, limits.upload_per_task)
        + &line(
            "from origin",
            origin,
            limits.back_to_source,
            limits.back_to_source_per_task,
        )
}

fn received(bytes: &BytesBySource) -> String {
    format!(
        "{} from the origin, {} from seeds, {} from peers",
        HumanBytes(bytes.origin),
        HumanBytes(bytes.seed),
        HumanBytes(bytes.parent)
    )
}

fn containerd_content(content: &ContentReport) -> String {
    let total = |total: &ContentTotal| format!("{} ({})", total.blobs, HumanBytes(total.bytes));
    let (committed, promised) = (total(&content.committed), total(&content.promised));
    let uploads = content.uploads;
    format!("{committed} committed, {promised} promised, {uploads} being written")
}

fn tasks(tasks: &[TaskProgress]) -> String {
    if tasks.is_empty() {
        return "\nNo tasks.\n".to_owned();
    }
    let rows: Vec<_> = tasks.iter().map(task).collect();
    let head = [
        "TASK",
        "STATE",
        "DONE",
        "LENGTH",
        "PEERS",
        "ORIGIN",
        "SEEDS",
        "FROM PEERS",
        "SENT",
    ];
    format!("\n{}", table(&head, &rows))
}

/// The layers on their way into snapshots; nothing where there are none.
fn layers(layers: &[LayerReport]) -> String {
    if layers.is_empty() {
        return String::new();
    }
    let row = |layer: &LayerReport| {
        let state = match layer.state {
            LayerState::Queued => "queued",
            LayerState::Opening => "opening",
            LayerState::Waiting => "waiting",
            LayerState::Unpacking => "unpacking",
            LayerState::Staged => "staged",
            LayerState::Failed => "failed",
        };
        let digest = layer.digest.to_string().chars().take(19).collect();
        let name = layer.image.split('@').next().unwrap_or_default();
        vec![digest, state.to_owned(), name.to_owned()]
    };
    let rows: Vec<_> = layers.iter().map(row).collect();
    format!("\n{}", table(&["LAYER", "STATE", "IMAGE"], &rows))
}

fn task(task: &TaskProgress) -> Vec<String> {
    let state = match task.state {
        TaskPhase::Complete => "complete",
        TaskPhase::Downloading => "downloading",
        TaskPhase::Failed => "failed",
        TaskPhase::Idle => "idle",
    };
    let done = match task.total_pieces {
        Some(0) => "100 %".to_owned(),
        Some(total) => format!("{} %", u64::from(task.pieces) * 100 / u64::from(total)),
        None => "?".to_owned(),
    };
    let bytes = |bytes| HumanBytes(bytes).to_string();
    vec![
        // Enough to tell tasks apart and to find one in the log.
        task.id.chars().take(19).collect(),
        state.to_owned(),
        done,
        task.length.map_or_else(|| "?".to_owned(), bytes),
        task.peers.to_string(),
        bytes(task.bytes.origin),
        bytes(task.bytes.seed),
        bytes(task.bytes.parent),
        bytes(task.bytes.sent),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_is_shown_beside_its_limit() {
        let (mut moves, mut limits) = (Traffic::default(), LimitSettings::default());
        moves.upload.all = 3 << 19;
        limits.upload = RateLimit::from_bytes(2 << 20);
        let text = traffic(&moves, &limits);
        let line = "upload      1.50 MiB/s (of 2MiB/s); the busiest blob 0 B/s (no limit)\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
