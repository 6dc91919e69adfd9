use burn::module::{Module, Param};
use burn::nn::{Embedding, Linear};
use burn::tensor::{Int, Tensor};
use hyperinf_gradients::Tape;
use hyperinf_ops as ops;

use super::init::Init;
use crate::{LoraConfig, ModelError};

/// A frozen table of tokens with a trained low-rank update: `y = base(x) + scale · B(A[x])`, as PEFT has it for
/// embeddings.
///
/// On a tape, the rows of `A` and the layer `B` are blocks with PEFT's names: `{name}.lora_embedding_A` is
/// `vocabulary × r`, `{name}.lora_embedding_B` is `r × d`. There is no dropout.
#[derive(Module, Debug)]
pub struct LoraEmbedding {
    /// The frozen table `[vocabulary, d]`.
    pub base: Embedding,
    /// `A`, `[vocabulary, r]`.
    pub lora_a: Embedding,
    /// `B`, weight `[r, d]`.
    pub lora_b: Linear,
    scale: f64,
    #[module(skip)]
    name: String,
}

impl LoraEmbedding {
    /// Freezes a table and adds an adapter to it, which changes nothing at first: `A` is zero.
    ///
    /// # Errors
    ///
    /// If the configuration is invalid.
    pub fn new(base: Embedding, name: impl Into<String>, config: &LoraConfig, seed: u64) -> Result<Self, ModelError> {
        config.validate()?;
        let base = base.no_grad();
        let weight = base.weight.val();
        let ([vocabulary, width], device) = (weight.dims(), weight.device());
        Ok(Self {
            lora_a: Embedding { weight: Param::from_tensor(Tensor::zeros([vocabulary, config.rank], &device)) },
            lora_b: Init::new(seed, &device).linear_without_bias(config.rank, width),
            base,
            scale: config.scale(),
            name: name.into(),
        })
    }

    /// The vectors `[n, t, d]` of tokens `[n, t]`; both factors go through the tape.
    ///
    /// # Panics
    ///
    /// If a token is not in the table.
    pub fn forward(&self, tokens: Tensor<2, Int>, tape: &mut Tape) -> Tensor<3> {
        let base = self.base.forward(tokens.clone());
        let inner = tape.embedding(&format!("{}.lora_embedding_A", self.name), &self.lora_a, tokens);
        let inner = inner.mul_scalar(self.scale);
        let update = if tape.is_recording() {
            tape.linear(&format!("{}.lora_embedding_B", self.name), &self.lora_b, inner)
        } else {
            ops::linear(&self.lora_b, inner)
        };
        base + update
    }

    /// The factor of `B(A[x])`.
    pub fn scale(&self) -> f64 {
        self.scale
    }
}

/// A table of tokens that may have an adapter.
#[derive(Module, Debug)]
// A model has one.
#[allow(clippy::large_enum_variant)]
pub enum AdaptableEmbedding {
    /// The table alone; tapes do not record it.
    Plain(Embedding),
    /// The frozen table with its adapter.
    Lora(LoraEmbedding),
}

impl AdaptableEmbedding {
    /// The vectors `[n, t, d]` of tokens `[n, t]`.
    ///
    /// # Panics
    ///
    /// If a token is not in the table.
    pub fn forward(&self, tokens: Tensor<2, Int>, tape: &mut Tape) -> Tensor<3> {
        match self {
            Self::Plain(table) => table.forward(tokens),
            Self::Lora(lora) => lora.forward(tokens, tape),
        }
    }

    /// The table without its adapter.
    pub fn base(&self) -> &Embedding {
        match self {
            Self::Plain(table) => table,
            Self::Lora(lora) => &lora.base,
        }
    }

    /// The adapted table, if there is an adapter.
    pub fn adapter(&self) -> Option<&LoraEmbedding> {
        match self {
            Self::Plain(_) => None,
            Self::Lora(lora) => Some(lora),
        }
    }
}
