//! The figures of predictions, and when a model counts as having learned.

use hyperinf::data::{Guess, Labels, Predicted, Prediction, Quality, Verdict};
use hyperinf_tests::compare::assert_close;

/// A row with a label, the likeliest class and the probability of the label.
fn row(label: usize, class: usize, own: f64) -> Prediction {
    let probability = if label == class { own } else { 1.0 - own };
    Prediction { loss: -own.ln(), target: Predicted::Class(Guess { label, class, probability }) }
}

fn labels() -> Labels {
    Labels { names: vec!["ham".into(), "spam".into()], numbers: false, unnamed: false }
}

fn check(rows: &[Prediction], verdict: Option<Verdict>) {
    let Quality::Classes(found) = Quality::new(rows, Some(&labels())) else { panic!("these are classes") };
    assert_eq!(found.verdict, verdict, "{found}");
}

/// `spam` of `n` rows have the second label.
fn rows(n: usize, spam: usize, of: impl Fn(usize, usize) -> Prediction) -> Vec<Prediction> {
    (0..n).map(|i| of(i, usize::from(i < spam))).collect()
}

#[test]
fn when_a_classifier_has_learned() {
    check(&rows(100, 50, |_, label| row(label, label, 0.9)), Some(Verdict::Learned));
    // Right on 59 of 100 is chance with a standard error of .05, on 65 it is not.
    let right_on = |count| move |i, label| row(label, if i % 100 < count { label } else { 1 - label }, 0.5);
    check(&rows(100, 50, right_on(59)), Some(Verdict::Guessing));
    check(&rows(100, 50, right_on(65)), Some(Verdict::Hardly));
    // The same share of more rows is no chance.
    check(&rows(1000, 500, right_on(59)), Some(Verdict::Hardly));
    // Every row is right by a hair: the loss is .673 where a guess has .693.
    check(&rows(100, 50, |_, label| row(label, label, 0.51)), Some(Verdict::Hardly));
    check(&rows(100, 50, |_, label| row(label, label, 0.53)), Some(Verdict::Learned));
    // Sure and wrong on half of the rows.
    let wild =
        |i: usize, label| if i.is_multiple_of(2) { row(label, label, 0.99) } else { row(label, 1 - label, 0.01) };
    check(&rows(100, 50, wild), Some(Verdict::Guessing));
    // Always the frequent label, but with probabilities that know better: no better accuracy, a better loss.
    let careful = |_, label| row(label, 0, if label == 0 { 0.97 } else { 0.4 });
    check(&rows(100, 10, careful), Some(Verdict::Learned));
    // With the shares of the labels as probabilities there is nothing to it.
    check(&rows(100, 10, |_, label| row(label, 0, if label == 0 { 0.9 } else { 0.1 })), Some(Verdict::Guessing));
    // Anything predicts rows of one label.
    check(&rows(100, 0, |_, label| row(label, 0, 0.9)), None);
    check(&rows(1, 0, |_, label| row(label, 1, 0.1)), None);
}

#[test]
fn the_figures_of_a_classifier() {
    let found = [row(0, 0, 0.8), row(0, 1, 0.3), row(1, 1, 0.6), row(0, 0, 0.9)];
    let Quality::Classes(quality) = Quality::new(&found, Some(&labels())) else { panic!("these are classes") };
    let loss = -(0.8_f64.ln() + 0.3_f64.ln() + 0.6_f64.ln() + 0.9_f64.ln()) / 4.0;
    let entropy = -(0.75 * 0.75_f64.ln() + 0.25 * 0.25_f64.ln());
    let figures = [quality.loss, quality.entropy, quality.accuracy, quality.baseline, quality.explained.expect("two")];
    assert_close("figures", &figures, &[loss, entropy, 0.75, 0.75, 1.0 - loss / entropy], 1e-12);
    let counts: Vec<[usize; 3]> = quality.classes.iter().map(|c| [c.rows, c.predicted, c.right]).collect();
    assert_eq!(counts, [[3, 2, 2], [1, 2, 1]]);
}

#[test]
fn the_figures_of_a_language_model() {
    let rows =
        [(1.0, 1), (2.0, 3), (0.5, 6)].map(|(loss, tokens)| Prediction { loss, target: Predicted::Tokens(tokens) });
    let Quality::Tokens(quality) = Quality::new(&rows, None) else { panic!("these are tokens") };
    assert_eq!((quality.rows, quality.tokens), (3, 10));
    let figures = [quality.loss, quality.token_loss, quality.perplexity];
    assert_close("figures", &figures, &[3.5 / 3.0, 1.0, 1.0_f64.exp()], 1e-12);
}
