use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use hyperinf_gradients::Block;
use hyperinf_store::{GradientFile, GradientWriter, Restart, RunKey};

const NAME: &str = "train.safetensors";
const PART: &str = ".train.safetensors.part";
const JOURNAL: &str = ".train.safetensors.journal";
const RECORD: &str = ".train.safetensors.done";
const SAMPLES: usize = 6;
/// The batches of an undisturbed run.
const PLAN: [[usize; 2]; 3] = [[5, 0], [3, 1], [2, 4]];

fn blocks() -> [Block; 2] {
    [Block::new("a", 1, 2), Block::new("b", 1, 1)]
}

fn key() -> RunKey {
    RunKey::from([("model", "m"), ("batch size", "2")])
}

fn open_with(folder: &Path, key: &RunKey) -> std::io::Result<GradientWriter> {
    GradientWriter::open(folder, NAME, key, SAMPLES, &blocks())
}

fn open(folder: &Path) -> GradientWriter {
    open_with(folder, &key()).expect("the folder can be written")
}

/// Writes the gradients of a batch, which follow from its samples.
fn write(writer: &mut GradientWriter, batch: &[usize]) {
    let number = |sample: usize, at: usize| (10 * sample + at) as f32 / 7.0 + 1.0;
    let a = batch.iter().flat_map(|&sample| [number(sample, 0), number(sample, 1)]).collect();
    let b = batch.iter().map(|&sample| number(sample, 2)).collect();
    // A loss whose decimal text is long.
    let losses: Vec<f64> = batch.iter().map(|&sample| f64::from(number(sample, 3)) / 3.0).collect();
    writer.write(batch, &losses, &[a, b]).expect("written");
}

/// Ends a run; its file with the record of its batches, its losses, and what was found.
fn finish(mut writer: GradientWriter) -> (Vec<u8>, Vec<Option<f64>>, hyperinf_store::Resumption) {
    for batch in PLAN {
        if !writer.has_batch(&batch) {
            write(&mut writer, &batch);
        }
    }
    let (losses, found) = (writer.losses().to_vec(), writer.found().clone());
    let path = writer.path().with_file_name(NAME);
    writer.place(&path).expect("it is whole");
    let files = [path.with_file_name(RECORD), path].map(|path| fs::read(path).expect("it was placed"));
    (files.concat(), losses, found)
}

fn undisturbed() -> (Vec<u8>, Vec<Option<f64>>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (bytes, losses, _) = finish(open(folder.path()));
    (bytes, losses)
}

/// What happened to the files of an interrupted run, by their contents.
type Damage = fn(&mut Vec<u8>, &mut Vec<u8>);

/// After this happened to the whole of an interrupted run's files, a run ends as an undisturbed one, and computes at
/// least `again` batches of the three.
#[track_caller]
fn check(name: &str, again: usize, damage: Damage) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut writer = open(folder.path());
    PLAN.iter().for_each(|batch| write(&mut writer, batch));
    drop(writer);
    let files = [PART, JOURNAL].map(|name| folder.path().join(name));
    let [mut part, mut journal] = files.each_ref().map(|file| fs::read(file).expect("it is there"));
    damage(&mut part, &mut journal);
    fs::write(&files[0], part).expect("writable");
    fs::write(&files[1], journal).expect("writable");
    let (bytes, losses, found) = finish(open(folder.path()));
    let (expected, expected_losses) = undisturbed();
    assert!(bytes == expected, "{name}: other bytes");
    assert_eq!(losses, expected_losses, "{name}");
    let taken = found.samples / 2;
    assert!(taken <= PLAN.len() - again, "{name}: {taken} batches were trusted: {found:?}");
    if again > 0 && !name.starts_with("cut") {
        assert!(found.damaged > 0 || found.restarted.is_some(), "{name}: not reported: {found:?}");
    }
}

fn lines(journal: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(journal).lines().map(|line| format!("{line}\n")).collect()
}

fn replaced(journal: &mut Vec<u8>, line: usize, change: impl FnOnce(&str) -> String) {
    let mut all = lines(journal);
    all[line] = change(&all[line]);
    *journal = all.concat().into_bytes();
}

fn flip(bytes: &mut [u8], at: usize) {
    bytes[at] ^= 0x40;
}

