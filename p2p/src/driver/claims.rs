//! Claims: our own, of rights and of manifests, which seeds answer; on a seed, those of others; and
//! the call-back for fresh credentials. What is to be decided, the owner of the node decides
//! ([`NodeRequest`]).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use hawker_model::{HostId, Role, TaskId};
use hawker_swarm::{
    Admission, ClaimAction, Claims, Docket, Envelope, Finding, GivenManifest, Lie, Message,
    Misbehaviour, NoSeed, Price, Question, Resolution, Source, Verdict,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};

use super::{Driver, event::Event};
use crate::{request::NodeRequest, transport::Security};

/// A judgement that takes longer is given up, before whoever asks gives it up.
const JUDGEMENT: Duration = Duration::from_secs(55);
/// The same for a fresh credential.
const RENEWAL: Duration = Duration::from_secs(5);

/// What the loop knows of claims.
pub(super) struct Desk {
    pub(super) claims: Claims,
    docket: Docket,
    /// Who waits for the answers to ours.
    asking: BTreeMap<u64, oneshot::Sender<Result<Finding, NoSeed>>>,
    /// Judgements under way.
    judging: BTreeMap<(HostId, u64), AbortHandle>,
    /// Our owner, once it listens.
    owner: Option<mpsc::Sender<NodeRequest>>,
}

/// A claim of this host, as the API hands it over.
pub(crate) struct Ask {
    pub(crate) number: u64,
    pub(crate) task: TaskId,
    pub(crate) question: Question,
    pub(crate) reply: oneshot::Sender<Result<Finding, NoSeed>>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut ask = f.debug_struct("Ask");
        ask.field("number", &self.number).field("task", &self.task);
        ask.finish_non_exhaustive()
    }
}

impl Desk {
    pub(super) fn new(role: Role) -> Self {
        Self {
            claims: Claims::default(),
            docket: Docket::new(role),
            asking: BTreeMap::new(),
            judging: BTreeMap::new(),
            owner: None,
        }
    }

    /// From now on the owner is asked.
    pub(super) fn set_owner(&mut self, owner: mpsc::Sender<NodeRequest>) {
        self.owner = Some(owner);
    }

    /// Says whether the owner will look at it.
    fn ask_owner(&self, request: NodeRequest) -> bool {
        let owner = self.owner.as_ref();
        owner.is_some_and(|owner| owner.try_send(request).is_ok())
    }
}

impl Driver {
    // --- Our own claims ---

    pub(super) fn handle_ask(&mut self, ask: Ask, now: Instant) {
        let Ask {
            number,
            task,
            question,
            reply,
        } = ask;
        if reply.is_closed() {
            return;
        }
        self.desk.asking.insert(number, reply);
        let seeds = self.contacts.seeds_for(&task);
        let claim = (task, question);
        self.desk.claims.handle_ask(number, claim, seeds, now);
    }

    pub(super) fn handle_unask(&mut self, number: u64, now: Instant) {
        if self.desk.asking.remove(&number).is_some() {
            self.desk.claims.handle_drop(number, now);
        }
    }

    pub(super) fn handle_outrun(&mut self, number: u64, now: Instant) {
        if self.desk.asking.remove(&number).is_some() {
            self.desk.claims.handle_outrun(number, now);
        }
    }

    pub(super) fn perform_claim(&mut self, action: ClaimAction, now: Instant) {
        match action {
            ClaimAction::Answer { number, answer } => {
                if let Err(why) = &answer {
                    tracing::debug!(%why, "a claim is not judged by a seed");
                    if matches!(why, NoSeed::Silent(_)) {
                        self.swarm.note_silence(now);
                    }
                }
                if let Some(reply) = self.desk.asking.remove(&number) {
                    let _ = reply.send(answer);
                }
            }
            ClaimAction::Dial { host } => self.dial(host, now),
            ClaimAction::Send {
                host,
                number,
                task,
                question,
            } => {
                let message = match question {
                    Question::Right(source) => Message::Claim { number, source },
                    Question::Manifest(wish) => Message::Resolve { number, wish },
                };
                self.say(&host, task, message);
            }
        }
    }

    /// Sends what is no matter of the swarm; the connection is of use.
    fn say(&mut self, host: &HostId, task: TaskId, message: Message) {
        self.swarm.note_use(host);
        self.links.send(host, Envelope { task, message });
    }

    /// No connection to the host is left.
    pub(super) fn lose_claims(&mut self, host: &HostId, now: Instant) {
        self.desk.claims.handle_unreachable(host, now);
        for number in self.desk.docket.drop_host(host) {
            if let Some(judge) = self.desk.judging.remove(&(host.clone(), number)) {
                judge.abort();
            }
        }
    }

    // --- What hosts say ---

    /// Takes what is about a claim, and gives back what is for the swarm.
    pub(super) fn take_claim(
        &mut self,
        host: &HostId,
        envelope: Envelope,
        now: Instant,
    ) -> Option<Envelope> {
        let Envelope { task, message } = envelope;
        match message {
            Message::Claim { number, source } => {
                self.handle_claim(host, number, (task, Question::Right(source)), now);
            }
            Message::Resolve { number, wish } => {
                self.handle_claim(host, number, (task, Question::Manifest(wish)), now);
            }
            Message::Heard { number } => {
                let asked = self.desk.claims.handle_heard(host, number, now);
                self.weigh_answer(host, task, (asked, Price::Word), now);
            }
            Message::Verdict { number, verdict } => {
                let asked = self.desk.claims.handle_verdict(host, number, verdict);
                self.weigh_answer(host, task, (asked, Price::Word), now);
            }
            Message::Resolved { number, resolution } => {
                let price = price_of(resolution.as_ref());
                match self.desk.claims.handle_resolved(host, number, resolution) {
                    Ok(asked) => self.weigh_answer(host, task, (asked, price), now),
                    Err(Lie) => {
                        tracing::warn!(%host, "a seed gave another manifest than was asked for");
                        let what = Misbehaviour::Protocol;
                        self.swarm.handle_misbehaviour(host, task, what, now);
                    }
                }
            }
            Message::Doubt { piece } => self.handle_doubt(host, task, piece, now),
            message => return Some(Envelope { task, message }),
        }
        self.swarm.note_use(host);
        None
    }

