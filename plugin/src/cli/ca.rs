//! `hawker ca`: the cluster's certificate authority and the hosts' certificates, as files.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, Subcommand};
use hawker_identity::{
    AuthorityFiles, ClusterCa, Existing, IssuedLog, Record, Serial, Subject, date, write_authority,
    write_host, write_public,
};
use hawker_model::{HostId, Role};
use http::Method;
use serde_json::{Value, json};

use super::{CliError, scheduler::SchedulerArgs, table::table};

const AUTHORITY_DAYS: u32 = 3650;
const HOST_DAYS: u32 = 825;
/// Where the schedulers' lists of revoked certificates are, unless their settings say otherwise.
const SCHEDULERS_CRL: &str = "/etc/hawker/tls/crl.pem";

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
    /// Revoke a host's certificates, or one certificate by its number
    ///
    /// On a scheduler's machine with [issuer], the scheduler does it and tells all hosts at once.
    /// With --ca the new list is written to DIR/crl.pem: append it to tls.crl of the schedulers
    /// (/etc/hawker/tls/crl.pem), which tell all hosts. What was revoked once stays so: no list
    /// takes back what another names.
    Revoke(RevokeArgs),
    /// Show which certificates were issued, and which of them are revoked
    List(ListArgs),
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The name of a host, or the number of a certificate in hexadecimal digits; may be repeated
    #[arg(value_name = "HOST|SERIAL", required = true)]
    targets: Vec<String>,
    /// The directory of the authority, instead of the scheduler on this machine
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    told: Told,
    #[command(flatten)]
    scheduler: SchedulerArgs,
}

/// What schedulers have revoked with the authority's key.
#[derive(Debug, Args)]
struct Told {
    /// With --ca: tls.crl of a scheduler, whose revocations count as well; may be repeated. Without
    /// it /etc/hawker/tls/crl.pem, if it is there
    #[arg(long = "crl", value_name = "FILE", requires = "ca")]
    files: Vec<PathBuf>,
}

impl Told {
    /// All lists of revoked certificates at hand, PEM.
    fn lists(&self, authority: &AuthorityFiles) -> Result<Option<Vec<u8>>, CliError> {
        let mut all = read_if_there(&authority.crl)?.unwrap_or_default();
        match self.files.is_empty() {
            true => all.extend(read_if_there(Path::new(SCHEDULERS_CRL))?.unwrap_or_default()),
            false => {
                for file in &self.files {
                    all.extend(fs::read(file).map_err(|error| unreadable(file, &error))?);
                }
            }
        }
        Ok((!all.is_empty()).then_some(all))
    }
}

/// `None` only where there is no file: what cannot be read is not nothing.
fn read_if_there(file: &Path) -> Result<Option<Vec<u8>>, CliError> {
    match fs::read(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(file, &error)),
    }
}

fn unreadable(file: &Path, error: &io::Error) -> CliError {
    CliError::Failed(format!("cannot read {}: {error}", file.display()))
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The directory of the authority, instead of the scheduler on this machine
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    told: Told,
    #[command(flatten)]
    scheduler: SchedulerArgs,
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
        CaCommand::Revoke(args) => match args.ca.clone() {
            Some(dir) => revoke(&dir, &args.told, &args.targets),
            None => super::block_on(revoke_at_scheduler(args)),
        },
        CaCommand::List(args) => match &args.ca {
            Some(dir) => list(dir, &args.told),
            None => super::block_on(list_of_scheduler(args)),
        },
    }
}

async fn revoke_at_scheduler(args: RevokeArgs) -> Result<(), CliError> {
    for target in &args.targets {
        let body = json!({ "target": target });
        let answer = args.scheduler.ask(Method::POST, "/v1/revoke", Some(body));
        for serial in answer.await?["revoked"].as_array().into_iter().flatten() {
            println!("revoked  {}", serial.as_str().unwrap_or_default());
        }
    }
    Ok(())
}

fn revoke(dir: &Path, told: &Told, targets: &[String]) -> Result<(), CliError> {
    let authority = load(dir)?;
    let files = AuthorityFiles::in_dir(dir);
    let issued = IssuedLog::new(&files.issued);
    let issued = issued.read().map_err(CliError::failed)?;
    let mut serials = Vec::new();
    for target in targets {
        serials.extend(serials_of(target, &issued)?);
    }
    let before = told.lists(&files)?;
    let list = authority.revoke(&serials, before.as_deref());
    let list = list.map_err(CliError::failed)?;
    write_public(&files.crl, &list).map_err(CliError::failed)?;
    for serial in &serials {
        println!("revoked  {serial}");
    }
    println!(
        "\nAppend {} to {SCHEDULERS_CRL} on the schedulers: they tell all hosts.",
        files.crl.display()
    );
    Ok(())
}

