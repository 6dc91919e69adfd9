//! Ranks after an error, with other rows than agreed on, and with a card each.

use std::fs;
use std::path::Path;
use std::thread::scope;

use burn::tensor::Device;
use hyperinf::data::{Crew, DEADLINE, Event, Run, RunError, Stop};
use hyperinf::scoring::{TeamError, Threads};
use hyperinf_tests::{devices, fixtures};

fn run_in(folder: &Path, name: &str, rows: usize) -> Run {
    let row = |i: usize| format!("{{\"text\": \"the fox {}\", \"label\": {}}}\n", "rests ".repeat(i % 4), i % 3);
    let train = folder.join(name);
    fs::write(&train, (0..rows).map(row).collect::<String>()).expect("the folder can be written");
    let model = fixtures::path("transformers/bert");
    Run {
        model: model.display().to_string(),
        adapter: Some(model.join("query_value")),
        train: train.clone(),
        query: train,
        batch_size: 2,
        out: folder.join("out"),
        ..Run::default()
    }
}

/// Two ranks of two runs; the second one only helps.
fn together<T>(leader: &Run, helper: &Run, device: &Device, lead: impl FnOnce(&Run) -> T) -> T {
    let mut team = Threads::team(2);
    let with = |run: &Run, team| Run { crew: Some(Crew::new(Box::new(team), DEADLINE)), ..run.clone() };
    let (helper, leader) = (with(helper, team.remove(1)), with(leader, team.remove(0)));
    scope(move |scope| {
        scope.spawn(move || drop(Run::assist(&[helper], &[], device)));
        // The helper ends with the leader, also where that panics.
        let leader = leader;
        lead(&leader)
    })
}

fn scores(run: &Run, device: &Device) -> Result<Vec<Vec<f64>>, Box<RunError>> {
    let found = run.attribute(device, &mut |_| ())?;
    let scores = found.attribution.scores.rows.clone();
    found.discard_gradients()?;
    Ok(scores)
}

/// What a rank has sent for work that failed must not be taken for what comes next.
#[test]
fn a_crew_takes_no_work_after_an_error() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let run = run_in(folder.path(), "train.jsonl", 13);
    together(&run, &run, &device, |leader| {
        let stop = Stop::default();
        let leader = &Run { stop: stop.clone(), ..leader.clone() };
        let mut stop_soon = |event: Event| {
            if matches!(event, Event::Progress(_)) {
                stop.request();
            }
        };
        let stopped = leader.attribute(&device, &mut stop_soon).err().map(Box::new);
        assert!(matches!(stopped.as_deref(), Some(RunError::Stopped { .. })), "{stopped:?}");
        let again = scores(&Run { stop: Stop::default(), ..leader.clone() }, &device);
        let again = again.map_err(|error| *error);
        assert!(matches!(again, Err(RunError::Team(TeamError::OutOfStep))), "{again:?}");
    });
    // Without ranks the same run goes on.
    scores(&run, &device).expect("rows can be scored");
}

/// The others know the rows that were agreed on, and no others.
#[test]
fn a_crew_keeps_to_what_it_agreed_on() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let run = run_in(folder.path(), "train.jsonl", 7);
    let other = Run { out: folder.path().join("other"), ..run_in(folder.path(), "other.jsonl", 9) };
    together(&run, &run, &device, |leader| {
        scores(leader, &device).expect("rows can be scored");
        let found = scores(&Run { crew: leader.crew.clone(), ..other }, &device).map_err(|error| *error);
        match found {
            Err(RunError::Team(TeamError::Differs { rank: 0, what, .. })) => {
                assert!(what.starts_with("content of "), "{what}");
            }
            other => panic!("{other:?}"),
        }
    });
}

/// Cards of one kind have numbers; devices of another kind compute other bits.
#[test]
fn each_rank_may_have_a_card_of_its_own() {
    let (_, device) = devices().remove(0);
    let folder = tempfile::tempdir().expect("the system has room for tests");
    let run = run_in(folder.path(), "train.jsonl", 7);
    let named = |name: &str| Run { device_name: name.to_owned(), ..run.clone() };
    let expected = scores(&named("cuda:0"), &device).expect("rows can be scored");
    let found = together(&named("cuda:0"), &named("cuda:1"), &device, |leader| scores(leader, &device));
    assert_eq!(found.expect("rows can be scored"), expected);
    let found = together(&named("cuda:0"), &named("rocm:0"), &device, |leader| scores(leader, &device));
    match found.map_err(|error| *error) {
        Err(RunError::Team(TeamError::Differs { rank: 1, what, .. })) => assert_eq!(what, "device"),
        other => panic!("{other:?}"),
    }
}
