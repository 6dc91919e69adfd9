//! Batches that ranks get on demand; rank 0, which also writes the results, computes fewer of them.
//!
//! A rank has two batches at a time: it computes one while the result of the other is sent, and rank 0 replies with the
//! next batch. Rank 0 computes a batch itself only if no result is waiting. A batch gives the same bits on every rank.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use hyperinf_scoring::TeamError;

use crate::RunError;
use crate::crew::Crew;
use crate::crew_message::{read_json, written};
use crate::crew_orders::Work;

/// The pause between two looks for results: a share of the time waited so far, within these bounds.
const PAUSES: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(5)];
const SHARE: u32 = 16;

/// Batches that rank 0 gives out.
pub(crate) struct Deal<'a> {
    /// `None` if one process takes all of them.
    crew: Option<&'a Crew>,
    /// What is computed of a batch.
    what: &'static str,
    /// Those that nobody has.
    left: VecDeque<usize>,
    /// Those that each rank has, in its order.
    held: Vec<VecDeque<usize>>,
}

/// A batch, by its number.
pub(crate) enum Given {
    /// This rank computes it.
    Own(usize),
    /// What another rank has found.
    Arrived { number: usize, rank: usize, bytes: Vec<u8> },
}

impl Given {
    pub(crate) fn number(&self) -> usize {
        match *self {
            Self::Own(number) | Self::Arrived { number, .. } => number,
        }
    }
}

impl<'a> Deal<'a> {
    pub(crate) fn new(crew: Option<&'a Crew>, what: &'static str, batches: usize) -> Self {
        let size = crew.map_or(1, Crew::size);
        let held: Vec<VecDeque<usize>> = (0..size).map(|rank| first(rank, size, batches).collect()).collect();
        let left = (0..batches).filter(|&number| number % size == 0 || number >= 2 * size).collect();
        Self { crew, what, left, held }
    }

    /// The next batch for this rank, or the next result; `None` after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<Given>, RunError> {
        let Some(crew) = self.crew else { return Ok(self.left.pop_front().map(Given::Own)) };
        if let Some(found) = self.arrived(crew)? {
            return Ok(Some(found));
        }
        if let Some(number) = self.left.pop_front() {
            return Ok(Some(Given::Own(number)));
        }
        let began = Instant::now();
        while let Some(rank) = (1..crew.size()).find(|&rank| !self.held[rank].is_empty()) {
            if let Some(found) = self.arrived(crew)? {
                crew.waited(began.elapsed());
                return Ok(Some(found));
            }
            let waited = began.elapsed();
            if waited > crew.deadline() {
                let seconds = crew.deadline().as_secs();
                return Err(TeamError::Late { here: 0, rank, what: self.what, seconds }.into());
            }
            sleep((waited / SHARE).clamp(PAUSES[0], PAUSES[1]));
        }
        Ok(None)
    }

    /// A result that waits. Its rank gets another batch, unless it still has one and there would be none for others.
    fn arrived(&mut self, crew: &Crew) -> Result<Option<Given>, RunError> {
        for rank in 1..crew.size() {
            let Some(&number) = self.held[rank].front() else { continue };
            let Some(bytes) = crew.try_receive(rank)? else { continue };
            self.held[rank].pop_front();
            let enough = self.held[rank].is_empty() || self.left.len() >= crew.size();
            let next = self.left.pop_front_if(|_| enough);
            crew.send(rank, &written(&next))?;
            self.held[rank].extend(next);
            return Ok(Some(Given::Arrived { number, rank, bytes }));
        }
        Ok(None)
    }
}

/// Does a rank's part of so many batches: `compute` makes a message of one.
pub(crate) fn serve(
    crew: &Crew,
    batches: usize,
    mut compute: impl FnMut(usize) -> Result<Vec<u8>, RunError> + Send,
) -> Result<(), RunError> {
    let began = Instant::now();
    let mut held = first(crew.rank(), crew.size(), batches).len();
    if held == 0 {
        return Ok(());
    }
    let computing = scope(|scope| {
        // This thread speaks with rank 0, as MPI demands, another one computes. It ends when `give` is gone.
        let (give, given) = sync_channel::<usize>(2);
        let (put, found) = sync_channel(0);
        first(crew.rank(), crew.size(), batches).for_each(|number| give.send(number).expect("there is room for two"));
        scope.spawn(move || {
            for number in given {
                let began = Instant::now();
                let message = compute(number);
                if put.send((message, began.elapsed())).is_err() {
                    return;
                }
            }
        });
        let mut computing = Duration::ZERO;
        while held > 0 {
            // It has panicked: the scope passes that on.
            let Ok((message, took)) = found.recv() else { break };
            computing += took;
            crew.post(0, &message?)?;
            held -= 1;
            if let Some(number) = reply(&crew.fetch(0, "the next batch")?)? {
                held += 1;
                let _ = give.send(number);
            }
        }
        Ok::<_, RunError>(computing)
    })?;
    crew.computed(computing);
    crew.waited(began.elapsed().saturating_sub(computing));
    Ok(())
}

