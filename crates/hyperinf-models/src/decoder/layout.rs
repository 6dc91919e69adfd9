/// Reorders a weight that is stored as `[d_output, d_input]` into ours, `[d_input, d_output]`; output `j` of ours is
/// row `row(j)` of the stored.
pub(crate) fn transposed(stored: &[f32], d_input: usize, d_output: usize, row: impl Fn(usize) -> usize) -> Vec<f32> {
    let mut ours = vec![0.0; stored.len()];
    // Tiles of both sides stay in the cache.
    const TILE: usize = 64;
    for first_input in (0..d_input).step_by(TILE) {
        for first_output in (0..d_output).step_by(TILE) {
            for j in first_output..(first_output + TILE).min(d_output) {
                let from = &stored[row(j) * d_input..(row(j) + 1) * d_input];
                for i in first_input..(first_input + TILE).min(d_input) {
                    ours[i * d_output + j] = from[i];
                }
            }
        }
    }
    ours
}

/// Where output `j` of a query or key layer, whose heads rotate halves, lies in a file whose heads rotate neighbours:
/// entry `i` of a head's first half at `2i`, of its second half at `2i + 1`.
///
/// With the rows in this order both rotations give the same products of queries and keys.
pub(crate) fn neighbour_of_half(j: usize, head_size: usize) -> usize {
    let (head, entry, half) = (j / head_size, j % head_size, head_size / 2);
    head * head_size + if entry < half { 2 * entry } else { 2 * (entry - half) + 1 }
}
