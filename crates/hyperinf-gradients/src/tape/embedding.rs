use burn::nn::Embedding;
use burn::tensor::module::embedding;
use burn::tensor::{Int, Tensor};

use super::Tape;
use crate::Block;

impl Tape {
    /// Looks up token vectors. The block is `[vocabulary, d]`, one row per token.
    ///
    /// Per-sample gradients of a whole vocabulary are large: `n · vocabulary · d` numbers, of which at most
    /// `n · t · d` are not zero, and the capture holds `n · t · vocabulary` more. Where that is too much, use
    /// [`embedding_rows`](Self::embedding_rows).
    ///
    /// A table that is also the output layer has a second gradient there, which is not recorded.
    ///
    /// # Shapes
    ///
    /// `tokens`: `[n, t]`; output: `[n, t, d]`.
    ///
    /// # Panics
    ///
    /// If a token is not in the table.
    pub fn embedding(&mut self, name: &str, layer: &Embedding, tokens: Tensor<2, Int>) -> Tensor<3> {
        if !self.recording {
            return layer.forward(tokens);
        }
        let [vocabulary, _] = layer.weight.dims();
        let all = Tensor::arange(0..vocabulary as i64, &tokens.device());
        self.embedding_rows(name, layer, tokens, all)
    }

    /// Looks up token vectors and records those of some tokens only. The block is `[k, d]`: row `j` is token `rows[j]`.
    ///
    /// The rows must be the same in every batch, of training samples and of queries. Dot products are complete if
    /// they hold the tokens of all queries; a curvature is then that of these rows.
    ///
    /// # Shapes
    ///
    /// `tokens`: `[n, t]`; `rows`: `[k]`, each token at most once; output: `[n, t, d]`.
    ///
    /// # Panics
    ///
    /// If a token is not in the table.
    pub fn embedding_rows(
        &mut self,
        name: &str,
        layer: &Embedding,
        tokens: Tensor<2, Int>,
        rows: Tensor<1, Int>,
    ) -> Tensor<3> {
        if !self.recording {
            return layer.forward(tokens);
        }
        let weight = layer.weight.val().without_autodiff();
        // Not the whole table, if not all of its rows are in the block.
        let of_block = weight.clone().select(0, rows.clone()).flatten(0, 1);
        let moved = self.movement(name, &[of_block]);
        let mut output = embedding(weight, tokens.clone());
        let ([n, t, d], [k]) = (output.dims(), rows.dims());
        if let Some(by) = moved {
            let hits = tokens.clone().reshape([n * t, 1]).expand([n * t, k]);
            let hits = hits.equal(rows.clone().reshape([1, k]).expand([n * t, k])).float().cast(by.dtype());
            output = output + hits.matmul(by).reshape([n, t, d]);
        }
        let read = move |delta: Tensor<3>| {
            let tokens = tokens.reshape([n, t, 1]).expand([n, t, k]);
            let one_hot = tokens.equal(rows.reshape([1, 1, k]).expand([n, t, k])).float().cast(delta.dtype());
            (one_hot, delta)
        };
        self.note(Block::new(name, k, d), output, read)
    }
}
