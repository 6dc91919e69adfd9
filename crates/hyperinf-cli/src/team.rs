//! Ranks that share a command: processes under MPI, or threads with a device each.

use std::cell::RefCell;
use std::fs::remove_file;
use std::path::Path;
use std::time::Duration;

use hyperinf::data::{Crew, DEADLINE, RankReport};
use hyperinf::scoring::Threads;
use hyperinf::store::stage_json;
use serde::Serialize;

use crate::args::{Command, DeviceArgs};
use crate::error::{CliError, Usage};

/// The file with what each rank did: its times differ from run to run, so the summary does not have them.
pub(crate) const RANKS: &str = "ranks.json";

/// Set by launchers for each process that they start: Open MPI, MPICH and its kin, Slurm, Flux, IBM's jsrun.
const SIZES: [&str; 6] = [
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_STEP_NUM_TASKS",
    "FLUX_JOB_SIZE",
    "JSM_NAMESPACE_SIZE",
];

thread_local! {
    /// The crew of this thread.
    static CREW: RefCell<Option<Crew>> = const { RefCell::new(None) };
    /// The place of this thread or process among those of the machine.
    static LOCAL: RefCell<usize> = const { RefCell::new(0) };
}

/// The crew of this thread, if several ranks share the command.
pub(crate) fn crew() -> Option<Crew> {
    CREW.with_borrow(Clone::clone)
}

/// Whether this rank only helps: rank 0 alone reports and writes.
pub(crate) fn helps() -> bool {
    crew().is_some_and(|crew| crew.rank() > 0)
}

/// The device of this rank: of several names its own, of a kind of graphics card the one with its number.
pub(crate) fn own_device(given: &str) -> String {
    let names: Vec<&str> = given.split(',').collect();
    let local = LOCAL.with_borrow(|local| *local);
    match names[..] {
        [only] if crew().is_some() && ["cuda", "rocm"].contains(&only) => format!("{only}:{local}"),
        _ => names[local % names.len()].to_owned(),
    }
}

/// Runs a command by all ranks: by rank 0 as it is, by the others as help for it.
pub(crate) fn share(command: &Command, run: impl Fn() -> Result<(), CliError> + Sync) -> Result<(), CliError> {
    let deadline = device(command).map_or(DEADLINE, |args| Duration::from_secs(args.deadline));
    let devices = device(command).and_then(|args| args.device.as_deref()).unwrap_or_default();
    let threads = devices.split(',').count();
    let processes = launched();
    if threads < 2 && processes < 2 {
        return run();
    }
    if device(command).is_none() {
        let first = format!("{} ranks", threads.max(processes));
        let reason = "attribute, detect, select, index and finetune share their work; the others run alone";
        return Err(Usage::Combination { first, second: "this command", reason }.into());
    }
    if processes > 1 {
        return under_mpi(deadline, run);
    }
    let mut teams = Threads::team(threads).into_iter();
    let mut join = |place: usize| {
        let team = teams.next().map(|team| Crew::new(Box::new(team), deadline));
        move || {
            CREW.set(team);
            LOCAL.set(place);
        }
    };
    std::thread::scope(|scope| {
        let (lead, run) = (join(0), &run);
        let helpers: Vec<_> = (1..threads)
            .map(|place| {
                let join = join(place);
                scope.spawn(move || {
                    join();
                    let done = run();
                    CREW.take();
                    done
                })
            })
            .collect();
        lead();
        let led = run();
        // The last clone ends the others' work.
        CREW.take();
        let helped: Vec<Result<(), CliError>> =
            helpers.into_iter().map(|helper| helper.join().unwrap_or(Ok(()))).collect();
        // A helper that failed is why rank 0 did.
        match led {
            Err(error) if error.is_of_team() => Err(helped.into_iter().find_map(Result::err).unwrap_or(error)),
            led => led,
        }
    })
}

/// The number of processes that MPI has started.
fn launched() -> usize {
    SIZES.iter().find_map(|name| std::env::var(name).ok()?.parse().ok()).unwrap_or(1)
}

#[cfg(not(feature = "mpi"))]
fn under_mpi(_: Duration, _: impl Fn() -> Result<(), CliError>) -> Result<(), CliError> {
    let reason = "this program was built without the feature `mpi`";
    Err(Usage::Combination { first: format!("{} processes", launched()), second: "MPI", reason }.into())
}

#[cfg(feature = "mpi")]
fn under_mpi(deadline: Duration, run: impl Fn() -> Result<(), CliError>) -> Result<(), CliError> {
    let failed = || Usage::Combination {
        first: "MPI".to_owned(),
        second: "threads",
        reason: "the MPI library cannot be started in a process with several threads",
    };
    let world = hyperinf_mpi::World::start().ok_or_else(failed)?;
    let ranks = world.ranks();
    LOCAL.set(world.local_rank());
    CREW.set(Some(Crew::new(Box::new(ranks), deadline)));
    let done = run();
    if let Err(error) = &done {
        // Others may wait for this rank: none of them is left behind.
        let _ = crate::fail(error);
        world.abort(crate::code(error));
    }
    CREW.take();
    done
}

/// The device of a command that ranks can share.
fn device(command: &Command) -> Option<&DeviceArgs> {
    match command {
        Command::Attribute(args) => Some(&args.influence.scoring.shared.device),
        Command::Detect(args) => Some(&args.influence.scoring.shared.device),
        Command::Select(args) => Some(&args.influence.scoring.shared.device),
        Command::Finetune(args) => Some(&args.device),
        Command::Index(args) => Some(&args.device),
        _ => None,
    }
}

/// Ends the others' work, and writes what each rank did into the folder of the results.
pub(crate) fn finish(folder: &Path) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Ranks {
        ranks: Vec<RankReport>,
    }
    let path = folder.join(RANKS);
    match crew() {
        None => {
            // That of an earlier run would look like this one's.
            let _ = remove_file(path);
        }
        Some(crew) => stage_json(&path, &Ranks { ranks: crew.finish()? })?.place()?,
    }
    Ok(())
}
