//! From the layout of files to that of Burn's `Linear`: `[d_output, d_input]` to `[d_input, d_output]`.

/// The transpose of a matrix `[rows, cols]`.
pub(crate) fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    transposed_rows(values, rows, cols, |row| row)
}

/// The transpose of a matrix `[rows, cols]` with its rows reordered: column `j` of the result is row `row(j)`.
pub(crate) fn transposed_rows(values: &[f32], rows: usize, cols: usize, row: impl Fn(usize) -> usize) -> Vec<f32> {
    /// The side of a tile, small enough that tiles of both matrices stay in the cache.
    const TILE: usize = 64;
    let mut result = vec![0.0; values.len()];
    for first_col in (0..cols).step_by(TILE) {
        for first_row in (0..rows).step_by(TILE) {
            for j in first_row..(first_row + TILE).min(rows) {
                let from = &values[row(j) * cols..(row(j) + 1) * cols];
                for i in first_col..(first_col + TILE).min(cols) {
                    result[i * rows + j] = from[i];
                }
            }
        }
    }
    result
}

/// The row of output `j` of a query or key layer in a file whose heads rotate neighbours, where our heads rotate
/// halves: entry `i` of a head's first half is at `2i`, of its second half at `2i + 1`.
///
/// With rows in this order, both rotations give the same products of queries and keys.
pub(crate) fn neighbour_of_half(j: usize, head_size: usize) -> usize {
    let (head, entry, half) = (j / head_size, j % head_size, head_size / 2);
    head * head_size + if entry < half { 2 * entry } else { 2 * (entry - half) + 1 }
}
