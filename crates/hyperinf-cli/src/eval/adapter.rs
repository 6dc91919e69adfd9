//! `hyperinf eval adapter`: scores compared with what trainings of an adapter without some rows lead to.

use std::path::Path;

use hyperinf::curvature::Damping;
use hyperinf::data::{AnyMethod, Choosing, MethodRun, NamedMethod, Refine, Retrained, Retraining, Run};
use hyperinf::eval::{Bootstrap, Candidate, LdsSpread, LdsTruth};
use hyperinf::models::RecordedParts;
use hyperinf::scoring::{Method, Options};
use hyperinf::store::OutputFolder;

use super::adapter_effects;
use super::adapter_report::{OUTPUTS, Report};
use crate::args::{AdapterCommand, RetrainArgs, at_least};
use crate::device::open_device;
use crate::error::{CliError, Usage};
use crate::influence::{Wanted, methods};
use crate::interrupt;
use crate::progress::{duration, observer};
use crate::score::counted;
use crate::to_stdout;

/// A method with its score, or the reason why it could not be computed.
pub(super) struct Judged {
    pub(super) run: MethodRun,
    pub(super) spread: Option<LdsSpread>,
}

/// Trains again, scores with every method, and reports how well they agree.
///
/// # Errors
///
/// See [`CliError`]. Finished trainings stay in the bank; other outputs are written whole or not at all.
pub(crate) fn run(truth: &AdapterCommand) -> Result<(), CliError> {
    let (args, retraining) = (truth.shared(), truth.retraining()?);
    let methods = named(args)?;
    if let Some(choosing) = truth.choosing() {
        return effects(truth, choosing, &retraining, &methods);
    }
    let inputs = [args.train.as_path(), args.query.as_path()];
    let (device_name, device) = open_device(&args.device)?;
    let run = settings(args, &device_name)?;
    interrupt::set_hint(format!("; the same command resumes with the trainings in {}", retraining.bank.display()));
    if retraining.part.is_some() {
        let found = run.retrain(&retraining, &device, &mut observer())?;
        return to_stdout(|out| writeln!(out, "{}", trainings(&found, &retraining.bank)));
    }
    let folder = OutputFolder::of_command("eval", &args.out, &OUTPUTS, &inputs)?;
    let retrained = run.retrain(&retraining, &device, &mut observer())?;
    let losses = retrained.complete().unwrap_or_default();
    let lds = LdsTruth::of_removals(retrained.train.rows.len(), &retrained.removed, losses)?;
    let mut judged = Vec::with_capacity(methods.len());
    for run in run.scores_by(&methods, args.seed, Some(&retraining.bank), &device, &mut observer())? {
        let spread = run.scores.as_ref().ok().map(|scores| lds.spread(scores, &Bootstrap::default())).transpose()?;
        judged.push(Judged { run, spread });
    }
    // The best first; those that could not be computed last.
    let score = |judged: &Judged| judged.spread.as_ref().map_or(f64::NEG_INFINITY, |spread| spread.lds.mean.mean);
    judged.sort_by(|a, b| score(b).total_cmp(&score(a)));
    let agreement = lds.agreement()?.map(|found| found.mean.mean);
    let about = trainings(&retrained, &retraining.bank);
    Report { truth, retraining: &retraining, retrained: &retrained, agreement, judged: &judged, device: &device_name }
        .write(&folder, &about)
}

/// Lets every method choose rows, trains again without them, and reports what that did to the losses.
fn effects(
    truth: &AdapterCommand,
    choosing: Choosing,
    retraining: &Retraining,
    methods: &[NamedMethod],
) -> Result<(), CliError> {
    let args = truth.shared();
    let (device_name, device) = open_device(&args.device)?;
    let run = settings(args, &device_name)?;
    interrupt::set_hint(format!("; the same command resumes with the trainings in {}", retraining.bank.display()));
    let inputs = [args.train.as_path(), args.query.as_path()];
    let folder = OutputFolder::of_command("eval", &args.out, &adapter_effects::OUTPUTS, &inputs)?;
    let found = run.effects(methods, choosing, retraining, &device, &mut observer())?;
    let about = trainings(&found.retrained, &retraining.bank);
    if retraining.part.is_some() {
        return to_stdout(|out| writeln!(out, "{about}"));
    }
    adapter_effects::Report { truth, choosing, retraining, found: &found, device: &device_name }.write(&folder, &about)
}

/// The methods with their names.
fn named(args: &RetrainArgs) -> Result<Vec<NamedMethod>, CliError> {
    at_least("--draws", args.draws, 1)?;
    let damping = Damping::Relative(args.damping);
    damping.validate().map_err(|_| Usage::Damping { flag: "--damping", value: args.damping })?;
    let mut all = Vec::new();
    for wanted in methods(&args.method)? {
        match wanted {
            Wanted::Rows(rows) => {
                all.push(NamedMethod { name: rows.name().to_owned(), method: AnyMethod::Rows(rows) });
            }
            Wanted::Method(spec) => {
                let Candidate { name, options, estimate, .. } = Candidate::new(&spec, args.draws, args.seed)?;
                let options = Box::new(Options { damping, ..options });
                let refined =
                    args.refine.filter(|_| !matches!(options.method, Method::Identity)).map(|steps| NamedMethod {
                        name: format!("{name} --refine {steps}"),
                        method: AnyMethod::Gradients {
                            options: options.clone(),
                            estimate,
                            refine: Some(Refine { steps, seed: args.seed, ..Refine::default() }),
                        },
                    });
                all.push(NamedMethod { name, method: AnyMethod::Gradients { options, estimate, refine: None } });
                all.extend(refined);
            }
        }
    }
    Ok(all)
}

fn settings(args: &RetrainArgs, device: &str) -> Result<Run, CliError> {
    Ok(Run {
        model: args.model.model.clone(),
        adapter: Some(args.adapter.clone()),
        tokenizer: args.model.tokenizer.clone(),
        train: args.train.clone(),
        query: args.query.clone(),
        read: args.pairs.read(&args.columns),
        pairs: args.pairs.loss()?,
        length: args.length.into(),
        layers: RecordedParts::default(),
        metric: args.metric.clone(),
        diffusion: args.diffusion.options(None, None),
        batch_size: args.batch_size as usize,
        // Gradients have a folder of their own, as long as they are there: that of the results is this command's.
        out: args.out.join("gradients"),
        device_name: device.to_owned(),
        stop: interrupt::stop(),
        ..Run::default()
    })
}

/// What was trained, and what the bank had.
fn trainings(found: &Retrained, bank: &Path) -> String {
    let all = found.losses.iter().map(Vec::len).sum();
    let mut text = format!(
        "{} in {}: {} from before, {} now",
        counted(all, "training", "trainings"),
        bank.display(),
        found.found,
        found.trained
    );
    if let Some(seconds) = found.seconds {
        text.push_str(&format!(" ({} each)", duration(seconds)));
    }
    if found.missing() > 0 {
        text.push_str(&format!(", {} left to other parts", found.missing()));
    }
    text
}
