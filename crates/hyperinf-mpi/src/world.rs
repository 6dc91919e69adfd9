use std::thread::sleep;
use std::time::{Duration, Instant};

use hyperinf_scoring::{Team, TeamError};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::{Rank, SimpleCommunicator};
use mpi::traits::{Communicator, Destination, Source};

/// Counts are C's `int`, and a longer message panics: long ones go in pieces of so many bytes.
const PIECE: usize = 1 << 27;
/// The pause between two looks for a message: a share of the time waited so far, within these bounds.
const PAUSES: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(5)];
/// The longest pause of a sender: rank 0, which has taken the length of a message, waits for the rest of it.
const SENDER: Duration = Duration::from_micros(500);
const SHARE: u32 = 16;
/// How often `try_receive` probes before it finds no message.
const LOOKS: usize = 3;
const TAG: i32 = 7;

/// MPI, from [`World::start`] to the end of this value.
pub struct World {
    _universe: Universe,
    /// The rank among the processes of this machine.
    local_rank: usize,
}

/// This process's rank in the world. All calls must come from the thread that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    rank: usize,
    size: usize,
}

impl World {
    /// Joins the other processes; a process that was started alone is a world of one. `None` if MPI runs already, or
    /// allows no other threads.
    #[must_use]
    pub fn start() -> Option<Self> {
        let (universe, threading) = mpi::initialize_with_threading(Threading::Funneled)?;
        if threading < Threading::Funneled {
            return None;
        }
        let local = universe.world().split_shared(universe.world().rank());
        let local_rank = usize::try_from(local.rank()).ok()?;
        Some(Self { _universe: universe, local_rank })
    }

    /// The ranks.
    #[must_use]
    pub fn ranks(&self) -> Ranks {
        let world = SimpleCommunicator::world();
        let count = |number: Rank| usize::try_from(number).expect("ranks are not negative");
        Ranks { rank: count(world.rank()), size: count(world.size()) }
    }

    /// The rank among the processes of this machine, from 0: which of its devices is this process's.
    #[must_use]
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Ends all processes of the world at once, with this exit code: what a rank does that has failed, so that no other
    /// waits for it.
    pub fn abort(&self, code: u8) -> ! {
        SimpleCommunicator::world().abort(code.into())
    }
}

impl Team for Ranks {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn send(&self, to: usize, message: &[u8]) -> Result<(), TeamError> {
        let world = SimpleCommunicator::world();
        let process = world.process_at_rank(rank(to)?);
        let length = (message.len() as u64).to_le_bytes();
        if self.rank == 0 {
            process.send_with_tag(&length[..], TAG);
        } else {
            // Waits until rank 0 takes the message: MPI would keep small ones of fast ranks in its memory, all of them.
            // It sleeps meanwhile, since another thread may compute.
            mpi::request::scope(|scope| {
                let mut request = process.immediate_synchronous_send_with_tag(scope, &length[..], TAG);
                let began = Instant::now();
                while let Err(pending) = request.test() {
                    request = pending;
                    pause(began, SENDER);
                }
            });
        }
        message.chunks(PIECE).for_each(|piece| process.send_with_tag(piece, TAG));
        Ok(())
    }

    fn receive(&self, from: usize, deadline: Duration, what: &'static str) -> Result<Vec<u8>, TeamError> {
        let began = Instant::now();
        loop {
            if let Some(message) = self.try_receive(from)? {
                return Ok(message);
            }
            if began.elapsed() > deadline {
                return Err(TeamError::Late { here: self.rank, rank: from, what, seconds: deadline.as_secs() });
            }
            pause(began, PAUSES[1]);
        }
    }

    fn try_receive(&self, from: usize) -> Result<Option<Vec<u8>>, TeamError> {
        let world = SimpleCommunicator::world();
        let process = world.process_at_rank(rank(from)?);
        // MPICH's first probe only lets a message arrive; the next one finds it.
        if (0..LOOKS).all(|_| process.immediate_probe_with_tag(TAG).is_none()) {
            return Ok(None);
        }
        let mut length = [0; 8];
        process.receive_into_with_tag(&mut length[..], TAG);
        let length = usize::try_from(u64::from_le_bytes(length)).map_err(|e| failed(&e))?;
        let mut message = Vec::new();
        message.try_reserve_exact(length).map_err(|e| failed(&e))?;
        message.resize(length, 0);
        message.chunks_mut(PIECE).for_each(|piece| {
            process.receive_into_with_tag(piece, TAG);
        });
        Ok(Some(message))
    }
}

/// Waits a little before the next look.
fn pause(began: Instant, most: Duration) {
    sleep((began.elapsed() / SHARE).clamp(PAUSES[0], most));
}

fn rank(number: usize) -> Result<Rank, TeamError> {
    Rank::try_from(number).map_err(|e| failed(&e))
}

fn failed(error: &dyn std::fmt::Display) -> TeamError {
    TeamError::Failed { reason: error.to_string() }
}