    /// Nobody says without end what was not asked for.
    fn weigh_answer(
        &mut self,
        host: &HostId,
        task: TaskId,
        (asked, price): (bool, Price),
        now: Instant,
    ) {
        if !asked {
            self.swarm.note_nuisance(host, task, price, now);
        }
    }

    fn handle_claim(
        &mut self,
        host: &HostId,
        number: u64,
        (task, question): (TaskId, Question),
        now: Instant,
    ) {
        let plain = matches!(self.security, Security::Plain { .. });
        let exposed = plain && question.source().authorization.is_some();
        let admission = match exposed {
            true => Admission::Excess,
            false => self.desk.docket.admit(host, number),
        };
        if matches!(admission, Admission::Excess | Admission::Known) {
            self.swarm.note_nuisance(host, task, Price::Answer, now);
        }
        match admission {
            Admission::Judge => self.judge(host, number, task, question),
            Admission::Known => self.say(host, task, Message::Heard { number }),
            Admission::Refuse | Admission::Excess => {
                tracing::debug!(%host, %task, "a claim is not judged here");
                self.say(host, task, unanswered(number, &question));
            }
        }
    }

    fn judge(&mut self, host: &HostId, number: u64, task: TaskId, question: Question) {
        let refusal = unanswered(number, &question);
        let (request, answer) = pose(host, number, task, question);
        if !self.desk.ask_owner(request) {
            return self.handle_judged(host, number, task, refusal);
        }
        self.say(host, task, Message::Heard { number });
        let (events, by) = (self.events.clone(), host.clone());
        let judge = self.jobs.spawn(async move {
            let judged = Event::Judged {
                host: by,
                number,
                task,
                answer: answer.await,
            };
            let _ = events.send(judged).await;
        });
        self.desk.judging.insert((host.clone(), number), judge);
    }

    pub(super) fn handle_judged(
        &mut self,
        host: &HostId,
        number: u64,
        task: TaskId,
        answer: Message,
    ) {
        self.desk.judging.remove(&(host.clone(), number));
        if self.desk.docket.settle(host, number) {
            self.say(host, task, answer);
        }
    }

    // --- Fresh credentials ---

    /// Asks our owner for another credential in place of a refused one.
    pub(super) fn renew(&mut self, task: TaskId, source: Source, now: Instant) {
        let refused = source.mark();
        let (reply, answer) = oneshot::channel();
        let request = NodeRequest::Renew {
            task,
            source,
            reply,
        };
        if !self.desk.ask_owner(request) {
            return self.swarm.handle_renewed(task, refused, None, now);
        }
        let events = self.events.clone();
        self.jobs.spawn(async move {
            let fresh = timeout(RENEWAL, answer).await;
            let fresh = fresh.ok().and_then(Result::ok).flatten();
            let renewed = Event::Renewed {
                task,
                refused,
                fresh,
            };
            let _ = events.send(renewed).await;
        });
    }
}

/// What an answer costs that nobody asked for: the bytes of a manifest were read and hashed.
fn price_of(resolution: Option<&Resolution>) -> Price {
    match resolution {
        Some(Resolution::Given(GivenManifest {
            bytes: Some(bytes), ..
        })) => Price::Bytes(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        _ => Price::Word,
    }
}

/// The question for our owner, and what its answer says to the host that asked.
fn pose(
    host: &HostId,
    number: u64,
    task: TaskId,
    question: Question,
) -> (NodeRequest, BoxFuture<'static, Message>) {
    let host = host.clone();
    match question {
        Question::Right(source) => {
            let (reply, answer) = oneshot::channel();
            let request = NodeRequest::Judge {
                host,
                task,
                source,
                reply,
            };
            let answer = async move {
                let verdict = in_time(answer, Verdict::Failed).await;
                Message::Verdict { number, verdict }
            };
            (request, Box::pin(answer))
        }
        Question::Manifest(wish) => {
            let (reply, answer) = oneshot::channel();
            let request = NodeRequest::Resolve { host, wish, reply };
            let answer = async move {
                let resolution = in_time(answer, Resolution::Failed).await;
                Message::Resolved { number, resolution }
            };
            (request, Box::pin(answer))
        }
    }
}

/// The answer of our owner; `None`: there is none.
async fn in_time<T>(answer: oneshot::Receiver<T>, failed: impl FnOnce(String) -> T) -> Option<T> {
    match timeout(JUDGEMENT, answer).await {
        Ok(answer) => answer.ok(),
        Err(_) => Some(failed("the origin does not answer".to_owned())),
    }
}

/// That the question is not answered here.
fn unanswered(number: u64, question: &Question) -> Message {
    match question {
        Question::Right(_) => Message::Verdict {
            number,
            verdict: None,
        },
        Question::Manifest(_) => Message::Resolved {
            number,
            resolution: None,
        },
    }
}
