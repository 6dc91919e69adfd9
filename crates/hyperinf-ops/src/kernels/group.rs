use super::norm::{moments, through_moments};
use super::{Rows, part};

/// The groups of channels of pictures; a row is all pixels of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    /// Groups of a picture.
    count: usize,
    /// Channels of a group.
    channels: usize,
    /// Pixels of a channel.
    pixels: usize,
    epsilon: f32,
}

impl Groups {
    /// Of pictures `[n, c, h, w]`.
    pub(crate) fn of([_, channels, rows, columns]: [usize; 4], count: usize, epsilon: f64) -> Self {
        Self { count, channels: channels / count, pixels: rows * columns, epsilon: epsilon as f32 }
    }

    /// Numbers of a row.
    pub(crate) fn length(&self) -> usize {
        self.channels * self.pixels
    }

    /// The values of a row's channels.
    #[inline(always)]
    fn own<'a>(&self, values: &'a [f32], row: usize) -> &'a [f32] {
        part(values, row % self.count, self.channels, self.channels)
    }
}

/// `(x − mean) / √(var + ε) · gain + bias` of each group, with a gain and bias for each channel.
pub(crate) struct GroupNorm<'a> {
    pub x: &'a [f32],
    pub gain: &'a [f32],
    pub bias: &'a [f32],
    pub groups: Groups,
}

impl Rows for GroupNorm<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let (length, pixels) = (self.groups.length(), self.groups.pixels);
        let x = part(self.x, first, length, out.len());
        for (row, (y, x)) in out.chunks_exact_mut(length).zip(x.chunks_exact(length)).enumerate() {
            let (mean, factor) = moments(x, self.groups.epsilon);
            let (gain, bias) = (self.groups.own(self.gain, first + row), self.groups.own(self.bias, first + row));
            let channels = y.chunks_exact_mut(pixels).zip(x.chunks_exact(pixels)).zip(gain.iter().zip(bias));
            for ((y, x), (gain, bias)) in channels {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) * factor * gain + bias);
            }
        }
    }
}

/// The output gradient, replaced by the input gradient: that of a layer normalisation of each group.
pub(crate) struct GroupNormGradient<'a> {
    pub x: &'a [f32],
    pub gain: &'a [f32],
    pub groups: Groups,
}

impl Rows for GroupNormGradient<'_> {
    #[inline(always)]
    fn fill(&self, first: usize, out: &mut [f32]) {
        let (length, pixels) = (self.groups.length(), self.groups.pixels);
        let x = part(self.x, first, length, out.len());
        for (row, (g, x)) in out.chunks_exact_mut(length).zip(x.chunks_exact(length)).enumerate() {
            for (g, gain) in g.chunks_exact_mut(pixels).zip(self.groups.own(self.gain, first + row)) {
                g.iter_mut().for_each(|g| *g *= gain);
            }
            through_moments(g, x, self.groups.epsilon);
        }
    }
}