#[test]
fn damaged_numbers_are_computed_again() {
    check("nothing", 0, |_, _| {});
    check("the last bit", 1, |part, _| {
        let last = part.len() - 1;
        flip(part, last);
    });
    check("the first number", 1, |part, _| {
        let header = u64::from_le_bytes(part[..8].try_into().expect("eight bytes")) as usize;
        flip(part, 8 + header);
    });
    check("every number", 3, |part, _| {
        let begin = part.len() - 4 * 3 * SAMPLES;
        part[begin..].iter_mut().step_by(4).for_each(|byte| *byte ^= 1);
    });
    check("zeros", 3, |part, _| {
        let begin = part.len() - 4 * 3 * SAMPLES;
        part[begin..].fill(0);
    });
    check("truncated", 3, |part, _| part.truncate(part.len() - 4 * SAMPLES));
    check("cut short by a number", 1, |part, _| part.truncate(part.len() - 4));
    check("empty", 3, |part, _| part.clear());
    check("longer", 0, |part, _| part.extend([7; 100]));
}

#[test]
fn a_damaged_header_heals() {
    for at in [0, 7, 8, 9, 40] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut writer = open(folder.path());
        write(&mut writer, &PLAN[0]);
        drop(writer);
        let path = folder.path().join(PART);
        let mut part = fs::read(&path).expect("it is there");
        flip(&mut part, at);
        fs::write(&path, part).expect("writable");
        let (bytes, _, found) = finish(open(folder.path()));
        assert!(bytes == undisturbed().0, "byte {at}");
        assert!(found.header && found.samples == 2, "byte {at}: {found:?}");
    }
}

#[test]
fn a_journal_that_claims_what_is_not_there_is_not_believed() {
    check("another sample", 1, |_, journal| replaced(journal, 1, |line| line.replacen("[5,0]", "[4,0]", 1)));
    check("the samples in another order", 1, |_, journal| {
        replaced(journal, 1, |line| line.replacen("[5,0]", "[0,5]", 1));
    });
    check("a sample twice", 1, |_, journal| replaced(journal, 1, |line| line.replacen("[5,0]", "[5,5]", 1)));
    check("a sample that does not exist", 1, |_, journal| {
        replaced(journal, 1, |line| line.replacen("[5,0]", "[5,60]", 1));
    });
    check("a sample too few", 1, |_, journal| replaced(journal, 1, |line| line.replacen("[5,0]", "[5]", 1)));
    check("another loss", 1, |_, journal| {
        replaced(journal, 2, |line| {
            let mut done: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
            let bits = done["losses"][0].as_u64().expect("bits");
            done["losses"][0] = (bits ^ 1).into();
            format!("{done}\n")
        });
    });
    check("another hash", 1, |_, journal| {
        replaced(journal, 3, |line| line.replace("\"xxh3_128\":\"", "\"xxh3_128\":\"0"));
    });
    check("no hashes", 3, |_, journal| {
        for line in 1..4 {
            replaced(journal, line, |line| line.replace("xxh3_128", "md5"));
        }
    });
    check("lines in another order", 0, |_, journal| {
        let all = lines(journal);
        *journal = [&all[0], &all[3], &all[1], &all[2]].map(String::as_str).concat().into_bytes();
    });
    check("a line twice", 0, |_, journal| {
        let all = lines(journal);
        *journal = [all.concat(), all[2].clone()].concat().into_bytes();
    });
    check("cut: a line missing", 1, |_, journal| {
        let all = lines(journal);
        *journal = [&all[0], &all[1], &all[3]].map(String::as_str).concat().into_bytes();
    });
    check("cut in the middle of a line", 1, |_, journal| journal.truncate(journal.len() - 9));
    check("garbage in the middle", 1, |_, journal| {
        let all = lines(journal);
        *journal = [all[..2].concat().as_bytes(), b"\xff\0 garbage\n", all[3].as_bytes()].concat();
    });
    check("cut: zeros at the end", 1, |_, journal| {
        let whole = journal.len() - 30;
        journal[whole..].fill(0);
    });
    check("a beginning that cannot be read", 3, |_, journal| flip(journal, 0));
    check("another format", 3, |_, journal| {
        replaced(journal, 0, |line| line.replace("\"format\":2", "\"format\":1"));
    });
    check("cut: empty", 3, |_, journal| journal.clear());
    check("a journal without hashes, as of earlier versions", 3, |_, journal| {
        *journal = b"{\"key\":\"k\",\"samples\":6,\"blocks\":[]}\n{\"samples\":[5,0],\"losses\":[0.5,0.5]}\n".to_vec();
    });
}