fn serials_of(target: &str, issued: &[Record]) -> Result<Vec<Serial>, CliError> {
    let now = SystemTime::now();
    let of_host = |record: &&Record| record.host.as_str() == target && record.not_after > now;
    let serials: Vec<_> = issued
        .iter()
        .filter(of_host)
        .map(|r| r.serial.clone())
        .collect();
    match (serials.is_empty(), target.parse::<Serial>()) {
        (false, _) => Ok(serials),
        // Shorter ones are names of hosts that are not known.
        (true, Ok(serial)) if target.len() >= 16 => Ok(vec![serial]),
        _ => Err(CliError::Failed(format!(
            "no certificate that is good still was issued to {target:?} from here: give its number \
             (openssl x509 -noout -serial -in cert.pem)"
        ))),
    }
}

fn list(dir: &Path, told: &Told) -> Result<(), CliError> {
    let authority = load(dir)?;
    let files = AuthorityFiles::in_dir(dir);
    let issued = IssuedLog::new(&files.issued);
    let issued = issued.read().map_err(CliError::failed)?;
    let lists = match told.lists(&files)? {
        Some(text) => authority.own_lists(&text).map_err(CliError::failed)?,
        None => Vec::new(),
    };
    let revoked = |serial: &Serial| {
        let mut entries = lists.iter().flat_map(|list| list.revoked());
        entries.any(|(revoked, _)| revoked == serial)
    };
    let rows = issued.iter().map(|record| {
        let end = match revoked(&record.serial) {
            true => "revoked".to_owned(),
            false => date(record.not_after),
        };
        let role = record.role.to_string();
        vec![
            record.serial.to_string(),
            record.host.to_string(),
            role,
            end,
            record.how.clone(),
        ]
    });
    show(&rows.collect::<Vec<_>>());
    Ok(())
}

async fn list_of_scheduler(args: ListArgs) -> Result<(), CliError> {
    let answer = args
        .scheduler
        .ask(Method::GET, "/v1/certificates", None)
        .await?;
    let row = |record: &Value| {
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let end = match record["revoked"].as_bool() {
            Some(true) => "revoked".to_owned(),
            _ => text("not_after"),
        };
        vec![text("serial"), text("host"), text("role"), end, text("how")]
    };
    let rows: Vec<_> = answer.as_array().into_iter().flatten().map(row).collect();
    show(&rows);
    Ok(())
}

fn show(rows: &[Vec<String>]) {
    match rows.is_empty() {
        true => println!("no certificate was issued from here"),
        false => print!(
            "{}",
            table(&["SERIAL", "HOST", "ROLE", "UNTIL", "HOW"], rows)
        ),
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
    let issue = Issue {
        authority: &authority,
        log: IssuedLog::new(&AuthorityFiles::in_dir(&args.ca).issued),
        days: args.days,
        force: &args.force,
    };
    issue.to(&subject, &args.out)
}

fn cluster(args: &ClusterArgs) -> Result<(), CliError> {
    let subjects = subjects(args)?;
    let ca_dir = args.out.join("ca");
    let files = AuthorityFiles::in_dir(&ca_dir);
    let authority = match files.cert.exists() {
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
    let issue = Issue {
        authority: &authority,
        log: IssuedLog::new(&files.issued),
        days: args.days,
        force: &args.force,
    };
    for subject in &subjects {
        issue.to(subject, &args.out.join(subject.host.as_str()))?;
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

/// How hosts' certificates are made.
struct Issue<'a> {
    authority: &'a ClusterCa,
    log: IssuedLog,
    days: u32,
    force: &'a Force,
}

impl Issue<'_> {
    fn to(&self, subject: &Subject, dir: &Path) -> Result<(), CliError> {
        let issued = self.authority.issue(subject, self.days);
        let issued = issued.map_err(CliError::failed)?;
        let existing = self.force.existing();
        write_host(dir, self.authority.cert_pem(), &issued, existing)
            .map_err(|error| CliError::Failed(format!("{error} (--force replaces it)")))?;
        let record = Record {
            serial: issued.serial,
            host: subject.host.clone(),
            role: subject.role,
            issued: SystemTime::now(),
            not_after: issued.not_after,
            how: "ca".to_owned(),
        };
        self.log.add(&record).map_err(CliError::failed)?;
        let role = subject.role.as_str();
        println!("{role:<10}  {:<20}  {}", subject.host, dir.display());
        Ok(())
    }
}
