//! Rows of pairs, and runs over them.

use hyperinf::data::Content;

use super::*;

const ROWS: &str = r#"{"prompt": "Where is the boat?", "chosen": " On the river.", "rejected": " No."}
{"prompt": "Is the fox cold?", "chosen": " No.", "rejected": " was slow and weak."}
{"prompt": "The story", "chosen": " was slow and weak.", "rejected": " 7 pears"}
{"prompt": "She ate", "chosen": " 7 pears", "rejected": " On the river."}
{"prompt": "The fox", "chosen": " was weak.", "rejected": " 7 pears"}
{"prompt": "Where is the fox?", "chosen": " On the river.", "rejected": " No."}
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new(rows: &str) -> Self {
        let place = Self(tempfile::tempdir().expect("the system has room for tests"));
        fs::write(place.at("pairs.jsonl"), rows).expect("the folder can be written");
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self) -> Result<Dataset<Pair>, String> {
        let read = Dataset::<Pair>::read(Set::Train, &self.at("pairs.jsonl"), &ReadOptions::default());
        read.map_err(|error| {
            let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        })
    }

    fn finetune(&self, pairs: PairLoss, out: &str) -> Finetune {
        Finetune {
            model: folder().display().to_string(),
            train: self.at("pairs.jsonl"),
            out: self.at(out),
            pairs: Some(pairs),
            lora: LoraConfig { rank: 4, ..LoraConfig::default() },
            recipe: Recipe { epochs: Some(40), learning_rate: Some(0.02), batch_size: Some(6), ..Recipe::default() },
            stop: Stop::default(),
            ..Finetune::default()
        }
    }

    fn run(&self, pairs: PairLoss, adapter: &str) -> Run {
        Run {
            model: folder().display().to_string(),
            adapter: Some(self.at(adapter)),
            train: self.at("pairs.jsonl"),
            query: self.at("pairs.jsonl"),
            pairs: Some(pairs),
            out: self.at("out"),
            ..Run::default()
        }
    }
}

