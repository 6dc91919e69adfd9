use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyperinf_scoring::{Team, TeamError};
use hyperinf_store::{RunKey, available};
use serde::{Deserialize, Serialize};

use crate::RunError;
use crate::crew_message::{read_json, written};
use crate::crew_orders::Work;

/// How long a rank waits for another one, unless something else is said: two hours.
pub const DEADLINE: Duration = Duration::from_secs(7200);

/// The part of a key that differs between the methods of one crew; each work says whose it is.
pub(crate) const METHOD: &str = "method and its settings";
/// The part of a key that names the device.
const DEVICE: &str = "device";

/// Bytes of finished scores that a rank holds.
const HELD: usize = 1 << 30;
/// The share of the free memory that they may take.
const SHARE: f64 = 1.0 / 16.0;

/// The ranks that share a run. Rank 0 leads: it runs [`Run`](crate::Run) or [`Index`](crate::Index) as if it were
/// alone, gives out batches of rows and blocks, and writes every file. The others [`assist`](crate::Run::assist).
///
/// Results are those of one process, bit for bit: batches and blocks are the same whoever computes them, and what is
/// added is added by rank 0 in the order of one process. Files of gradients must be readable by all ranks. When the last
/// clone of rank 0's crew is dropped, the others end. After an error in work that ranks share a crew takes no more work.
#[derive(Clone)]
pub struct Crew {
    shared: Arc<Shared>,
    /// The place of the run's method among those that the other ranks know.
    pub(crate) method: usize,
    /// Bytes of finished scores of blocks that a rank holds besides what it computes.
    held: usize,
}

struct Shared {
    team: Box<dyn Team>,
    deadline: Duration,
    /// What the ranks have agreed on.
    met: Mutex<Option<RunKey>>,
    /// Of rank 0: whether no rank has anything left of the work before.
    in_step: AtomicBool,
    finished: AtomicBool,
    sent: AtomicU64,
    /// In nanoseconds.
    waiting: AtomicU64,
    computing: AtomicU64,
}

/// Work that rank 0 has given out. Unless it is ended, the crew takes no other: messages of this one may be on their way.
#[must_use]
pub(crate) struct Step<'a>(&'a Crew);

impl Step<'_> {
    /// All ranks have done their part.
    pub(crate) fn end(self) {
        self.0.shared.in_step.store(true, Ordering::SeqCst);
    }
}