#[test]
fn another_run_is_told_by_what_differs() {
    let differing = [
        (RunKey::from([("model", "n"), ("batch size", "2")]), "model was m, is n"),
        (RunKey::from([("model", "m"), ("batch size", "3")]), "batch size was 2, is 3"),
        (RunKey::from([("model", "m")]), "batch size was 2, is absent"),
        (RunKey::from([("model", "m"), ("batch size", "2"), ("device", "d")]), "device was absent, is d"),
    ];
    for (other, expected) in differing {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut writer = open(folder.path());
        write(&mut writer, &PLAN[0]);
        drop(writer);
        let writer = open_with(folder.path(), &other).expect("the folder can be written");
        let Some(Restart::Differs(differences)) = &writer.found().restarted else { panic!("{:?}", writer.found()) };
        let told: Vec<String> = differences.iter().map(ToString::to_string).collect();
        assert_eq!(told, [expected]);
        assert!(!writer.has(5) && writer.found().samples == 0);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    drop(open(folder.path()));
    let others =
        [("rows was 6, is 5", 5, blocks().to_vec()), ("blocks was 2 blocks, is 1 blocks", 6, blocks()[..1].to_vec())];
    for (expected, samples, blocks) in others {
        let writer = GradientWriter::open(folder.path(), NAME, &key(), samples, &blocks).expect("writable");
        let Some(Restart::Differs(differences)) = &writer.found().restarted else { panic!("{:?}", writer.found()) };
        assert_eq!(differences[0].to_string(), expected);
        drop(writer);
        drop(open(folder.path()));
    }
}

#[test]
fn a_placed_file_is_found_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (bytes, losses, _) = finish(open(folder.path()));
    let again = open(folder.path());
    assert_eq!((again.losses(), again.path()), (&losses[..], &*folder.path().join(NAME)));
    again.discard().expect("nothing is removed");
    assert!(bytes.ends_with(&fs::read(folder.path().join(NAME)).expect("it stays")));
    // Of another run, or damaged: computed next to it, and put in its place.
    let other = RunKey::from([("model", "n")]);
    assert!(!open_with(folder.path(), &other).expect("writable").has(0));
    let mut damaged = fs::read(folder.path().join(NAME)).expect("it stays");
    let last = damaged.len() - 1;
    flip(&mut damaged, last);
    fs::write(folder.path().join(NAME), damaged).expect("writable");
    assert!(finish(open(folder.path())).0 == bytes);
}

#[test]
#[cfg(unix)]
fn what_is_not_a_run_s_own_file_is_never_written() {
    use std::os::unix::fs::symlink;

    let precious = b"precious";
    type Link = fn(&Path, &Path);
    let links: [(&str, Link); 5] = [
        ("a link", |victim, name| symlink(victim, name).expect("linked")),
        ("a relative link", |_, name| symlink("victim", name).expect("linked")),
        ("a link to nothing", |_, name| symlink("absent", name).expect("linked")),
        ("a hard link", |victim, name| fs::hard_link(victim, name).expect("linked")),
        ("a folder", |_, name| fs::create_dir(name).expect("created")),
    ];
    for (what, link) in links {
        for name in [PART, JOURNAL] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let victim = folder.path().join("victim");
            fs::write(&victim, precious).expect("writable");
            link(&victim, &folder.path().join(name));
            let Err(error) = open_with(folder.path(), &key()) else { panic!("{what} at {name} was opened") };
            assert!(error.to_string().contains("no run makes"), "{what} at {name}: {error}");
            assert_eq!(fs::read(&victim).expect("it is there"), precious, "{what} at {name}");
            assert!(!folder.path().join("absent").exists(), "{what} at {name}");
        }
    }
}

#[test]
fn a_file_with_samples_missing_is_not_placed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join(NAME);
    let mut writer = open(folder.path());
    write(&mut writer, &PLAN[1]);
    let error = writer.place(&path).expect_err("the others would read as zeros");
    assert!(error.to_string().contains("4 of 6 samples"), "{error}");
    assert!(!path.exists());

    let resumed = open(folder.path());
    assert!(resumed.has(1) && !resumed.has(0));
    finish(resumed);
    assert_eq!(GradientFile::open(&path).expect("gradients").samples(), SAMPLES);
}

#[test]
fn a_sample_too_many_overwrites_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut writer = open(folder.path());
    PLAN.iter().for_each(|batch| write(&mut writer, batch));
    let before = fs::read(writer.path()).expect("the hidden file");
    for (sample, second) in [(SAMPLES, vec![9.0]), (0, vec![9.0; 2])] {
        let write = || writer.write(&[sample], &[0.0], &[vec![9.0; 2], second]);
        assert!(catch_unwind(AssertUnwindSafe(write)).is_err(), "sample {sample}");
    }
    assert_eq!(fs::read(writer.path()).expect("the hidden file"), before);
}

/// Batches may be done in any order: of several ranks, or after damage.
#[test]
fn the_order_of_batches_is_no_part_of_the_files() {
    let expected = undisturbed().0;
    for order in [[2, 1, 0], [1, 0, 2]] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut writer = open(folder.path());
        order.iter().for_each(|&batch| write(&mut writer, &PLAN[batch]));
        // A batch twice counts once.
        write(&mut writer, &PLAN[1]);
        assert!(finish(writer).0 == expected, "{order:?}");
    }
}
