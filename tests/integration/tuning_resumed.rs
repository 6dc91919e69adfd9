//! A fine-tuning that ends at a known moment resumes to the files of an undisturbed run, or says what it lacks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use hyperinf::data::{Event, Finetune, Notice, Recipe, RunError, Stage};
use hyperinf::models::{LoraConfig, ModelError};
use hyperinf_tests::{devices, fixtures};
use tempfile::TempDir;

/// Steps of a training of three epochs over eight rows, two at a time.
const STEPS: usize = 12;
const PART: &str = ".training_log.jsonl.part";

fn device() -> Device {
    devices().swap_remove(0).1
}

fn tuning(out: &Path) -> Finetune {
    Finetune {
        model: fixtures::path("transformers/llama").to_str().expect("paths of tests are UTF-8").to_owned(),
        train: out.with_file_name("train.jsonl"),
        out: out.to_owned(),
        recipe: Recipe { epochs: Some(3), batch_size: Some(2), ..Recipe::default() },
        checkpoint_every: Some(2),
        resume: true,
        ..Finetune::default()
    }
}

fn run(tuning: &Finetune, observe: &mut dyn FnMut(Event)) {
    tuning.run(&device(), observe).unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path());
    let files = entries.filter(|path| path.is_file());
    files
        .map(|path| (path.file_name().expect("a name").to_string_lossy().into(), fs::read(path).expect("readable")))
        .collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("the folder is there") {
        let path = entry.expect("readable").path();
        let copied = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &copied) } else { fs::copy(&path, copied).map(drop).expect("writable") }
    }
}

/// A folder with the rows, a whole training in `whole`, and in `killed` what is there after that many steps: after all
/// of them, while the trained model is measured.
fn killed(steps: usize) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = ["the fox", "a river", "old snow", "the hill"]
        .map(|text| format!("{{\"prompt\": \"Where is {text}?\", \"completion\": \" {text} is cold.\"}}\n"));
    fs::write(folder.path().join("train.jsonl"), rows.concat().repeat(2)).expect("writable");
    let whole = folder.path().join("whole");
    let mut last = 0;
    run(&tuning(&whole), &mut |event| {
        let Event::Progress(at) = event else { return };
        let reached = if at.stage == Stage::Finetuning { at.done } else { last };
        if reached == steps && (at.stage == Stage::Finetuning) == (steps < STEPS) {
            copy(&whole, &folder.path().join("killed"));
        }
        last = last.max(reached);
    });
    folder
}

/// Resumes, and returns the notices.
fn resumed(folder: &TempDir) -> Vec<Notice> {
    let mut notices = Vec::new();
    run(&tuning(&folder.path().join("killed")), &mut |event| {
        if let Event::Notice(notice) = event {
            notices.push(notice);
        }
    });
    notices
}

fn lost(notices: &[Notice]) -> Vec<usize> {
    notices
        .iter()
        .filter_map(|notice| if let Notice::LostLog { steps, .. } = notice { Some(*steps) } else { None })
        .collect()
}

#[test]
fn a_training_that_ended_at_any_step_ends_as_an_undisturbed_one() {
    for steps in [1, 2, 7, STEPS - 1, STEPS] {
        let folder = killed(steps);
        let notices = resumed(&folder);
        assert_eq!(lost(&notices), [0_usize; 0], "{steps}: {notices:?}");
        let [whole, killed] = ["whole", "killed"].map(|name| contents(&folder.path().join(name)));
        assert_eq!(whole.keys().collect::<Vec<_>>(), killed.keys().collect::<Vec<_>>(), "{steps}");
        assert_eq!(whole["training_log.jsonl"].iter().filter(|&&byte| byte == b'\n').count(), STEPS);
        whole.iter().for_each(|(name, bytes)| assert!(killed[name] == *bytes, "{steps}: {name}"));
        assert!(!folder.path().join("killed/checkpoints").exists(), "{steps}");
    }
}

