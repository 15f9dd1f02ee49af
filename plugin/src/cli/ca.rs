//! `hawker ca`: the cluster's certificate authority and the hosts' certificates, as files.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hawker_identity::{AuthorityFiles, ClusterCa, Existing, Subject, write_authority, write_host};
use hawker_model::{HostId, Role};

use super::CliError;

const AUTHORITY_DAYS: u32 = 3650;
const HOST_DAYS: u32 = 825;

#[derive(Debug, Args)]
pub(super) struct CaArgs {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Make a new certificate authority: DIR/ca.pem and DIR/ca-key.pem
    ///
    /// ca-key.pem signs every host's certificate: keep it off the hosts.
    Create(CreateArgs),
    /// Make one host's certificate: DIR/ca.pem, DIR/cert.pem and DIR/key.pem
    ///
    /// Copy the three files to /etc/hawker/tls on that host.
    Issue(IssueArgs),
    /// Make authority and certificates for a whole cluster in one go
    ///
    /// Writes DIR/ca/{ca,ca-key}.pem and, for every host, DIR/<host>/{ca,cert,key}.pem, to be
    /// copied to /etc/hawker/tls on that host. An authority that is in DIR/ca already is used, so
    /// that hosts can be added later.
    Cluster(ClusterArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The directory to write to; made when it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    cluster: ClusterName,
    /// For how many days the authority is good
    #[arg(long, value_name = "N", default_value_t = AUTHORITY_DAYS)]
    days: u32,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct IssueArgs {
    /// The directory that `hawker ca create` wrote
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// What the host is: node, seed or scheduler
    #[arg(long)]
    role: Role,
    /// The host's name, the same as `node.name` in its settings
    #[arg(long, value_name = "NAME")]
    host: HostId,
    /// The directory to write to; made when it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Another DNS name or IP address of the host, for other software that checks those; may be
    /// repeated
    #[arg(long = "name", value_name = "DNS-OR-IP")]
    names: Vec<String>,
    /// For how many days the certificate is good
    #[arg(long, value_name = "N", default_value_t = HOST_DAYS)]
    days: u32,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct ClusterArgs {
    /// The directory to write to; made when it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    cluster: ClusterName,
    /// A scheduler's name; may be repeated
    #[arg(long = "scheduler", value_name = "HOST")]
    schedulers: Vec<HostId>,
    /// A seed's name; may be repeated
    #[arg(long = "seed", value_name = "HOST")]
    seeds: Vec<HostId>,
    /// A node's name; may be repeated
    #[arg(long = "node", value_name = "HOST")]
    nodes: Vec<HostId>,
    /// For how many days the hosts' certificates are good
    #[arg(long, value_name = "N", default_value_t = HOST_DAYS)]
    days: u32,
    #[command(flatten)]
    force: Force,
}

#[derive(Debug, Args)]
struct ClusterName {
    /// The cluster's name, which stands in every certificate
    #[arg(long, value_name = "NAME", default_value = "hawker")]
    cluster: String,
}

#[derive(Debug, Args)]
struct Force {
    /// Replace files that are there already
    #[arg(long)]
    force: bool,
}

impl Force {
    fn existing(&self) -> Existing {
        match self.force {
            true => Existing::Replace,
            false => Existing::Keep,
        }
    }
}

pub(super) fn run(args: CaArgs) -> Result<(), CliError> {
    match args.command {
        CaCommand::Create(args) => create(&args).map(drop),
        CaCommand::Issue(args) => issue(&args),
        CaCommand::Cluster(args) => cluster(&args),
    }
}

fn create(args: &CreateArgs) -> Result<ClusterCa, CliError> {
    let authority =
        ClusterCa::create(&args.cluster.cluster, args.days).map_err(CliError::failed)?;
    let files = write_authority(&args.out, &authority, args.force.existing())
        .map_err(|error| CliError::Failed(format!("{error} (--force replaces it)")))?;
    println!("authority   {}", files.cert.display());
    println!(
        "secret key  {}  (keep it off the hosts)",
        files.key.display()
    );
    Ok(authority)
}

fn issue(args: &IssueArgs) -> Result<(), CliError> {
    let authority = load(&args.ca)?;
    let subject = Subject {
        host: args.host.clone(),
        role: args.role,
        names: args.names.clone(),
    };
    issue_to(&authority, &subject, args.days, &args.out, &args.force)
}

fn cluster(args: &ClusterArgs) -> Result<(), CliError> {
    let subjects = subjects(args)?;
    let ca_dir = args.out.join("ca");
    let authority = match AuthorityFiles::in_dir(&ca_dir).cert.exists() {
        true => existing_authority(&ca_dir, &args.cluster.cluster)?,
        false => create(&CreateArgs {
            out: ca_dir,
            cluster: ClusterName {
                cluster: args.cluster.cluster.clone(),
            },
            days: AUTHORITY_DAYS,
            force: Force { force: false },
        })?,
    };
    for subject in &subjects {
        let dir = args.out.join(subject.host.as_str());
        issue_to(&authority, subject, args.days, &dir, &args.force)?;
    }
    println!("\nCopy each host's three files to /etc/hawker/tls on that host.");
    Ok(())
}

fn existing_authority(dir: &Path, cluster: &str) -> Result<ClusterCa, CliError> {
    let authority = load(dir)?;
    if authority.cluster() != cluster {
        return Err(CliError::Failed(format!(
            "{} is the authority of cluster {:?}, not of {cluster:?}: give --cluster {} or another \
             --out",
            dir.display(),
            authority.cluster(),
            authority.cluster(),
        )));
    }
    Ok(authority)
}

fn subjects(args: &ClusterArgs) -> Result<Vec<Subject>, CliError> {
    let of_role = |hosts: &[HostId], role| {
        let subject = |host: &HostId| Subject {
            host: host.clone(),
            role,
            names: Vec::new(),
        };
        hosts.iter().map(subject).collect::<Vec<_>>()
    };
    let subjects = [
        of_role(&args.schedulers, Role::Scheduler),
        of_role(&args.seeds, Role::Seed),
        of_role(&args.nodes, Role::Node),
    ]
    .concat();
    let mut names: Vec<_> = subjects
        .iter()
        .map(|subject| subject.host.as_str())
        .collect();
    names.push("ca");
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some([name, _]) => Err(CliError::Failed(format!(
            "the name {name:?} is given twice or is \"ca\", which is the authority's directory: a \
             host has one name and one role"
        ))),
        _ if subjects.is_empty() => Err(CliError::Failed(
            "no host is named: give --scheduler, --seed and --node".to_owned(),
        )),
        _ => match subjects.iter().find(|s| s.host.as_str().starts_with('.')) {
            Some(subject) => Err(CliError::Failed(format!(
                "the host name {:?} would be a hidden directory: use `hawker ca issue`",
                subject.host
            ))),
            None => Ok(subjects),
        },
    }
}

fn load(dir: &Path) -> Result<ClusterCa, CliError> {
    AuthorityFiles::in_dir(dir).load().map_err(|error| {
        CliError::Failed(format!(
            "{error} (an authority is made by: hawker ca create --out {})",
            dir.display()
        ))
    })
}

fn issue_to(
    authority: &ClusterCa,
    subject: &Subject,
    days: u32,
    dir: &Path,
    force: &Force,
) -> Result<(), CliError> {
    let issued = authority.issue(subject, days).map_err(CliError::failed)?;
    write_host(dir, authority.cert_pem(), &issued, force.existing())
        .map_err(|error| CliError::Failed(format!("{error} (--force replaces it)")))?;
    let role = subject.role.as_str();
    println!("{role:<10}  {:<20}  {}", subject.host, dir.display());
    Ok(())
}
