//! Names of methods, and what is done with scores.

use hyperinf::scoring::{Amount, Gfim, Method, Options, ScoreError, detect, methods, ranking, select, top_k};

#[test]
fn rankings_are_stable_and_amounts_checked() {
    let scores = [0.5, -2.0, 0.5, 3.0, -2.0];
    assert_eq!(ranking(&scores), [3, 0, 2, 1, 4]);
    assert_eq!(top_k(&scores, 2).expect("enough"), [3, 0]);
    assert_eq!(detect(&scores, Amount::Count(2)).expect("enough"), [1, 4]);
    assert_eq!(detect(&scores, Amount::Share(0.6)).expect("a share"), [1, 4, 0]);
    assert_eq!(select(&scores, Amount::Share(0.6)).expect("a share"), [0, 2, 3]);
    assert_eq!(select(&scores, Amount::Share(1.0)).expect("a share"), [0, 1, 2, 3, 4]);
    assert_eq!(detect(&scores, Amount::Share(0.0)).expect("a share"), [0_usize; 0]);
    for bad in [Amount::Share(1.5), Amount::Share(-0.1), Amount::Share(f64::NAN), Amount::Count(6)] {
        assert!(matches!(detect(&scores, bad), Err(ScoreError::Amount { .. })), "{bad:?}");
        assert!(matches!(select(&scores, bad), Err(ScoreError::Amount { .. })), "{bad:?}");
    }
    assert!(top_k(&scores, 6).is_err());
}

#[test]
fn every_method_has_a_name_and_every_name_a_method() {
    let names: Vec<_> = methods().iter().map(|m| m.name).collect();
    let expected = [
        "identity",
        "cosine",
        "datainf",
        "lissa",
        "cg",
        "block-cg",
        "lanczos",
        "nystrom",
        "exact",
        "hyperinf",
        "hyperinf-authors",
        "diagonal",
        "kfac",
        "ekfac",
        "shampoo",
    ];
    assert_eq!(names, expected);
    assert!(names.iter().all(|name| Options::named(name).is_ok()));
    assert!(Options::named("newton").is_err());
    // The default is HyperINF.
    let Method::Inverse { storage, solver } = Options::default().method else { panic!("an inverse") };
    assert_eq!((storage, solver.name()), (Gfim::default().storage(), "auto"));
}
