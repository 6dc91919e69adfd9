/// One weight matrix of a model, the unit in which curvature is stored and inverted.
///
/// Orientation is Burn's `Linear`: inputs × outputs. A bias is one more row, the last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// The layer's name, unique within a model.
    pub name: String,
    /// Inputs of the layer, one more if it has a bias.
    pub rows: usize,
    /// Outputs of the layer.
    pub cols: usize,
}

impl Block {
    /// A block of `rows × cols` parameters.
    pub fn new(name: impl Into<String>, rows: usize, cols: usize) -> Self {
        Self { name: name.into(), rows, cols }
    }

    /// The number of parameters, `D = rows · cols`.
    pub fn parameters(&self) -> usize {
        self.rows * self.cols
    }
}
