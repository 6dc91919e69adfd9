//! libFuzzer on one reader, which the environment variable `HYPERINF_READER` names. Without it, the names of all
//! readers are printed. `HYPERINF_CORPUS` is the folder into which the reader's seeds are copied.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use hyperinf_tests::devices;
use hyperinf_tests::readers::{READERS, Reader, Scratch, panics_are_errors, reader};
use libfuzzer_sys::fuzz_target;

static READER: OnceLock<&'static Reader> = OnceLock::new();

thread_local! {
    /// Inputs are read in a folder of this process, in memory where the system has such a place.
    static FOLDER: tempfile::TempDir = {
        let memory = PathBuf::from("/dev/shm");
        let place = if memory.is_dir() { memory } else { std::env::temp_dir() };
        tempfile::tempdir_in(place).expect("the system has room for small files")
    };
}

fuzz_target!(
    init: prepare(),
    |bytes: &[u8]| {
        let (_, device) = devices().swap_remove(0);
        let reader = READER.get().expect("`prepare` has run");
        FOLDER.with(|folder| {
            let scratch = Scratch::new(folder.path().to_owned());
            reader.read(&scratch, bytes, &device).expect("the scratch folder can be written");
        });
    }
);

fn prepare() {
    let name = std::env::var("HYPERINF_READER").unwrap_or_default();
    let Some(found) = reader(&name) else {
        for reader in READERS {
            println!("{}", reader.name);
        }
        std::process::exit(i32::from(!name.is_empty()));
    };
    // The fuzzer's hook aborts, even where a panic of another library is caught and becomes an error.
    let aborts = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !panics_are_errors() {
            aborts(info);
        }
    }));
    READER.get_or_init(|| found);
    let Some(corpus) = std::env::var_os("HYPERINF_CORPUS").map(PathBuf::from) else { return };
    for (k, seed) in found.seeds().expect("the seeds can be read").iter().enumerate() {
        fs::copy(seed, corpus.join(format!("seed-{k}"))).expect("the corpus can be written");
    }
}
