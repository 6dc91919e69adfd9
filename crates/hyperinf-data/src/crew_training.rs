//! Fine-tuning by several ranks.

use std::cell::RefCell;
use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Shape, TensorData};
use hyperinf_models::{ModelError, Piece, PieceTeam, SharedStep, shared_pieces};
use hyperinf_scoring::TeamError;
use hyperinf_store::RunKey;

use crate::RunError;
use crate::crew::{Crew, Work};
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
        crew.order(&Work::Pieces { seed, pieces }).map_err(failed)?;
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
        (0..count).map(piece).collect()
    }
}

/// Takes the gradients of pieces for rank 0, until it has no more of them.
pub(crate) fn assist<K: Kind>(run: &Finetune, files: &ModelFiles, device: &Device) -> Result<(), RunError> {
    let Some(crew) = &run.crew else { return Ok(()) };
    let Ready { prepared, rows, limit, targets, .. } = ready::<K>(run, files, device, &mut |_| ())?;
    let Prepared { mut model, processor } = prepared;
    let settings = run.settings(files, &targets, K::labels(&processor), limit.tokens(), device);
    crew.meet(&common_key(run, settings, &rows))?;
    loop {
        let (seed, pieces) = match crew.next()? {
            Work::Pieces { seed, pieces } => (seed, pieces),
            Work::End => return crew.leave(),
            Work::Gradients { .. } | Work::Scores { .. } | Work::Curvature { .. } => {
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

/// A loss and tensors as a message: the length of a list of names, shapes and types, the list, and the numbers.
fn to_bytes(loss: f64, tensors: &BTreeMap<String, TensorData>) -> Vec<u8> {
    let list: Vec<(&String, Vec<usize>, DType)> =
        tensors.iter().map(|(name, data)| (name, data.shape().iter().copied().collect(), data.dtype())).collect();
    let head = serde_json::to_vec(&list).expect("names and numbers can be written");
    let mut bytes = loss.to_le_bytes().to_vec();
    bytes.extend((head.len() as u64).to_le_bytes());
    bytes.extend(head);
    tensors.values().for_each(|data| bytes.extend_from_slice(data.as_bytes()));
    bytes
}

fn from_bytes(rank: usize, bytes: &[u8]) -> Result<(f64, BTreeMap<String, TensorData>), RunError> {
    let garbled = |reason: &str| RunError::from(TeamError::Garbled { rank, reason: reason.to_owned() });
    let cut = || garbled("it is too short");
    let (loss, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
    let (head, mut rest) = rest.split_at_checked(length).ok_or_else(cut)?;
    let list: Vec<(String, Vec<usize>, DType)> =
        serde_json::from_slice(head).map_err(|error| garbled(&error.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, shape, dtype) in list {
        let count = shape.iter().try_fold(dtype.size(), |all, &side| all.checked_mul(side)).ok_or_else(cut)?;
        let (numbers, after) = rest.split_at_checked(count).ok_or_else(cut)?;
        tensors.insert(name, TensorData::from_bytes_vec(numbers.to_vec(), Shape::from(shape), dtype));
        rest = after;
    }
    if rest.is_empty() { Ok((f64::from_le_bytes(*loss), tensors)) } else { Err(garbled("it is too long")) }
}
