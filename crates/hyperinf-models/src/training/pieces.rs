use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use hyperinf_gradients::Tape;

use super::optimizer::{Flat, take};
use super::train::read_scalar;
use crate::files::weights::{Selection, write};
use crate::{ModelError, SampleModel};

/// A batch of a step, cut into pieces: what several processes share.
pub struct SharedStep {
    /// The seed of the step, from which those of its pieces follow.
    pub seed: u64,
    /// The trained parameters before the step.
    pub parameters: BTreeMap<String, TensorData>,
    /// The samples of each piece.
    pub pieces: Vec<Vec<usize>>,
}

/// A piece's part of the mean loss of its batch, and the gradients of that part.
pub struct Piece {
    /// The loss.
    pub loss: f64,
    /// The gradients of the trained parameters, flattened, by path; none if the loss is not finite.
    pub gradients: BTreeMap<String, TensorData>,
}

/// Processes that take the gradients of pieces: see [`finetune_shared`](crate::finetune_shared).
pub trait PieceTeam {
    /// All pieces of a step, in their order; `own` computes one here.
    ///
    /// # Errors
    ///
    /// [`ModelError::Helpers`] if others fail, or an error of `own`.
    fn share(
        &self,
        step: SharedStep,
        own: &mut dyn FnMut(usize) -> Result<Piece, ModelError>,
    ) -> Result<Vec<Piece>, ModelError>;
}

/// The pieces of a step for another process: `mine` says which. The model is left with the step's parameters.
///
/// # Errors
///
/// As [`finetune`](crate::finetune), or if the parameters are not the model's.
pub fn shared_pieces<M: SampleModel>(
    model: M,
    samples: &[M::Sample],
    step: SharedStep,
    mine: impl Fn(usize) -> bool,
) -> Result<(M, Vec<Piece>), ModelError> {
    // Only a model in training tells which of its parameters are trained.
    let model = write(model.train(), step.parameters, Selection::Trained)?;
    let rows = step.pieces.iter().map(Vec::len).sum();
    let mut losses = |model: &M, rows: &[usize]| losses_of(model, samples, rows);
    let mut found = Vec::new();
    for (place, piece) in step.pieces.iter().enumerate().filter(|(place, _)| mine(*place)) {
        let (loss, gradients) = piece_of(&model, (piece, rows), step.seed, place, &mut losses)?;
        found.push(Piece::new(loss, gradients)?);
    }
    Ok((model, found))
}

pub(crate) fn losses_of<M: SampleModel>(
    model: &M,
    samples: &[M::Sample],
    rows: &[usize],
) -> Result<Tensor<1>, ModelError> {
    let samples: Vec<&M::Sample> = rows.iter().map(|&row| &samples[row]).collect();
    let batch = model.collate(&samples)?;
    Ok(model.loss(model.forward(&batch, &mut Tape::off()), &batch))
}

/// Seeds the generators of a module's devices for a piece of a step.
pub(crate) fn seed_piece<M: Module>(module: &M, seed: u64, place: usize) {
    for device in module.devices() {
        device.seed(seed.wrapping_add((place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
}

/// The part of a batch's mean loss that comes from a piece, and its gradients. Each piece has a seed of its own, so that
/// dropout does not depend on who computes the pieces before it. If the loss is not finite, there are no gradients.
pub(crate) fn piece_of<M: Module>(
    module: &M,
    (piece, rows): (&[usize], usize),
    seed: u64,
    place: usize,
    losses: &mut impl FnMut(&M, &[usize]) -> Result<Tensor<1>, ModelError>,
) -> Result<(f64, Flat), ModelError> {
    seed_piece(module, seed, place);
    let mut mean = losses(module, piece)?.mean();
    if piece.len() < rows {
        mean = mean.mul_scalar(piece.len() as f64 / rows as f64);
    }
    if !mean.is_tracked() {
        return Err(ModelError::Frozen);
    }
    let loss = read_scalar(mean.clone())?;
    if !loss.is_finite() {
        return Ok((loss, Flat::new()));
    }
    Ok((loss, take(module, &mut mean.backward())))
}

impl Piece {
    pub(crate) fn new(loss: f64, gradients: Flat) -> Result<Self, ModelError> {
        let read = |(path, gradient): (String, Tensor<1>)| {
            Ok((path, gradient.try_into_data().map_err(|e| ModelError::Read(e.to_string()))?))
        };
        Ok(Self { loss, gradients: gradients.into_iter().map(read).collect::<Result<_, ModelError>>()? })
    }
}
