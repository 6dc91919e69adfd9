//! Kinds of models without their types: one list holds all of them, and each command asks the one of its model.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hyperinf_models::ModelKind;
use hyperinf_scoring::Set;
use hyperinf_store::{IndexFolder, IndexWriter};

use crate::baseline::{self, Asked, Ranked};
use crate::check::{self, Check, Checked};
use crate::crew_training;
use crate::dataset::{Dataset, ReadOptions};
use crate::evaluate::{self, Evaluate, Evaluated};
use crate::event::Event;
use crate::finetune::{Finetune, Finetuned};
use crate::index::{self, Answer, Index, Leaves, Query, Questions};
use crate::influence::{Influence, RowText};
use crate::kind::Kind;
use crate::model_files::ModelFiles;
use crate::plan::{Goal, RunPlan};
use crate::retrain::{Retrained, Retraining};
use crate::retrain_of_kind;
use crate::run::Run;
use crate::run_of_kind::{self, Inputs};
use crate::trajectory::{self, Tracing};
use crate::unrolled::{self, Following};
use crate::{DataError, RunError};
use crate::{finetune_of_kind, plan_index, plan_of_kind, plan_tuning};

/// A [`Kind`] without its types, for the list of all kinds.
pub(crate) trait AnyKind: Sync {
    fn accepts(&self, kind: ModelKind, pairs: bool) -> bool;

    fn name(&self) -> &'static str;

    /// Whether its rows have images.
    fn has_images(&self) -> bool;

    fn texts(&self, set: Set, path: &Path, options: &ReadOptions) -> Result<Dataset<RowText>, DataError>;

