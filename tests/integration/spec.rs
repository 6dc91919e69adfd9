//! One word for a method: read, printed, refused.

use hyperinf::curvature::{Scale, Side, Storage};
use hyperinf::scoring::{EstimateKind, Method, MethodSpec, SpecError, methods};
use hyperinf::solvers::solvers;

/// Every specification that its method allows.
fn every() -> Vec<MethodSpec> {
    let names: Vec<&'static str> = solvers().iter().map(|solver| solver.name()).collect();
    let options = |has: bool, all: &[&'static str]| -> Vec<Option<&'static str>> {
        let some = all.iter().copied().map(Some).filter(|_| has);
        std::iter::once(None).chain(some).collect()
    };
    let mut found = Vec::new();
    for method in methods() {
        for side in [None, Some(Side::Short), Some(Side::Rows), Some(Side::Cols)] {
            for scale in [None, Some(Scale::Mean), Some(Scale::Sum)] {
                if side.is_some() && !method.has_side() || scale.is_some() && !method.has_scale() {
                    continue;
                }
                for merged in [false, true].into_iter().filter(|merged| !merged || method.has_curvature()) {
                    for solver in options(method.has_curvature(), &names) {
                        for estimate in [None].into_iter().chain(EstimateKind::ALL.map(Some)) {
                            if estimate.is_none() || method.has_curvature() {
                                found.push(MethodSpec { method, side, scale, merged, solver, estimate });
                            }
                        }
                    }
                }
            }
        }
    }
    found
}

#[test]
fn what_is_printed_is_read_as_the_same() {
    let all = every();
    assert!(all.len() > 1000, "{}", all.len());
    for spec in all {
        assert_eq!(spec.to_string().parse::<MethodSpec>(), Ok(spec), "{spec}");
        assert!(spec.options().is_ok_and(|options| options.merged == spec.merged), "{spec}");
    }
}

#[test]
fn a_word_stands_for_its_options() {
    let storage = |spec: &str| match spec.parse::<MethodSpec>().and_then(|spec| spec.options()).expect(spec).method {
        Method::Inverse { storage, solver } => (storage, solver.name()),
        Method::Identity => panic!("{spec} has a curvature"),
    };
    let cols = Storage::OneSided { side: Side::Cols, scale: Scale::Mean };
    assert_eq!(storage("hyperinf:cols:merged@gauss-newton"), (cols, "auto"));
    assert_eq!(storage("hyperinf/exact:cols"), (cols, "exact"));
    assert_eq!(storage("hyperinf:sum:rows").0, Storage::OneSided { side: Side::Rows, scale: Scale::Sum });
    assert_eq!(storage("ekfac@sampled").0, Storage::Kronecker { corrected: true });
    assert_eq!("ekfac".parse::<MethodSpec>().expect("it is a method").method.estimate, EstimateKind::Sampled);
}

#[test]
fn a_wrong_word_is_named_with_its_place_and_the_nearest() {
    let error = |spec: &str| spec.parse::<MethodSpec>().expect_err(spec);
    let unknown = |spec: &str| match error(spec) {
        SpecError::Unknown { word, position, nearest, .. } => (word, position, nearest),
        other => panic!("{spec}: {other}"),
    };
    assert_eq!(unknown("hyperinff"), ("hyperinff".into(), 1, Some("hyperinf")));
    assert_eq!(unknown("zzz:cols"), ("zzz".into(), 1, None));
    assert_eq!(unknown("hyperinf:colls"), ("colls".into(), 10, Some("cols")));
    assert_eq!(unknown("hyperinf:cols/exakt@sampled"), ("exakt".into(), 15, Some("exact")));
    assert_eq!(unknown("exact@guess-newton").2, Some("gauss-newton"));
    for empty in ["", "exact:", "exact/", "exact@", "exact::merged"] {
        assert_eq!(unknown(empty).0, "", "{empty:?}");
    }
    assert!(matches!(error("hyperinf:rows:cols"), SpecError::Repeated { position: 15, what: "side", .. }));
    assert!(matches!(error("exact@sampled@sampled"), SpecError::Repeated { position: 15, .. }));
    for (spec, what) in [
        ("exact:rows", "side"),
        ("hyperinf-authors:sum", "scale"),
        ("identity:merged", "merged matrix"),
        ("cosine/exact", "solver"),
        ("identity@empirical", "estimate"),
    ] {
        assert!(matches!(error(spec), SpecError::Unfit { what: found, .. } if found == what), "{spec}");
    }
    let by_hand = MethodSpec { side: Some(Side::Rows), .."exact".parse().expect("it is a method") };
    assert!(matches!(by_hand.options(), Err(SpecError::Unfit { position: 7, .. })));
}

#[test]
fn a_list_has_each_method_once() {
    let list = |words: &[&str]| MethodSpec::list(words, &MethodSpec::all()).map(|specs| specs.len());
    assert_eq!(list(&["exact", " exact", "hyperinf:cols"]), Ok(2));
    assert_eq!(list(&["exact", "all", "exact:merged"]), Ok(methods().len() + 1));
    assert!(list(&["exact", "none"]).is_err());
}