/// What a rank did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RankReport {
    /// The rank.
    pub rank: usize,
    /// Bytes that it sent to others.
    pub sent_bytes: u64,
    /// Seconds in batches and blocks.
    pub computing_seconds: f64,
    /// Seconds in which it waited for others.
    pub waiting_seconds: f64,
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl Crew {
    /// The crew of a rank's team. A rank that waits longer than `deadline` for another one gives up.
    #[must_use]
    pub fn new(team: Box<dyn Team>, deadline: Duration) -> Self {
        let shared = Shared {
            team,
            deadline,
            met: Mutex::new(None),
            in_step: AtomicBool::new(true),
            finished: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            computing: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), method: 0, held: HELD }
    }

    /// The same crew for another method of the runs that the others [`assist`](crate::Run::assist) with.
    #[must_use]
    pub fn for_method(&self, method: usize) -> Self {
        Self { method, ..self.clone() }
    }

    /// The same crew whose ranks hold at most so many bytes of finished scores, besides the sum and the block that they
    /// compute; more wait until rank 0 takes them. Without it 1 GiB, or a sixteenth of the free memory if that is less.
    #[must_use]
    pub fn holding(&self, bytes: usize) -> Self {
        Self { held: bytes, ..self.clone() }
    }

    /// This rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shared.team.rank()
    }

    /// The number of ranks.
    #[must_use]
    pub fn size(&self) -> usize {
        self.shared.team.size()
    }

    /// Whether several ranks are threads of one process.
    #[must_use]
    pub fn is_one_process(&self) -> bool {
        self.size() > 1 && self.shared.team.is_one_process()
    }

    /// Ends the others' work, and tells what each rank did.
    ///
    /// # Errors
    ///
    /// [`RunError::Team`].
    ///
    /// # Panics
    ///
    /// If this is not rank 0.
    pub fn finish(&self) -> Result<Vec<RankReport>, RunError> {
        assert_eq!(self.rank(), 0, "rank 0 ends the work");
        let step = self.step()?;
        self.shared.finished.store(true, Ordering::SeqCst);
        self.announce(&Work::End)?;
        let mut reports = vec![self.report()];
        for rank in 1..self.size() {
            let bytes = self.receive(rank, "the report")?;
            reports.push(read_json(rank, &bytes)?);
        }
        step.end();
        Ok(reports)
    }

    /// Waits until rank 0 ends work in which this rank has no part.
    ///
    /// # Errors
    ///
    /// [`RunError::Team`].
    pub fn stand_by(&self) -> Result<(), RunError> {
        match self.next()? {
            Work::End => self.leave(),
            other => Err(TeamError::Garbled { rank: 0, reason: format!("{other:?} was not expected") }.into()),
        }
    }

    /// What this rank has done so far.
    #[must_use]
    pub fn report(&self) -> RankReport {
        let seconds = |nanoseconds: &AtomicU64| nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
        RankReport {
            rank: self.rank(),
            sent_bytes: self.shared.sent.load(Ordering::Relaxed),
            computing_seconds: seconds(&self.shared.computing),
            waiting_seconds: seconds(&self.shared.waiting),
        }
    }

    /// Bytes of finished scores that this rank may hold.
    pub(crate) fn held(&self) -> usize {
        available().map_or(self.held, |free| self.held.min((free * SHARE) as usize))
    }

    /// Who computes a batch.
    pub(crate) fn owner(&self, batch: usize) -> usize {
        batch % self.size()
    }

    /// Fails unless all ranks work on the same: of rank 0 before its first work, of the others before they take any.
    /// What they have agreed on stays: only the method may be another later.
    pub(crate) fn meet(&self, key: &RunKey) -> Result<(), RunError> {
        let mut key = key.clone();
        if let Some(device) = key.0.get_mut(DEVICE) {
            *device = without_number(device);
        }
        let mut met = self.shared.met.lock().unwrap_or_else(PoisonError::into_inner);
        match &*met {
            Some(agreed) => return same(&without_method(agreed), &without_method(&key), self.rank()),
            None if self.rank() > 0 => self.send(0, &written(&key.0))?,
            None => {
                let step = self.step()?;
                for rank in 1..self.size() {
                    let bytes = self.receive(rank, "the model and the rows")?;
                    same(&key, &RunKey(read_json::<BTreeMap<String, String>>(rank, &bytes)?), rank)?;
                }
                step.end();
            }
        }
        *met = Some(key);
        Ok(())
    }

    /// Whether the ranks have agreed on what they work on.
    pub(crate) fn has_met(&self) -> bool {
        self.shared.met.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Gives out work.
    pub(crate) fn order(&self, work: &Work) -> Result<Step<'_>, RunError> {
        let step = self.step()?;
        self.announce(work)?;
        Ok(step)
    }

    /// Fails if work before was not ended.
    fn step(&self) -> Result<Step<'_>, TeamError> {
        if self.shared.in_step.swap(false, Ordering::SeqCst) { Ok(Step(self)) } else { Err(TeamError::OutOfStep) }
    }

    fn announce(&self, work: &Work) -> Result<(), RunError> {
        let message = written(work);
        self.shared.sent.fetch_add((message.len() * (self.size() - 1)) as u64, Ordering::Relaxed);
        Ok(self.shared.team.broadcast(&message)?)
    }

    /// The next work.
    pub(crate) fn next(&self) -> Result<Work, RunError> {
        read_json(0, &self.receive(0, "the next work")?)
    }

    /// The answer to [`Work::End`].
    pub(crate) fn leave(&self) -> Result<(), RunError> {
        self.send(0, &written(&self.report()))
    }

    pub(crate) fn send(&self, to: usize, message: &[u8]) -> Result<(), RunError> {
        let began = Instant::now();
        let sent = self.post(to, message);
        self.waited(began.elapsed());
        sent
    }

    pub(crate) fn receive(&self, from: usize, what: &'static str) -> Result<Vec<u8>, RunError> {
        let began = Instant::now();
        let received = self.fetch(from, what);
        self.waited(began.elapsed());
        received
    }

    /// [`Crew::send`] while another thread computes: its time is not counted.
    pub(crate) fn post(&self, to: usize, message: &[u8]) -> Result<(), RunError> {
        self.shared.sent.fetch_add(message.len() as u64, Ordering::Relaxed);
        Ok(self.shared.team.send(to, message)?)
    }

    /// [`Crew::receive`] while another thread computes: its time is not counted.
    pub(crate) fn fetch(&self, from: usize, what: &'static str) -> Result<Vec<u8>, RunError> {
        Ok(self.shared.team.receive(from, self.shared.deadline, what)?)
    }

    /// The next message of another rank, if it has arrived.
    pub(crate) fn try_receive(&self, from: usize) -> Result<Option<Vec<u8>>, RunError> {
        Ok(self.shared.team.try_receive(from)?)
    }

    /// How long a rank waits for another one.
    pub(crate) fn deadline(&self) -> Duration {
        self.shared.deadline
    }

    /// Counts time in which nothing could be done without another rank.
    pub(crate) fn waited(&self, time: Duration) {
        self.shared.waiting.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Counts work of another thread.
    pub(crate) fn computed(&self, time: Duration) {
        self.shared.computing.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Work whose time is counted, without what it waits for others.
    pub(crate) fn computing<T>(&self, work: impl FnOnce() -> T) -> T {
        let waiting = || self.shared.waiting.load(Ordering::Relaxed);
        let (began, before) = (Instant::now(), waiting());
        let result = work();
        let waited = waiting().saturating_sub(before);
        self.computed(began.elapsed().saturating_sub(Duration::from_nanos(waited)));
        result
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.team.rank() == 0 && !*self.finished.get_mut() {
            // Those that are gone already need no word.
            let message = written(&Work::End);
            for rank in 1..self.team.size() {
                let _ = self.team.send(rank, &message);
            }
        }
    }
}

/// Fails if a rank's key is another one.
fn same(ours: &RunKey, theirs: &RunKey, rank: usize) -> Result<(), RunError> {
    match ours.differences(theirs).into_iter().next() {
        None => Ok(()),
        Some(found) => {
            let (what, ours, theirs) = (found.what, found.before, found.now);
            Err(TeamError::Differs { rank, what, theirs, ours }.into())
        }
    }
}

fn without_method(key: &RunKey) -> RunKey {
    let mut key = key.clone();
    key.0.remove(METHOD);
    key
}

/// A device's name without its number: ranks may use different cards of one kind.
fn without_number(name: &str) -> String {
    let kind: String = name.chars().filter(|character| !character.is_ascii_digit()).collect();
    kind.trim_end_matches(':').to_owned()
}