    fn influence(
        &self,
        run: &Run,
        inputs: Inputs<'_>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Influence, RunError>;

    fn assist(&self, runs: &[Run], files: &ModelFiles, targets: &[PathBuf], device: &Device) -> Result<(), RunError>;

    fn assist_index(&self, index: &Index, files: &ModelFiles, device: &Device) -> Result<(), RunError>;

    fn plan(
        &self,
        run: &Run,
        goal: &Goal,
        files: ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<RunPlan, RunError>;

    fn index(
        &self,
        index: &Index,
        files: &ModelFiles,
        writer: &mut IndexWriter,
        leaves: Leaves<'_>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(usize, usize), RunError>;

    fn query(
        &self,
        query: &Query,
        run: Run,
        files: ModelFiles,
        index: IndexFolder,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Answer, RunError>;

    fn serve(
        &self,
        query: &Query,
        run: Run,
        files: &ModelFiles,
        index: IndexFolder,
        device: &Device,
        questions: &mut Questions<'_>,
    ) -> Result<(), RunError>;

    fn plan_index(
        &self,
        index: &Index,
        files: &ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<RunPlan, RunError>;

    fn plan_tuning(
        &self,
        run: &Finetune,
        files: &ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<RunPlan, RunError>;

    fn finetune(
        &self,
        run: &Finetune,
        files: &ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Finetuned, RunError>;

    fn assist_finetune(&self, run: &Finetune, files: &ModelFiles, device: &Device) -> Result<(), RunError>;

    fn check(
        &self,
        check: &Check,
        files: &ModelFiles,
        device: Option<&Device>,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Checked, RunError>;

    fn evaluate(
        &self,
        run: &Evaluate,
        files: ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Evaluated, RunError>;

    fn baseline(
        &self,
        run: &Run,
        asked: Asked,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ranked, RunError>;

    fn unrolled(
        &self,
        run: &Run,
        following: Following,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ranked, RunError>;

    fn trajectory(
        &self,
        run: &Run,
        tracing: Tracing,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ranked, RunError>;

    fn retrain(
        &self,
        run: &Run,
        retraining: &Retraining,
        files: ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Retrained, RunError>;
}

impl<K: Kind> AnyKind for K {
    fn accepts(&self, kind: ModelKind, pairs: bool) -> bool {
        K::PAIRS == pairs && K::matches(kind)
    }

    fn name(&self) -> &'static str {
        K::NAME
    }

    fn has_images(&self) -> bool {
        K::IMAGES
    }

    fn texts(&self, set: Set, path: &Path, options: &ReadOptions) -> Result<Dataset<RowText>, DataError> {
        Ok(Dataset::<K::Content>::read(set, path, options)?.map(|content| RowText::new(&content)))
    }

    fn influence(
        &self,
        run: &Run,
        inputs: Inputs<'_>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Influence, RunError> {
        run_of_kind::influence::<K>(run, inputs, device, observe)
    }

    fn assist(&self, runs: &[Run], files: &ModelFiles, targets: &[PathBuf], device: &Device) -> Result<(), RunError> {
        run_of_kind::assist::<K>(runs, files, targets, device)
    }

    fn assist_index(&self, index: &Index, files: &ModelFiles, device: &Device) -> Result<(), RunError> {
        index::assist::<K>(index, files, device)
    }

    fn plan(
        &self,
        run: &Run,
        goal: &Goal,
        files: ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<RunPlan, RunError> {
        plan_of_kind::plan::<K>(run, goal, files, device, observe)
    }

    fn index(
        &self,
        index: &Index,
        files: &ModelFiles,
        writer: &mut IndexWriter,
        leaves: Leaves<'_>,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(usize, usize), RunError> {
        index::index::<K>(index, files, writer, leaves, device, observe)
    }

    fn query(
        &self,
        query: &Query,
        run: Run,
        files: ModelFiles,
        index: IndexFolder,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Answer, RunError> {
        index::query::<K>(query, run, files, index, device, observe)
    }

    fn serve(
        &self,
        query: &Query,
        run: Run,
        files: &ModelFiles,
        index: IndexFolder,
        device: &Device,
        questions: &mut Questions<'_>,
    ) -> Result<(), RunError> {
        index::serve::<K>(query, run, files, index, device, questions)
    }

    fn finetune(
        &self,
        run: &Finetune,
        files: &ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Finetuned, RunError> {
        finetune_of_kind::finetune::<K>(run, files, device, observe)
    }

    fn assist_finetune(&self, run: &Finetune, files: &ModelFiles, device: &Device) -> Result<(), RunError> {
        crew_training::assist::<K>(run, files, device)
    }

    fn plan_index(
        &self,
        index: &Index,
        files: &ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<RunPlan, RunError> {
        plan_index::plan::<K>(index, files, device, observe)
    }

    fn plan_tuning(
        &self,
        run: &Finetune,
        files: &ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<RunPlan, RunError> {
        plan_tuning::plan::<K>(run, files, device, observe)
    }

    fn check(
        &self,
        check: &Check,
        files: &ModelFiles,
        device: Option<&Device>,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Checked, RunError> {
        check::check::<K>(check, files, device, observe)
    }

    fn evaluate(
        &self,
        run: &Evaluate,
        files: ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Evaluated, RunError> {
        evaluate::evaluate::<K>(run, files, device, observe)
    }

    fn baseline(
        &self,
        run: &Run,
        asked: Asked,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ranked, RunError> {
        baseline::baseline::<K>(run, asked, device, observe)
    }

    fn unrolled(
        &self,
        run: &Run,
        following: Following,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ranked, RunError> {
        unrolled::unrolled::<K>(run, following, device, observe)
    }

    fn trajectory(
        &self,
        run: &Run,
        tracing: Tracing,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Ranked, RunError> {
        trajectory::trajectory::<K>(run, tracing, device, observe)
    }

    fn retrain(
        &self,
        run: &Run,
        retraining: &Retraining,
        files: ModelFiles,
        device: &Device,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Retrained, RunError> {
        retrain_of_kind::retrain::<K>(run, retraining, files, device, observe)
    }
}
