//! BM25 over words, with an inverted index.

use std::collections::HashMap;

/// How fast repeated words saturate.
const K1: f64 = 1.2;
/// How much long documents are discounted.
const B: f64 = 0.75;

/// An index of documents for BM25 (Robertson and Zaragoza 2009, in Lucene's form):
///
/// ```text
/// score(q, d) = Σ_{w in q} ln(1 + (N − n_w + ½) / (n_w + ½)) · f_wd (k₁ + 1) / (f_wd + k₁ (1 − b + b |d| / mean |d|))
/// ```
///
/// over the words `w` of the query, repeated words several times; `N` documents, `n_w` of them with the word, `f_wd`
/// times in `d`; `k₁ = 1.2`, `b = 0.75`. Scores are not negative; 0: no word in common.
///
/// A word is a run of letters and digits in lower case, or one Chinese or Japanese character. There are no stop words and
/// no stems, which depend on the language.
///
/// ```
/// use hyperinf_data::Bm25;
///
/// let index = Bm25::new(["the cold river", "a river boat and a river fish", "the fox"]);
/// let scores = index.scores("River?");
/// assert!(scores[1] > scores[0] && scores[0] > 0.0 && scores[2] == 0.0);
/// ```
#[derive(Clone, Debug)]
pub struct Bm25 {
    /// The documents with a word, and how often it is there.
    index: HashMap<String, Vec<(usize, usize)>>,
    lengths: Vec<usize>,
}

impl Bm25 {
    /// An index of these documents.
    pub fn new<S: AsRef<str>>(documents: impl IntoIterator<Item = S>) -> Self {
        let (mut index, mut lengths) = (HashMap::<String, Vec<(usize, usize)>>::new(), Vec::new());
        for document in documents {
            let (number, mut length) = (lengths.len(), 0);
            words(document.as_ref(), |word| {
                length += 1;
                let found = index.entry(word).or_default();
                match found.last_mut() {
                    Some((last, count)) if *last == number => *count += 1,
                    _ => found.push((number, 1)),
                }
            });
            lengths.push(length);
        }
        Self { index, lengths }
    }

    /// The score of each document for a query.
    pub fn scores(&self, query: &str) -> Vec<f64> {
        let n = self.lengths.len() as f64;
        let mean = self.lengths.iter().sum::<usize>() as f64 / n;
        let mut scores = vec![0.0; self.lengths.len()];
        words(query, |word| {
            let Some(found) = self.index.get(&word) else { return };
            let having = found.len() as f64;
            let rarity = (1.0 + (n - having + 0.5) / (having + 0.5)).ln();
            for &(document, count) in found {
                let (count, length) = (count as f64, self.lengths[document] as f64);
                scores[document] += rarity * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length / mean));
            }
        });
        scores
    }
}

/// Calls `visit` with each word.
fn words(text: &str, mut visit: impl FnMut(String)) {
    let mut word = String::new();
    for letter in text.chars() {
        let alone = is_alone(letter);
        if (alone || !letter.is_alphanumeric()) && !word.is_empty() {
            visit(std::mem::take(&mut word));
        }
        if alone {
            visit(letter.to_string());
        } else if letter.is_alphanumeric() {
            word.extend(letter.to_lowercase());
        }
    }
    if !word.is_empty() {
        visit(word);
    }
}

/// Characters of scripts that are written without spaces.
fn is_alone(letter: char) -> bool {
    matches!(letter, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}
