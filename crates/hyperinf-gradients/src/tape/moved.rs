use std::collections::BTreeMap;

use burn::module::ParamId;
use burn::nn::Linear;
use burn::tensor::{Tensor, s};

use super::{Tape, plain_linear};
use crate::{Block, GradientError};

/// The parameters that a recording tape applies.
#[derive(Default)]
pub(super) enum Parameters {
    /// The model's.
    #[default]
    Own,
    /// The model's; the sum of squares of each block is noted.
    Measured(BTreeMap<String, Tensor<1>>),
    /// The model's plus these, `[rows, cols]` of each block.
    Moved(BTreeMap<String, Tensor<2>>),
}

impl Tape {
    /// A tape that records, and measures the blocks.
    pub(crate) fn measuring() -> Self {
        Self { parameters: Parameters::Measured(BTreeMap::new()), ..Self::recording() }
    }

    /// A tape that records layers whose parameters are moved, block by block.
    pub(crate) fn moving(by: BTreeMap<String, Tensor<2>>) -> Self {
        Self { parameters: Parameters::Moved(by), ..Self::recording() }
    }

    /// The recorded blocks in order of first use, and the squares of their parameters, of a tape that measures.
    pub(crate) fn measured(self) -> Result<(Vec<Block>, Vec<Tensor<1>>), GradientError> {
        if let Some(block) = self.stacked {
            return Err(GradientError::Stacked { block });
        }
        let mut blocks: Vec<Block> = Vec::new();
        for used in self.uses {
            match blocks.iter().find(|block| block.name == used.block.name) {
                None => blocks.push(used.block),
                Some(first) if *first == used.block => {}
                Some(Block { rows: first_rows, cols: first_cols, .. }) => {
                    let (first_rows, first_cols) = (*first_rows, *first_cols);
                    let Block { name: block, rows, cols } = used.block;
                    return Err(GradientError::BlockShape { block, first_rows, first_cols, rows, cols });
                }
            }
        }
        if blocks.is_empty() {
            return Err(GradientError::NothingRecorded);
        }
        let Parameters::Measured(mut squares) = self.parameters else { return Ok((blocks, Vec::new())) };
        let squares = blocks.iter().filter_map(|block| squares.remove(&block.name)).collect();
        Ok((blocks, squares))
    }

    /// Notes the parameters of a linear layer.
    pub(super) fn note_parameters(&mut self, name: &str, layer: &Linear) {
        let ids: Vec<ParamId> =
            std::iter::once(layer.weight.id).chain(layer.bias.as_ref().map(|bias| bias.id)).collect();
        match self.ids.get_mut(name) {
            Some(known) if *known != ids => known.clear(),
            Some(_) => {}
            None => drop(self.ids.insert(name.to_owned(), ids)),
        }
    }

    /// The parameters of the blocks that are linear layers.
    pub(crate) fn take_parameters(&mut self) -> BTreeMap<String, Vec<ParamId>> {
        std::mem::take(&mut self.ids)
    }

    /// What a block is moved by, if it is; `parts` are its parameters, for a tape that measures.
    pub(super) fn movement(&mut self, name: &str, parts: &[Tensor<1>]) -> Option<Tensor<2>> {
        if !matches!(self.parameters, Parameters::Own) && self.parts > 1 {
            self.stacked.get_or_insert_with(|| name.to_owned());
            return None;
        }
        match &mut self.parameters {
            Parameters::Own => None,
            Parameters::Measured(squares) => {
                let all = parts.iter().map(|part| part.clone().without_autodiff().square().sum());
                if let Some(sum) = all.reduce(|a, b| a + b) {
                    squares.insert(name.to_owned(), sum);
                }
                None
            }
            Parameters::Moved(by) => by.get(name).cloned(),
        }
    }

    /// [`plain_linear`] with the layer's parameters where the tape has them.
    pub(super) fn moved_linear(
        &mut self,
        name: &str,
        x: Tensor<2>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<2> {
        let parts: Vec<Tensor<1>> = std::iter::once(weight.clone().flatten(0, 1)).chain(bias.clone()).collect();
        let Some(by) = self.movement(name, &parts) else { return plain_linear(x, weight, bias) };
        let [d_input, d_output] = weight.dims();
        let weight = weight.without_autodiff() + by.clone().slice(s![..d_input, ..]);
        let bias = bias.map(|bias| bias.without_autodiff() + by.slice(s![d_input.., ..]).reshape([d_output]));
        plain_linear(x, weight, bias)
    }
}
