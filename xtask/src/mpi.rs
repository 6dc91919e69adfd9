//! `cargo xtask mpi`: the program under MPICH and Open MPI, against the program alone.

mod namespaces;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::run::{cache, cargo, output, program, root, status};
use namespaces::Namespaces;

/// An MPI: its name, its compiler, and how it starts processes.
struct Mpi {
    name: &'static str,
    compiler: &'static str,
    launcher: &'static [&'static str],
}

const MPIS: [Mpi; 2] = [
    Mpi { name: "mpich", compiler: "mpicc.mpich", launcher: &["mpiexec.mpich"] },
    // It refuses root and more ranks than cores unless both are allowed.
    Mpi {
        name: "openmpi",
        compiler: "mpicc.openmpi",
        launcher: &["mpiexec.openmpi", "--allow-run-as-root", "--oversubscribe"],
    },
];
const PACKAGES: [&str; 5] = ["mpich", "libmpich-dev", "openmpi-bin", "libopenmpi-dev", "libclang-dev"];
const RANKS: [usize; 4] = [1, 2, 3, 4];
const KILLS: usize = 10;
/// What tells of times, so that it differs from run to run.
const TIMES: &str = "ranks.json";

/// What is run: a name, and the arguments but for the folder of the results.
type Case = (&'static str, Vec<String>);

/// Builds the program for each MPI, runs every command with 1 to 4 ranks, and kills ranks.
pub fn check() -> Result<(), String> {
    install()?;
    let work = cache("mpi")?;
    let namespaces = Namespaces::make(&work)?;
    for mpi in &MPIS {
        let binary = build(mpi, &work)?;
        let folder = work.join(mpi.name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
        rows(&folder.join("train.jsonl"), 90)?;
        rows(&folder.join("query.jsonl"), 6)?;
        let place = Place { mpi, binary, folder };
        for case in cases() {
            place.equal(&case)?;
        }
        if let Some(namespaces) = &namespaces {
            place.across(namespaces)?;
        }
        place.kills()?;
    }
    Ok(())
}

fn install() -> Result<(), String> {
    let there = |name: &str| output(program("sh").args(["-c", &format!("command -v {name}")])).is_ok();
    let clang = Path::new("/usr/lib").read_dir().is_ok_and(|mut all| {
        all.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("llvm-")))
    });
    if clang && MPIS.iter().all(|mpi| there(mpi.compiler) && there(mpi.launcher[0])) {
        return Ok(());
    }
    let apt = |args: &[&str]| status(program("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(args));
    let install = [&["install", "-qq", "--yes", "--no-install-recommends"], &PACKAGES[..]].concat();
    apt(&["update", "-qq"])
        .and_then(|()| apt(&install))
        .map_err(|e| format!("no MPI could be installed ({e}): as root, install {}", PACKAGES.join(", ")))
}

/// The program for an MPI. The workspace's selection, so that Burn is not compiled again.
fn build(mpi: &Mpi, work: &Path) -> Result<PathBuf, String> {
    // The bindings are those of one MPI, and cargo does not see another compiler.
    status(&mut cargo(&["clean", "--quiet", "--release", "--package", "mpi-sys", "--package", "mpi"]))?;
    let args = ["build", "--release", "--workspace", "--bin", "hyperinf", "--features", "hyperinf-cli/mpi"];
    status(cargo(&args).env("MPICC", mpi.compiler))?;
    let (built, copy) = (root().join("target/release/hyperinf"), work.join(format!("hyperinf-{}", mpi.name)));
    fs::copy(&built, &copy).map_err(|e| format!("cannot copy {}: {e}", built.display()))?;
    Ok(copy)
}

/// Rows for the tiny classifier of the fixtures, of different lengths.
fn rows(path: &Path, count: usize) -> Result<(), String> {
    const THINGS: [&str; 5] = ["the fox rests", "a red fox runs", "the river is cold", "old river", "a small boat"];
    const PLACES: [&str; 4] = ["in the snow", "under the tree on the hill", "with the man at the end", "then"];
    let row = |i: usize| {
        let text = format!("{} {}", THINGS[i % 5], PLACES[i / 5 % 4]);
        format!("{{\"text\": \"{text} {}\", \"label\": {}}}\n", "and so on ".repeat(i % 4), i % 3)
    };
    fs::write(path, (0..count).map(row).collect::<String>())
        .map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn arguments(command: &str, more: &[&str]) -> Vec<String> {
    let bert = root().join("tests/fixtures/transformers/bert");
    let (model, adapter) = (bert.display().to_string(), bert.join("query_value").display().to_string());
    let all = [command, "--model", &model, "--adapter", &adapter, "--train", "train.jsonl", "--truncate"];
    all.iter().chain(&["--batch-size", "2"]).chain(more).map(|&word| word.to_owned()).collect()
}

/// With dropout: each process has a generator of its own.
fn tuning() -> Vec<String> {
    let llama = root().join("tests/fixtures/transformers/llama").display().to_string();
    let pieces = ["--batch-size", "8", "--micro-batch", "2", "--lora-dropout", "0.1", "--epochs", "3"];
    let all = ["finetune", "--model", &llama, "--train", "train.jsonl", "--text-column", "text", "--truncate"];
    all.iter().chain(&pieces).map(|&word| word.to_owned()).collect()
}

fn cases() -> Vec<Case> {
    let query = ["--query", "query.jsonl", "--format", "csv"];
    let attribute = |more: &[&str]| arguments("attribute", &[&query[..], more].concat());
    let methods = "hyperinf,datainf,identity,cosine,exact,lissa,shampoo,kfac,ekfac,hyperinf-authors";
    vec![
        ("attribute", attribute(&["--keep-gradients"])),
        ("every method", attribute(&["--method", methods])),
        ("merged", attribute(&["--structure", "merged"])),
        ("projected", attribute(&["--project", "2"])),
        ("an index", attribute(&["--index", "INDEX"])),
        ("tokens", attribute(&["--positions", "--normalise", "cosine"])),
        ("kept curvature", attribute(&["--index", "INDEX", "--method", "ekfac,shampoo"])),
        ("refined", attribute(&["--method", "ekfac,shampoo", "--refine", "2", "--refine-sample", "41"])),
        ("detect", arguments("detect", &["--validation", "query.jsonl", "--remove", "9"])),
        ("select", arguments("select", &["--validation", "query.jsonl", "--keep", "20"])),
        (
            "diverse",
            arguments("select", &["--validation", "query.jsonl", "--keep", "9", "--diverse", "--drop-duplicates=0.9"]),
        ),
        ("index", arguments("index", &["--leaf-batches", "4"])),
        ("finetune", tuning()),
        ("score", scoring(&["--method", "hyperinf"])),
        ("score exact", scoring(&["--method", "exact", "--normalise", "cosine", "--query-mode", "mean"])),
        ("score merged", scoring(&["--structure", "merged", "--normalise", "l-relatif"])),
        ("projections", scoring(&["--project", "2", "--uncertainty", "3", "--uncertainty-over", "projections"])),
    ]
}

/// From the gradients that the first case has kept.
fn scoring(more: &[&str]) -> Vec<String> {
    let gradients = ["train", "query"].map(|set| format!("attribute-alone/{set}_gradients.safetensors"));
    let all = ["score", "--train-gradients", &gradients[0], "--query-gradients", &gradients[1]];
    all.iter().chain(more).map(|&word| word.to_owned()).collect()
}

struct Place<'a> {
    mpi: &'a Mpi,
    binary: PathBuf,
    folder: PathBuf,
}

impl Place<'_> {
    /// A command that writes into a folder, by so many ranks; alone with none.
    fn command(&self, case: &Case, ranks: usize, out: &str) -> Command {
        let count = ranks.to_string();
        let launcher: Vec<&str> = match ranks {
            0 => Vec::new(),
            _ => self.mpi.launcher.iter().copied().chain(["-n", &count]).collect(),
        };
        self.launched(&launcher, case, out)
    }

    /// The same by a launcher's words.
    fn launched(&self, launcher: &[&str], case: &Case, out: &str) -> Command {
        let mut command = match launcher {
            [] => Command::new(&self.binary),
            [first, others @ ..] => {
                let mut command = Command::new(first);
                command.args(others).arg(&self.binary);
                command
            }
        };
        let index = format!("{out}-index");
        let args = case.1.iter().map(|word| if word == "INDEX" { index.as_str() } else { word });
        command.args(args).current_dir(&self.folder);
        match case.1[0].as_str() {
            "score" => {
                let _ = fs::create_dir_all(self.folder.join(out));
                command.args(["--output", &format!("{out}/scores.csv")])
            }
            _ => command.args(["--out", out]),
        };
        // One thread for each rank: the same bits whatever their number, and no more of them than cores.
        command.env("RAYON_NUM_THREADS", "1").stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn run(&self, case: &Case, ranks: usize, out: &str) -> Result<f64, String> {
        self.finished(self.command(case, ranks, out), case, ranks)
    }

    /// The seconds of a command that must succeed.
    fn finished(&self, mut command: Command, case: &Case, ranks: usize) -> Result<f64, String> {
        let began = Instant::now();
        let done = command.output().map_err(|e| format!("{}: {e}", self.mpi.name))?;
        let (name, message) = (case.0, String::from_utf8_lossy(&done.stderr).into_owned());
        if done.status.success() {
            return Ok(began.elapsed().as_secs_f64());
        }
        Err(format!("{}, {name}, {ranks} ranks ended with {}: {message}", self.mpi.name, done.status))
    }

    /// Ranks in separate network namespaces write the files of the program alone.
    fn across(&self, namespaces: &Namespaces) -> Result<(), String> {
        for case in cases().iter().filter(|case| ["attribute", "every method", "detect"].contains(&case.0)) {
            let name = case.0.replace(' ', "-");
            for ranks in [2, 4] {
                let (words, out) = (namespaces.launcher(self.mpi.name, ranks), format!("{name}-across-{ranks}"));
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.finished(self.launched(&words, case, &out), case, ranks)?;
                self.same(case, &format!("{name}-alone"), &out)?;
            }
        }
        println!("{:8} 2 and 4 ranks in two network namespaces: the same files", self.mpi.name);
        Ok(())
    }

    /// The files of a folder and its folders.
    fn contents(&self, out: &str) -> Result<BTreeMap<PathBuf, Vec<u8>>, String> {
        let (mut found, mut folders) = (BTreeMap::new(), vec![self.folder.join(out)]);
        while let Some(folder) = folders.pop() {
            let failed = |e| format!("cannot read {}: {e}", folder.display());
            for entry in fs::read_dir(&folder).map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if !name.ends_with(TIMES) && !name.ends_with("run.toml") {
                    let bytes = fs::read(&path).map_err(failed)?;
                    found.insert(path.strip_prefix(self.folder.join(out)).unwrap_or(&path).to_owned(), bytes);
                }
            }
        }
        Ok(found)
    }

    fn same(&self, case: &Case, alone: &str, out: &str) -> Result<(), String> {
        let (alone, found) = (self.contents(alone)?, self.contents(out)?);
        let names = |all: &BTreeMap<PathBuf, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
        if names(&alone) != names(&found) {
            return Err(format!("{}: {out} has {:?}, not {:?}", case.0, names(&found), names(&alone)));
        }
        match alone.iter().find(|(name, bytes)| found[*name] != **bytes) {
            Some((name, _)) => Err(format!("{}, {}: {} differs in {out}", self.mpi.name, case.0, name.display())),
            None => Ok(()),
        }
    }

    /// All numbers of ranks write the files of the program alone.
    fn equal(&self, case: &Case) -> Result<(), String> {
        let name = case.0.replace(' ', "-");
        let alone = format!("{name}-alone");
        let mut seconds = vec![self.run(case, 0, &alone)?];
        for ranks in RANKS {
            let out = format!("{name}-{ranks}");
            seconds.push(self.run(case, ranks, &out)?);
            self.same(case, &alone, &out)?;
        }
        let files = self.contents(&alone)?.len();
        let seconds: Vec<String> = seconds.iter().map(|s| format!("{s:.1}")).collect();
        println!(
            "{:8} {:13} {files:2} files equal; alone and 1–4 ranks: {} s",
            self.mpi.name,
            case.0,
            seconds.join(", ")
        );
        Ok(())
    }

    /// A random rank is killed at a random moment: no process stays, and another number of ranks goes on.
    fn kills(&self) -> Result<(), String> {
        rows(&self.folder.join("train.jsonl"), 600)?;
        let case = &("killed", arguments("attribute", &["--query", "query.jsonl", "--format", "csv"]));
        let time = self.run(case, 0, "killed-alone")?;
        let (mut state, mut killed) = (0x9e37_79b9_u64, 0);
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for kill in 0..6 * KILLS {
            if killed == KILLS {
                break;
            }
            let (ranks, out) = (2 + kill % 3, format!("killed-{}", kill / 5));
            let mut child = self.command(case, ranks, &out).stderr(Stdio::null()).spawn().map_err(|e| e.to_string())?;
            sleep(Duration::from_secs_f64(time * (0.1 + random(70) as f64 / 100.0)));
            let pids = self.processes()?;
            if let Some(pid) = pids.get(random(ranks as u64) as usize) {
                let _ = output(program("kill").args(["-9", pid]));
                killed += 1;
            }
            ended(&mut child, Duration::from_secs(60))?;
            let began = Instant::now();
            while !self.processes()?.is_empty() {
                if began.elapsed() > Duration::from_secs(5) {
                    return Err(format!("{}: processes are left: {:?}", self.mpi.name, self.processes()?));
                }
                sleep(Duration::from_millis(50));
            }
            if kill % 5 == 4 {
                self.run(case, 1 + random(4) as usize, &out)?;
                self.same(case, "killed-alone", &out)?;
            }
        }
        if killed < KILLS {
            return Err(format!("{}: only {killed} ranks could be killed before their job ended", self.mpi.name));
        }
        println!("{:8} {killed} ranks killed at random moments: no process left, the same files", self.mpi.name);
        Ok(())
    }

    /// The processes of the program.
    fn processes(&self) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").map_err(|e| e.to_string())?.flatten() {
            // A process that has ended has no program any more.
            if fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == self.binary) {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(found)
    }
}

fn ended(child: &mut Child, most: Duration) -> Result<(), String> {
    let began = Instant::now();
    while child.try_wait().map_err(|e| e.to_string())?.is_none() {
        if began.elapsed() > most {
            let _ = child.kill();
            return Err("a job did not end although a rank was killed".into());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