/// The batch in a reply of rank 0, which ends all work instead if it has failed.
fn reply(bytes: &[u8]) -> Result<Option<usize>, RunError> {
    match read_json(0, bytes) {
        Err(_) if matches!(read_json(0, bytes), Ok(Work::End)) => Err(TeamError::Gone { rank: 0 }.into()),
        reply => reply,
    }
}

/// The batches that a rank begins with; rank 0 takes all of its own one by one.
fn first(rank: usize, size: usize, batches: usize) -> std::iter::StepBy<Range<usize>> {
    let end = if rank == 0 { 0 } else { batches.min(2 * size) };
    (rank..end.max(rank)).step_by(size)
}

#[cfg(test)]
mod tests {
    use std::thread::{scope, sleep};
    use std::time::Duration;

    use hyperinf_scoring::{Team, TeamError, Threads};

    use super::{Deal, Given, serve};
    use crate::crew::DEADLINE;
    use crate::crew_message::written;
    use crate::crew_orders::Work;
    use crate::{Crew, RunError};

    fn crews(size: usize, deadline: Duration) -> Vec<Crew> {
        Threads::team(size).into_iter().map(|team| Crew::new(Box::new(team), deadline)).collect()
    }

    /// Which rank has computed each batch, if a rank takes `pause(rank)` for each.
    fn owners(size: usize, batches: usize, pause: impl Fn(usize) -> Duration + Sync) -> Vec<usize> {
        let mut all = crews(size, DEADLINE);
        let zero = all.remove(0);
        let mut owners = vec![None; batches];
        scope(|scope| {
            for crew in all {
                let pause = &pause;
                scope.spawn(move || {
                    let of_batch = |number: usize| {
                        sleep(pause(crew.rank()));
                        Ok(vec![number as u8; number])
                    };
                    serve(&crew, batches, of_batch).expect("rank 0 answers");
                });
            }
            let mut deal = Deal::new(Some(&zero), "a batch", batches);
            while let Some(given) = deal.next().expect("the others compute") {
                let number = given.number();
                let rank = match given {
                    Given::Own(_) => {
                        sleep(pause(0));
                        0
                    }
                    Given::Arrived { rank, bytes, .. } => {
                        assert_eq!(bytes, vec![number as u8; number], "what this batch gave");
                        rank
                    }
                };
                assert_eq!(owners[number].replace(rank), None, "batch {number} twice");
            }
        });
        owners.into_iter().map(|rank| rank.expect("every batch")).collect()
    }

    #[test]
    fn every_batch_is_computed_once() {
        for size in 1..6 {
            for batches in 0..14 {
                assert_eq!(owners(size, batches, |_| Duration::ZERO).len(), batches);
            }
        }
        let mut alone = Deal::new(None, "a batch", 3);
        for expected in 0..3 {
            assert!(matches!(alone.next(), Ok(Some(Given::Own(number))) if number == expected));
        }
        assert!(matches!(alone.next(), Ok(None)));
    }

    /// Of 24 batches 8 would be an even share.
    #[test]
    fn a_slow_rank_takes_fewer() {
        let slow = |which: usize| move |rank: usize| Duration::from_millis(if rank == which { 60 } else { 3 });
        let count = |owners: &[usize], rank| owners.iter().filter(|&&owner| owner == rank).count();
        let found = owners(3, 24, slow(1));
        assert!(count(&found, 1) < 6, "{found:?}");
        let found = owners(2, 9, slow(1));
        assert!((1..4).contains(&count(&found, 1)), "{found:?}");
    }

    #[test]
    fn a_rank_that_fails_or_is_late_ends_the_work() {
        let mut all = crews(2, Duration::from_millis(50));
        let (one, zero) = (all.remove(1), all.remove(0));
        let late = TeamError::Late { here: 0, rank: 1, what: "a batch", seconds: 0 };
        let mut deal = Deal::new(Some(&zero), "a batch", 2);
        assert!(matches!(deal.next(), Ok(Some(Given::Own(0)))));
        assert!(matches!(deal.next(), Err(RunError::Team(error)) if error == late));
        let failed = serve(&one, 2, |_| Err(TeamError::OutOfStep.into()));
        assert!(matches!(failed, Err(RunError::Team(TeamError::OutOfStep))));
        drop(one);
        assert!(matches!(deal.next(), Err(RunError::Team(TeamError::Gone { rank: 1 }))));
    }

    /// Rank 0 has failed: it sends the end of all work instead of a reply.
    #[test]
    fn a_rank_ends_when_rank_0_fails() {
        let mut team = Threads::team(2);
        let (one, zero) = (team.remove(1), team.remove(0));
        let one = Crew::new(Box::new(one), DEADLINE);
        zero.send(1, &written(&Work::End)).expect("rank 1 is there");
        let gone = serve(&one, 2, |_| Ok(Vec::new()));
        assert!(matches!(gone, Err(RunError::Team(TeamError::Gone { rank: 0 }))));
    }
}
