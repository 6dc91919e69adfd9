/// A matrix that would exceed a limit of memory.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("a matrix of {rows} × {cols} would take {gib:.1} GiB (at most {limit_gib:.0})")]
pub struct TooLarge {
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub cols: usize,
    /// Its size.
    pub gib: f64,
    /// The largest size accepted.
    pub limit_gib: f64,
}

/// Checks a matrix's size before it is formed: `rows · cols · width` bytes against a limit in bytes.
///
/// # Errors
///
/// If it is above the limit.
pub fn check_size([rows, cols]: [usize; 2], width: u64, limit: u64) -> Result<(), TooLarge> {
    let bytes = (rows as u64).saturating_mul(cols as u64).saturating_mul(width);
    if bytes <= limit {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Err(TooLarge { rows, cols, gib: gib(bytes), limit_gib: gib(limit) })
}
