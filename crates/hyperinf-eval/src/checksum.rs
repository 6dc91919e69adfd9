/// FNV-1a over little-endian words: the same in every version and on every machine, as fingerprints of banks must be.
pub(crate) fn fnv1a(words: impl Iterator<Item = u64>) -> u64 {
    let bytes = words.flat_map(u64::to_le_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