#[test]
fn prompts_are_given_or_what_both_answers_begin_with() {
    let one = |row: &str| Place::new(row).read();
    let given = one(r#"{"prompt": "The fox", "chosen": " rests", "rejected": " runs"}"#).expect("a pair");
    let common = one(r#"{"chosen": "The fox rests", "rejected": "The fox runs"}"#).expect("a pair");
    // TRL leaves the space before the answers to them; the letter that they share is part of the prompt there, too.
    assert_eq!(given.rows[0].content.text(), "chosen: The fox rests\nrejected: The fox runs");
    assert_eq!(common.rows[0].content.text(), given.rows[0].content.text());
    let user = r#"{"role": "user", "content": "Where?"}"#;
    let answer = |text: &str| format!(r#"{{"role": "assistant", "content": "{text}"}}"#);
    let lists =
        one(&format!(r#"{{"prompt": [{user}], "chosen": [{}], "rejected": [{}]}}"#, answer("Here."), answer("No.")));
    let whole =
        one(&format!(r#"{{"chosen": [{user}, {}], "rejected": [{user}, {}]}}"#, answer("Here."), answer("No.")));
    assert_eq!(lists.expect("a pair").rows[0].content, whole.expect("a pair").rows[0].content);
    for (row, part) in [
        (r#"{"prompt": "a", "chosen": "b", "rejected": "b"}"#, "are the same"),
        (r#"{"prompt": "a", "chosen": "b", "rejected": " "}"#, "rejected"),
        (r#"{"chosen": "The fox", "rejected": "The fox"}"#, "chosen"),
        (r#"{"prompt": "a", "chosen": "b"}"#, "rejected"),
        (r#"{"prompt": "a", "chosen": 3, "rejected": "b"}"#, "chosen"),
        (r#"{"prompt": "a", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"}"#, "rejected"),
    ] {
        let error = one(row).expect_err("no pair");
        assert!(error.contains(part), "{row}: {error}");
    }
}

/// Fine-tuning on pairs learns them, and the one whose answers were exchanged is the most suspicious.
#[test]
fn exchanged_answers_are_found() {
    let (_, device) = devices().remove(0);
    for pairs in [PairLoss::Dpo { beta: 0.5 }, PairLoss::Reward] {
        let place = Place::new(ROWS);
        let tuned = place.finetune(pairs, "adapter").run(&device, &mut |_| ()).expect("it trains");
        let Quality::Pairs(quality) = &tuned.quality.train else { panic!("these are pairs") };
        assert!(quality.accuracy > 0.8 && quality.loss < 0.55 && quality.margin > 0.0, "{pairs:?}: {quality:?}");
        let names: Vec<String> = fs::read_dir(place.at("adapter"))
            .expect("it was written")
            .map(|file| file.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        assert!(names.contains(&"adapter_model.safetensors".to_owned()), "{names:?}");
        let adapter = Adapter::read(&place.at("adapter")).expect("PEFT's files");
        let heads = adapter.tensors.keys().filter(|name| name.contains("score")).count();
        assert_eq!(heads, usize::from(pairs == PairLoss::Reward), "{:?}", adapter.tensors.keys());

        let evaluate = Evaluate {
            model: folder().display().to_string(),
            adapter: Some(place.at("adapter")),
            rows: place.at("pairs.jsonl"),
            pairs: Some(pairs),
            ..Evaluate::default()
        };
        let found = evaluate.run(&device, &mut |_| ()).expect("it fits");
        let Quality::Pairs(again) = &found.quality else { panic!("these are pairs") };
        assert!((again.loss - quality.loss).abs() < 1e-4, "{again:?}, {quality:?}");

        // The training rows with the answers of the third exchanged, judged by the model that knows better.
        let right = ROWS.lines().map(str::to_owned).collect::<Vec<_>>();
        let mut wrong = right.clone();
        wrong[2] = r#"{"prompt": "The story", "chosen": " 7 pears", "rejected": " was slow and weak."}"#.into();
        fs::write(place.at("wrong.jsonl"), wrong.join("\n")).expect("the folder can be written");
        // Pairs of the same preference, which the model was trained on.
        fs::write(place.at("trusted.jsonl"), [&*right[2], &*right[4]].join("\n")).expect("the folder can be written");
        let run =
            Run { train: place.at("wrong.jsonl"), query: place.at("trusted.jsonl"), ..place.run(pairs, "adapter") };
        for method in ["identity", "hyperinf", "datainf"] {
            let options = method.parse::<MethodSpec>().expect("a method").options().expect("a valid method");
            let run = Run { options, ..run.clone() };
            let found = run.detect(Some(Amount::Count(1)), &device, &mut |_| ()).expect("it fits");
            assert_eq!(found.removed, [2], "{pairs:?}, {method}: {:?}", found.influence.attribution.scores);
            assert_eq!(found.influence.kind, "preference");
            let settings = found.influence.settings.clone().expect("a loss");
            assert_eq!(settings["pairs"], pairs.name());
            let check = found.cross_check.expect("two answers are two labels");
            assert!(check.auc_loss > 0.9, "{check:?}");
            found.influence.discard_gradients().expect("they are there");
        }
        let sampled = Run { estimate: Estimate::GaussNewton { sketch: None }, ..run.clone() };
        let chosen = sampled.select(&Select::from(Amount::Count(2)), &device, &mut |_| ()).expect("it fits");
        assert_eq!(chosen.picks.order.len(), 2);
        chosen.influence.discard_gradients().expect("they are there");
    }
}

#[test]
fn what_is_no_pair_of_a_language_model_is_refused() {
    let (_, device) = devices().remove(0);
    let place = Place::new(ROWS);
    let bert = fixtures::path("transformers/bert").display().to_string();
    let error = Run { model: bert, adapter: None, ..place.run(DPO, "none") }.attribute(&device, &mut |_| ()).err();
    assert!(matches!(error, Some(RunError::NotLanguageModel { .. })), "{error:?}");
    // A reward model without a head, and an adapter of another loss.
    let all_linear = folder().join("all_linear");
    let run = |pairs| Run { adapter: Some(all_linear.clone()), ..place.run(pairs, "none") };
    let error = run(PairLoss::Reward).attribute(&device, &mut |_| ()).err();
    assert!(matches!(error, Some(RunError::Load { .. })), "{error:?}");
    let reward = Run { adapter: Some(fixtures::path("preference/reward")), ..place.run(DPO, "none") };
    assert!(reward.attribute(&device, &mut |_| ()).is_err(), "the adapter's head has no place");
    let checked = Check {
        model: folder().display().to_string(),
        data: place.at("pairs.jsonl"),
        pairs: Some(DPO),
        ..Check::default()
    };
    let checked = checked.run(None, &mut |_| ()).expect("they are pairs");
    assert_eq!((checked.kind, checked.rows), ("preference", 6));
    let scored = checked.shown[0].pieces.iter().filter(|piece| piece.scored).count();
    assert_eq!(scored, 2, "both answers: {:?}", checked.shown[0].pieces);
}