#[test]
fn a_damaged_line_of_the_log_is_left_out_and_told() {
    let folder = killed(7);
    let pristine = folder.path().join("pristine");
    copy(&folder.path().join("killed"), &pristine);
    let log = fs::read(pristine.join(PART)).expect("it is there");
    let first = log.iter().position(|&byte| byte == b'\n').expect("a line") + 1;
    // (what is left of the log, lines lost before the checkpoint of step 6)
    let mut cases = vec![(Vec::new(), 6), (log[..first].to_vec(), 5), (log[first..].to_vec(), 1)];
    for place in (0..first - 1).step_by(17) {
        for bit in [1, 32] {
            let mut changed = log.clone();
            changed[place] ^= bit;
            cases.push((changed, 1));
        }
    }
    for (number, (changed, expected)) in cases.into_iter().enumerate() {
        let killed = folder.path().join("killed");
        fs::remove_dir_all(&killed).expect("writable");
        copy(&pristine, &killed);
        fs::write(killed.join(PART), changed).expect("writable");
        assert_eq!(lost(&resumed(&folder)), [expected], "{number}");
        let [whole, found] = ["whole", "killed"].map(|name| contents(&folder.path().join(name)));
        for (name, bytes) in whole.iter().filter(|(name, _)| *name != "training_log.jsonl") {
            assert!(found[name] == *bytes, "{number}: {name}");
        }
        let whole: Vec<&[u8]> = whole["training_log.jsonl"].split(|&byte| byte == b'\n').collect();
        let lines: Vec<&[u8]> = found["training_log.jsonl"].split(|&byte| byte == b'\n').collect();
        assert_eq!(lines.len() + expected, whole.len(), "{number}");
        assert!(lines.iter().all(|line| whole.contains(line)), "{number}: a line is not that of the training");
    }
}

type Change = fn(&mut Finetune);

#[test]
fn a_training_with_another_setting_is_another_training() {
    let changes: [(&str, Change); 12] = [
        ("batch_size", |run| run.recipe.batch_size = Some(4)),
        ("epochs", |run| run.recipe.epochs = Some(4)),
        ("learning_rate", |run| run.recipe.learning_rate = Some(0.5)),
        ("warmup", |run| run.recipe.warmup = 0.5),
        ("weight_decay", |run| run.recipe.weight_decay = 0.5),
        ("by_length", |run| run.recipe.by_length = !run.recipe.by_length),
        ("seed", |run| run.recipe.seed = 9),
        ("micro_batch", |run| run.micro_batch = Some(1)),
        ("lora rank", |run| run.lora = LoraConfig { rank: 2, ..LoraConfig::default() }),
        ("lora targets", |run| run.targets = vec!["q_proj".to_owned()]),
        ("maximum length", |run| run.length.max = Some(30)),
        ("training samples", |run| {
            let rows = fs::read_to_string(&run.train).expect("it is there");
            run.train = run.train.with_file_name("other.jsonl");
            fs::write(&run.train, rows.replace("cold", "slow")).expect("writable");
        }),
    ];
    for steps in [7, STEPS] {
        let folder = killed(steps);
        let out = folder.path().join("killed");
        for (named, change) in &changes {
            let mut other = tuning(&out);
            change(&mut other);
            let error = other.run(&device(), &mut |_| ()).expect_err("another training");
            let RunError::Model(ModelError::CheckpointDiffers { differences, .. }) = &error else {
                panic!("{error:?}")
            };
            assert!(differences.iter().any(|difference| difference.what == *named), "{named}: {differences:?}");
        }
        // Nothing was lost.
        assert!(resumed(&folder).iter().any(|notice| matches!(notice, Notice::ResumedTraining { .. })));
        // An adapter that is there is that of the same training only.
        for (named, change) in &changes {
            let mut other = tuning(&out);
            change(&mut other);
            let error = other.run(&device(), &mut |_| ()).expect_err("another training");
            assert!(matches!(error, RunError::Exists { .. }), "{named}: {error:?}");
        }
    }
}

#[test]
fn files_among_the_checkpoints_that_are_none_stay() {
    let folder = killed(7);
    let checkpoints = folder.path().join("killed/checkpoints");
    fs::write(checkpoints.join("notes.txt"), "mine").expect("writable");
    fs::write(checkpoints.join(".step-00000009.safetensors.1.partial"), "half").expect("writable");
    fs::write(checkpoints.join("step-00000009.damaged"), "broken").expect("writable");
    resumed(&folder);
    assert!(!folder.path().join("killed").join(PART).exists());
    assert_eq!(contents(&checkpoints), BTreeMap::from([("notes.txt".to_owned(), b"mine".to_vec())]));
}
