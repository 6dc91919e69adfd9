//! Runs the program on files made for a test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, serialize};
use tempfile::TempDir;

/// The exit code and output of a run.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program in a folder.
pub fn hyperinf(folder: &Path, args: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("the program was built with the tests");
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The names of the devices that the tests run on.
pub fn device_names() -> Vec<String> {
    hyperinf_tests::devices().into_iter().map(|(name, _)| name).collect()
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// An F32 tensor.
pub fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { name: name.into(), dtype: Dtype::F32, shape: shape.into(), bytes }
}

/// Small whole numbers, which all float types hold exactly, of no pattern.
pub fn whole(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as f32 % 17.0 - 8.0
    };
    (0..count).map(|_| next()).collect()
}

/// A folder with gradients in it, removed at the end.
pub struct Folder {
    folder: TempDir,
}

impl Folder {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("the system has room for tests") }
    }

    /// Runs the program here and kills it once `ready`, unless it has ended before.
    pub fn kill_once(&self, args: &[&str], ready: impl Fn() -> bool) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hyperinf"))
            .args(args)
            .current_dir(self.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program was built with the tests");
        while !ready() && child.try_wait().expect("it was started").is_none() {
            sleep(Duration::from_millis(1));
        }
        child.kill().expect("it runs, or has ended");
        child.wait().expect("it was started");
    }

    /// With `train.safetensors` of 6 samples and `query.safetensors` of 3, of the blocks `a` 2 × 5 and `b` 3 × 4.
    pub fn with_gradients() -> Self {
        let folder = Self::new();
        for (file, n, seed) in [("train.safetensors", 6, 1), ("query.safetensors", 3, 2)] {
            let blocks =
                [f32s("a", &[n, 2, 5], &whole(n * 10, seed)), f32s("b", &[n, 3, 4], &whole(n * 12, seed + 10))];
            folder.write(file, &blocks);
        }
        folder
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn write(&self, name: &str, tensors: &[Tensor]) {
        let views = tensors.iter().map(|t| {
            let view = TensorView::new(t.dtype, t.shape.clone(), &t.bytes).expect("the bytes fit the shape");
            (t.name.clone(), view)
        });
        self.write_bytes(name, &serialize(views, None).expect("tensors in memory can be written"));
    }

    pub fn write_bytes(&self, name: &str, bytes: &[u8]) {
        fs::write(self.file(name), bytes).expect("the folder can be written");
    }

    /// The names of all files, sorted; those that begin with a dot too. Configurations of results that are files are left
    /// out.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("the folder is there");
        let mut names: Vec<String> = entries
            .map(|e| e.expect("the folder can be read").file_name().into_string().expect("names are UTF-8"))
            .collect();
        names.retain(|name| !name.ends_with(".run.toml"));
        names.sort();
        names
    }

    /// `hyperinf score` on `train.safetensors` and `query.safetensors` with further arguments.
    pub fn score(&self, args: &[&str]) -> Run {
        let inputs = ["score", "--train-gradients", "train.safetensors", "--query-gradients", "query.safetensors"];
        hyperinf(self.path(), &[&inputs[..], args].concat())
    }

    /// The rows of scores of a run that must succeed.
    pub fn scores(&self, args: &[&str]) -> Vec<Vec<f64>> {
        let run = self.score(&[args, &["--output", "scores.safetensors"]].concat());
        assert_eq!(run.code, Some(0), "{args:?}: {run:?}");
        read_scores(&self.file("scores.safetensors"))
    }
}

/// The tensor `scores` of a file, by rows.
pub fn read_scores(path: &Path) -> Vec<Vec<f64>> {
    let bytes = fs::read(path).expect("the program wrote it");
    let file = SafeTensors::deserialize(&bytes).expect("the program writes safetensors");
    let view = file.tensor("scores").expect("the tensor has this name");
    assert_eq!(view.dtype(), Dtype::F32);
    let [_, n] = view.shape()[..] else { panic!("scores have two dimensions, not {:?}", view.shape()) };
    let values: Vec<f64> = view.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
    values.chunks(n).map(<[f64]>::to_vec).collect()
}

/// The rows of a CSV file, each by the names of its columns.
pub fn csv_rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).expect("the program wrote it");
    reader.deserialize().map(|row| row.expect("the program writes whole rows")).collect()
}

/// A cell as a number; `None` for an empty one.
pub fn number(row: &BTreeMap<String, String>, column: &str) -> Option<f64> {
    let cell = row.get(column).unwrap_or_else(|| panic!("no column {column} in {row:?}"));
    (!cell.is_empty()).then(|| cell.parse().unwrap_or_else(|_| panic!("{column} is {cell:?}")))
}

/// Fails unless the file is a whole PNG of more than one colour.
pub fn check_png(path: &Path) {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "{} is no PNG", path.display());
    assert!(bytes.ends_with(b"IEND\xaeB`\x82"), "{} ends early", path.display());
    assert!(bytes.len() > 5_000, "{} has {} bytes: nothing is drawn", path.display(), bytes.len());
}
