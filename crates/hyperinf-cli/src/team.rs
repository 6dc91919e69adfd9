//! Ranks that share a command: processes under MPI, or threads with a device each.
//!
//! A rank that panics leaves its team, as one that fails: the others do not wait for it.

use std::cell::RefCell;
use std::fs::remove_file;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyperinf::data::{Crew, DEADLINE, RankReport};
use hyperinf::scoring::Threads;
use hyperinf::store::stage_json;
use serde::Serialize;

use crate::args::{Command, DeviceArgs};
use crate::error::{CliError, Usage};

/// The file with what each rank did: its times differ from run to run, so the summary does not have them.
pub(crate) const RANKS: &str = "ranks.json";

/// Why a command refuses several ranks.
const SHARED: &str = "attribute, detect, select, index, score and finetune share their work; the others run alone";

/// Set by launchers for each process that they start: Open MPI, MPICH and its kin, Slurm, Flux, IBM's jsrun.
const SIZES: [&str; 6] = [
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_STEP_NUM_TASKS",
    "FLUX_JOB_SIZE",
    "JSM_NAMESPACE_SIZE",
];

/// Rust's exit code of a panic.
#[cfg(feature = "mpi")]
const PANICKED: u8 = 101;

thread_local! {
    /// The crew of this thread.
    static CREW: RefCell<Option<Crew>> = const { RefCell::new(None) };
    /// The place of this thread or process among those of the machine.
    static LOCAL: RefCell<usize> = const { RefCell::new(0) };
}

/// This thread's place in its crew, which ends with this value: the last clone of rank 0 ends the others' work, and one
/// of another rank tells rank 0 that it is gone.
struct Here;

impl Drop for Here {
    fn drop(&mut self) {
        CREW.take();
    }
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
///
/// # Errors
///
/// If there are several names and no ranks to use them.
pub(crate) fn own_device(given: &str) -> Result<String, CliError> {
    let names: Vec<&str> = given.split(',').collect();
    let local = LOCAL.with_borrow(|local| *local);
    match names[..] {
        [only] if crew().is_some() && ["cuda", "rocm"].contains(&only) => Ok(format!("{only}:{local}")),
        [_, _, ..] if crew().is_none() => {
            let first = format!("--device {given}");
            Err(Usage::Combination { first, second: "this command", reason: SHARED }.into())
        }
        _ => Ok(names[local % names.len()].to_owned()),
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
        return Err(Usage::Combination { first, second: "this command", reason: SHARED }.into());
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
                    let _here = Here;
                    run()
                })
            })
            .collect();
        lead();
        let here = Here;
        let led = run();
        drop(here);
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
    let here = Here;
    let panic = EndsAll(&world);
    let done = run();
    drop(panic);
    if let Err(error) = &done {
        // Others may wait for this rank: none of them is left behind.
        let _ = crate::fail(error);
        world.abort(crate::code(error));
    }
    drop(here);
    done
}

/// A panic of a rank ends all: MPI's own end would wait for them, and they for this one.
#[cfg(feature = "mpi")]
struct EndsAll<'a>(&'a hyperinf_mpi::World);

#[cfg(feature = "mpi")]
impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abort(PANICKED);
        }
    }
}

/// The device of a command that ranks can share.
fn device(command: &Command) -> Option<&DeviceArgs> {
    match command {
        Command::Attribute(args) => Some(&args.influence.scoring.shared.device),
        Command::Detect(args) => Some(&args.influence.scoring.shared.device),
        Command::Select(args) => Some(&args.influence.scoring.shared.device),
        Command::Finetune(args) => Some(&args.device),
        Command::Index(args) => Some(&args.device),
        Command::Score(args) => Some(&args.scoring.shared.device),
        _ => None,
    }
}

/// Ends the others' work, and writes what each rank did into the folder of the results.
pub(crate) fn finish(folder: &Path) -> Result<(), CliError> {
    finish_with(Some(&folder.join(RANKS)))
}

/// [`finish`] for a result that is one file: what each rank did is next to it, in `FILE.ranks.json`.
pub(crate) fn finish_file(file: Option<&Path>) -> Result<(), CliError> {
    let beside = file.map(|file| {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{RANKS}"));
        PathBuf::from(name)
    });
    finish_with(beside.as_deref())
}

fn finish_with(path: Option<&Path>) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Ranks {
        ranks: Vec<RankReport>,
    }
    match (crew(), path) {
        (None, None) => {}
        (None, Some(path)) => {
            // That of an earlier run would look like this one's.
            let _ = remove_file(path);
        }
        (Some(crew), None) => drop(crew.finish()?),
        (Some(crew), Some(path)) => stage_json(path, &Ranks { ranks: crew.finish()? })?.place()?,
    }
    Ok(())
}
