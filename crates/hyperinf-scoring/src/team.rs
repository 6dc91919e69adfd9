use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

/// Ranks, processes or threads, that share one run; rank 0 leads.
///
/// There is deliberately no sum over ranks: its bits would depend on their number. What must be summed is sent to one
/// rank, which adds it in an order that the data fixes.
pub trait Team: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// Whether the ranks are threads of one process, which share what a process has once.
    fn is_one_process(&self) -> bool {
        false
    }

    /// Sends a message to another rank; messages arrive whole and in their order. May wait until the other rank
    /// receives.
    ///
    /// # Errors
    ///
    /// [`TeamError::Gone`], or [`TeamError::Failed`].
    fn send(&self, to: usize, message: &[u8]) -> Result<(), TeamError>;

    /// Waits for the next message of another rank; `what` it should be is named in an error.
    ///
    /// # Errors
    ///
    /// [`TeamError::Late`] after the deadline, [`TeamError::Gone`], or [`TeamError::Failed`].
    fn receive(&self, from: usize, deadline: Duration, what: &'static str) -> Result<Vec<u8>, TeamError>;

    /// The next message of another rank, if it has arrived.
    ///
    /// # Errors
    ///
    /// [`TeamError::Gone`], or [`TeamError::Failed`].
    fn try_receive(&self, from: usize) -> Result<Option<Vec<u8>>, TeamError>;

    /// Sends a message to all other ranks.
    ///
    /// # Errors
    ///
    /// As [`Team::send`].
    fn broadcast(&self, message: &[u8]) -> Result<(), TeamError> {
        (0..self.size()).filter(|&to| to != self.rank()).try_for_each(|to| self.send(to, message))
    }
}

/// Why ranks could not work together.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TeamError {
    /// Another rank has ended.
    #[error("rank {rank} has ended; its own message says why")]
    Gone {
        /// The other rank.
        rank: usize,
    },
    /// Nothing came.
    #[error("rank {here} waited {seconds} s for {what} of rank {rank}")]
    Late {
        /// The rank that waited.
        here: usize,
        /// The other rank.
        rank: usize,
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// Ranks of one run differ.
    #[error("rank {rank} has another {what}: {theirs}, not {ours}")]
    Differs {
        /// The other rank.
        rank: usize,
        /// What differs.
        what: String,
        /// There.
        theirs: String,
        /// At rank 0.
        ours: String,
    },
    /// A message that cannot be read.
    #[error("a message of rank {rank} cannot be read: {reason}")]
    Garbled {
        /// The other rank.
        rank: usize,
        /// Why.
        reason: String,
    },
    /// Work that ranks shared has failed, and the messages of its other ranks may still be on their way.
    #[error("earlier work of these ranks ended in the middle: they take no more of it")]
    OutOfStep,
    /// The connection failed.
    #[error("ranks cannot be reached: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

/// A rank among threads of this process: for several devices of one machine, and for tests.
pub struct Threads {
    rank: usize,
    /// To each rank; nothing is sent to oneself.
    to: Vec<SyncSender<Vec<u8>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
}

/// Messages that wait for their receiver before a sender waits, too: memory does not grow with the work.
const WAITING: usize = 2;

impl Threads {
    /// A team of so many ranks, one for each thread.
    #[must_use]
    pub fn team(size: usize) -> Vec<Self> {
        let mut to: Vec<Vec<SyncSender<Vec<u8>>>> = (0..size).map(|_| Vec::new()).collect();
        let mut teams = Vec::with_capacity(size);
        for _ in 0..size {
            let mut from = Vec::with_capacity(size);
            for senders in &mut to {
                let (sender, receiver) = sync_channel(WAITING);
                senders.push(sender);
                from.push(Mutex::new(receiver));
            }
            teams.push(from);
        }
        let ranks = teams.into_iter().zip(to).enumerate();
        ranks.map(|(rank, (from, to))| Self { rank, to, from }).collect()
    }
}

impl Team for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn is_one_process(&self) -> bool {
        true
    }

    fn send(&self, to: usize, message: &[u8]) -> Result<(), TeamError> {
        self.to[to].send(message.to_vec()).map_err(|_| TeamError::Gone { rank: to })
    }

    fn receive(&self, from: usize, deadline: Duration, what: &'static str) -> Result<Vec<u8>, TeamError> {
        let receiver = self.from[from].lock().map_err(|e| TeamError::Failed { reason: e.to_string() })?;
        receiver.recv_timeout(deadline).map_err(|error| match error {
            RecvTimeoutError::Disconnected => TeamError::Gone { rank: from },
            RecvTimeoutError::Timeout => {
                TeamError::Late { here: self.rank, rank: from, what, seconds: deadline.as_secs() }
            }
        })
    }

    fn try_receive(&self, from: usize) -> Result<Option<Vec<u8>>, TeamError> {
        let receiver = self.from[from].lock().map_err(|e| TeamError::Failed { reason: e.to_string() })?;
        match receiver.try_recv() {
            Ok(message) => Ok(Some(message)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(TeamError::Gone { rank: from }),
        }
    }
}

/// The owner of each piece of work: the heaviest first, each to the rank with the least work so far.
///
/// ```
/// assert_eq!(hyperinf_scoring::owners(&[1.0, 4.0, 2.0, 2.0], 2), [0, 0, 1, 1]);
/// ```
///
/// # Panics
///
/// If there are no ranks.
#[must_use]
pub fn owners(weights: &[f64], ranks: usize) -> Vec<usize> {
    owners_beside(weights, vec![0.0; ranks])
}

/// [`owners`] where each rank has other work, too, of this weight.
///
/// ```
/// assert_eq!(hyperinf_scoring::owners_beside(&[1.0, 1.0, 1.0], vec![2.0, 0.0]), [1, 1, 0]);
/// ```
///
/// # Panics
///
/// If there are no ranks.
#[must_use]
pub fn owners_beside(weights: &[f64], mut loads: Vec<f64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let mut owners = vec![0; weights.len()];
    for piece in order {
        let least = (0..loads.len()).min_by(|&a, &b| f64::total_cmp(&loads[a], &loads[b])).expect("there are ranks");
        owners[piece] = least;
        loads[least] += weights[piece];
    }
    owners
}
