use burn::tensor::{DType, Device, Tensor, TensorData};

/// The channels of a timestep's first embedding.
pub(super) const TIMESTEP_CHANNELS: usize = 256;

/// `[cos(t f_j), sin(t f_j)]` with `f_j = 10000^(−j / half)`, `[m, channels]`: diffusers' `Timesteps` with
/// `flip_sin_to_cos` and shift 0. The angles are computed in f64.
pub(super) fn timesteps(timesteps: &[f64], channels: usize, device: &Device, dtype: DType) -> Tensor<2> {
    let half = channels / 2;
    let mut values = vec![0.0; timesteps.len() * channels];
    for (row, &t) in values.chunks_exact_mut(channels).zip(timesteps) {
        for j in 0..half {
            let (sin, cos) = (t * 10000.0_f64.powf(-(j as f64) / half as f64)).sin_cos();
            (row[j], row[half + j]) = (cos, sin);
        }
    }
    Tensor::from_data(TensorData::new(values, [timesteps.len(), channels]), (device, dtype))
}

/// Positions of a square of `side × side` patches, `[1, side², width]`: sines and cosines of the column in the first
/// half, of the row in the second; diffusers' `get_2d_sincos_pos_embed`. Positions are divided by `scale`.
pub(super) fn positions(side: usize, width: usize, scale: f64, device: &Device, dtype: DType) -> Tensor<3> {
    let quarter = width / 4;
    let mut values = Vec::with_capacity(side * side * width);
    for row in 0..side {
        for column in 0..side {
            for place in [column, row] {
                let angle = |j: usize| place as f64 / scale * 10000.0_f64.powf(-(j as f64) / quarter as f64);
                values.extend((0..quarter).map(|j| angle(j).sin()));
                values.extend((0..quarter).map(|j| angle(j).cos()));
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [1, side * side, width]), (device, dtype))
}
