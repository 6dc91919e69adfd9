//! Fine-tuning by several ranks.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{DType, Device, TensorData};
use hyperinf_models::{ModelError, Piece, PieceTeam, SharedStep, shared_pieces};
use hyperinf_scoring::TeamError;
use hyperinf_store::RunKey;
use serde::{Deserialize, Serialize};

use crate::RunError;
use crate::crew::Crew;
use crate::crew_message::{Unread, packed};
use crate::crew_orders::Work;
use crate::finetune::Finetune;
use crate::finetune_of_kind::{Ready, ready};
use crate::kind::{Kind, Prepared};
use crate::model_files::ModelFiles;
use crate::samples::Samples;

/// The ranks that share the pieces of a batch.
pub(crate) struct Pieces<'a> {
    crew: &'a Crew,
    /// Why the ranks could not work together.
    failed: RefCell<Option<RunError>>,
}

impl<'a> Pieces<'a> {
    pub(crate) fn new(crew: &'a Crew) -> Self {
        Self { crew, failed: RefCell::default() }
    }

    /// The error behind [`ModelError::Helpers`].
    pub(crate) fn explain(&self, error: ModelError) -> RunError {
        match (error, self.failed.take()) {
            (ModelError::Helpers { .. }, Some(failed)) => failed,
            (error, _) => error.into(),
        }
    }

    fn failed(&self, error: RunError) -> ModelError {
        let reason = error.to_string();
        *self.failed.borrow_mut() = Some(error);
        ModelError::Helpers { reason }
    }
}

impl PieceTeam for Pieces<'_> {
    fn share(
        &self,
        step: SharedStep,
        own: &mut dyn FnMut(usize) -> Result<Piece, ModelError>,
    ) -> Result<Vec<Piece>, ModelError> {
        let SharedStep { seed, parameters, pieces } = step;
        let (crew, failed) = (self.crew, |error| self.failed(error));
        let count = pieces.len();
        let work = crew.order(&Work::Pieces { seed, pieces }).map_err(failed)?;
        let parameters = to_bytes(0.0, &parameters);
        (1..crew.size()).try_for_each(|rank| crew.send(rank, &parameters)).map_err(failed)?;
        let piece = |place: usize| match crew.owner(place) {
            0 => crew.computing(|| own(place)),
            rank => {
                let bytes = crew.receive(rank, "the gradients of a piece of a batch").map_err(failed)?;
                let (loss, gradients) = from_bytes(rank, &bytes).map_err(failed)?;
                Ok(Piece { loss, gradients })
            }
        };
        let found = (0..count).map(piece).collect::<Result<_, ModelError>>()?;
        work.end();
        Ok(found)
    }
}

/// Takes the gradients of pieces for rank 0, until it has no more of them.
pub(crate) fn assist<K: Kind>(run: &Finetune, files: &ModelFiles, device: &Device) -> Result<(), RunError> {
    let Some(crew) = &run.crew else { return Ok(()) };
    let Ready { prepared, rows, limit, targets, .. } = ready::<K>(run, files, device, &mut |_| ())?;
    let Prepared { mut model, processor } = prepared;
    let mut settings = run.settings(files, &targets, K::labels(&processor), limit.tokens(), device);
    settings.extend(K::settings(&model).iter().map(|found| ("loss".to_owned(), found.to_string())));
    crew.meet(&common_key(run, settings, &rows))?;
    loop {
        let (seed, pieces) = match crew.next()? {
            Work::Pieces { seed, pieces } => (seed, pieces),
            Work::End => return crew.leave(),
            Work::Check(_)
            | Work::Gradients { .. }
            | Work::Predictions { .. }
            | Work::Blocks(_)
            | Work::Rows(_)
            | Work::Tokens { .. }
            | Work::Curvature { .. }
            | Work::Products { .. } => {
                let reason = "its work is not that of fine-tuning".to_owned();
                return Err(TeamError::Garbled { rank: 0, reason }.into());
            }
        };
        let parameters = from_bytes(0, &crew.receive(0, "the parameters")?)?.1;
        let step = SharedStep { seed, parameters, pieces };
        let mine = |place| crew.owner(place) == crew.rank();
        let (left, found) = crew.computing(|| shared_pieces(model, &rows.samples, step, mine))?;
        model = left;
        found.iter().try_for_each(|Piece { loss, gradients }| crew.send(0, &to_bytes(*loss, gradients)))?;
    }
}

/// What all ranks must agree on.
pub(crate) fn common_key<K: Kind>(run: &Finetune, settings: BTreeMap<String, String>, rows: &Samples<K>) -> RunKey {
    let mut key = RunKey(settings);
    let more = [
        ("content of training rows", rows.fingerprint(0..rows.samples.len())),
        ("pieces of a batch", format!("{:?} rows", run.micro_batch)),
        ("seed", run.recipe.seed.to_string()),
    ];
    key.0.extend(more.map(|(name, value)| (name.to_owned(), value)));
    key
}

/// What is sent of tensors before their numbers.
#[derive(Serialize, Deserialize)]
struct Head {
    /// The bits of the loss, which may be NaN.
    loss: u64,
    /// Names, shapes and types.
    tensors: Vec<(String, Vec<usize>, DType)>,
}

/// A loss and tensors as a message.
fn to_bytes(loss: f64, tensors: &BTreeMap<String, TensorData>) -> Vec<u8> {
    let described =
        |(name, data): (&String, &TensorData)| (name.clone(), data.shape().iter().copied().collect(), data.dtype());
    let head = Head { loss: loss.to_bits(), tensors: tensors.iter().map(described).collect() };
    packed(&head, tensors.values().map(TensorData::as_bytes))
}

fn from_bytes(rank: usize, bytes: &[u8]) -> Result<(f64, BTreeMap<String, TensorData>), RunError> {
    let (Head { loss, tensors }, mut unread) = Unread::new::<Head>(rank, bytes)?;
    let read = |(name, shape, dtype): (String, Vec<usize>, DType)| Ok((name, unread.tensor(&shape, dtype)?));
    let tensors = tensors.into_iter().map(read).collect::<Result<_, TeamError>>()?;
    unread.end()?;
    Ok((f64::from_bits(loss), tensors))
}
