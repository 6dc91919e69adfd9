mod error;
mod estimate;
mod part;

use std::fmt;
use std::str::FromStr;

use hyperinf_curvature::{Scale, Side};
use hyperinf_solvers::solver;

pub use self::error::SpecError;
pub use self::estimate::EstimateKind;
use self::part::{Part, Word};

use crate::{Gfim, Method, MethodInfo, Options, methods};

/// A method with its choices, in one word: `name[:side][:scale][:merged][/solver][@estimate]`.
///
/// | part | words | purpose | for |
/// |---|---|---|---|
/// | name | see [`methods`] | structure of the curvature and its solver | |
/// | side | `short`, `rows`, `cols` | the side that is summed over | `hyperinf`, `hyperinf-authors` |
/// | scale | `mean`, `sum` | whether the sum is divided by the side's length | `hyperinf` |
/// | merged | `merged` | one matrix over all blocks | methods with curvature |
/// | solver | see [`solvers`](hyperinf_solvers::solvers) | replaces the method's solver | methods with curvature |
/// | estimate | `empirical`, `sampled`, `gauss-newton` | the curvature's samples | methods with curvature |
///
/// The words after the name may come in any order. A part that is left out has its default and is not printed: parsing
/// parsing the output of [`Display`](fmt::Display) gives the same specification.
///
/// ```
/// use hyperinf_curvature::Side;
/// use hyperinf_scoring::{EstimateKind, MethodSpec, SpecError};
///
/// # fn main() -> Result<(), SpecError> {
/// let spec: MethodSpec = "hyperinf:cols:merged@gauss-newton".parse()?;
/// assert_eq!((spec.method.name, spec.side, spec.merged), ("hyperinf", Some(Side::Cols), true));
/// assert_eq!(spec.estimate, Some(EstimateKind::GaussNewton));
/// assert_eq!(spec.to_string(), "hyperinf:cols:merged@gauss-newton");
/// let options = spec.options()?;
/// assert!(options.merged);
///
/// let error = "hyperinf:colls".parse::<MethodSpec>().expect_err("there is no such side");
/// assert!(error.to_string().contains("`cols`"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodSpec {
    /// The named method.
    pub method: &'static MethodInfo,
    /// The side that is summed over; the shorter one by default.
    pub side: Option<Side>,
    /// The scale of the sum over a side; its mean by default.
    pub scale: Option<Scale>,
    /// One matrix over all blocks instead of one per block.
    pub merged: bool,
    /// The name of a solver, one of [`solvers`](hyperinf_solvers::solvers); the method's own by default.
    pub solver: Option<&'static str>,
    /// The estimate of the curvature; the caller chooses the default.
    pub estimate: Option<EstimateKind>,
}

impl From<&'static MethodInfo> for MethodSpec {
    fn from(method: &'static MethodInfo) -> Self {
        Self { method, side: None, scale: None, merged: false, solver: None, estimate: None }
    }
}

impl MethodSpec {
    /// Every named method with its defaults.
    pub fn all() -> Vec<Self> {
        methods().iter().map(Self::from).collect()
    }

    /// The methods of several words, each once; the word `all` stands for the methods of `all`.
    ///
    /// # Errors
    ///
    /// As parsing each word.
    pub fn list<S: AsRef<str>>(words: &[S], all: &[Self]) -> Result<Vec<Self>, SpecError> {
        let mut found: Vec<Self> = Vec::new();
        for word in words.iter().map(|word| word.as_ref().trim()) {
            let specs = if word == "all" { all.to_vec() } else { vec![word.parse()?] };
            for spec in specs {
                if !found.contains(&spec) {
                    found.push(spec);
                }
            }
        }
        Ok(found)
    }

    /// The solver of that name, for [`MethodSpec::solver`].
    ///
    /// # Errors
    ///
    /// [`SpecError::Unknown`] if no method has this name.
    pub fn solver_named(name: &str) -> Result<&'static str, SpecError> {
        let word = Word { spec: name, start: 0, word: name };
        Part::Solver.words().into_iter().find(|known| *known == name).ok_or_else(|| word.unknown(&[Part::Solver]))
    }

    /// The same method for many dampings: where it means the inverse itself, by one eigendecomposition for all of them.
    #[must_use]
    pub fn for_sweep(self) -> Self {
        Self { solver: self.solver.or(self.method.sweep_solver()), ..self }
    }

    /// The side and scale, with their defaults.
    pub fn gfim(&self) -> Gfim {
        Gfim { side: self.side.unwrap_or_default(), scale: self.scale.unwrap_or_default() }
    }

    /// The options that it stands for, everything else at its default.
    ///
    /// The estimate is not part of them: it decides [`CurvatureFrom`](crate::CurvatureFrom).
    ///
    /// # Errors
    ///
    /// [`SpecError::Unfit`] if the method does not have one of the choices, [`SpecError::Unknown`] if the solver is
    /// not one of [`solvers`](hyperinf_solvers::solvers).
    pub fn options(&self) -> Result<Options, SpecError> {
        let spec = self.to_string();
        for (part, word) in self.parts() {
            let start = spec.find(&format!("{}{word}", part.separator())).map_or(0, |before| before + 1);
            part.check(self.method, Word { spec: &spec, start, word })?;
        }
        let mut options = self.method.options(self.gfim());
        options.merged = self.merged;
        if let (Some(name), Method::Inverse { storage, .. }) = (self.solver, &options.method) {
            let start = spec.find('/').map_or(0, |before| before + 1);
            let found = solver(name).ok_or_else(|| Word { spec: &spec, start, word: name }.unknown(&[Part::Solver]))?;
            options.method = Method::Inverse { storage: *storage, solver: found.into() };
        }
        Ok(options)
    }

    /// The parts after the name with their words, in the order in which they are printed.
    fn parts(&self) -> Vec<(Part, &'static str)> {
        let side = self.side.map(|side| (Part::Side, side_name(side)));
        let scale = self.scale.map(|scale| (Part::Scale, scale_name(scale)));
        let merged = self.merged.then_some((Part::Merged, MERGED));
        let solver = self.solver.map(|solver| (Part::Solver, solver));
        let estimate = self.estimate.map(|estimate| (Part::Estimate, estimate.name()));
        [side, scale, merged, solver, estimate].into_iter().flatten().collect()
    }

    /// Takes a word as this part; `None` if it is not one of the part's words.
    fn take(&mut self, part: Part, word: &str) -> Option<()> {
        match part {
            Part::Side => self.side = Some(SIDES.into_iter().find(|side| side_name(*side) == word)?),
            Part::Scale => self.scale = Some(SCALES.into_iter().find(|scale| scale_name(*scale) == word)?),
            Part::Merged => self.merged = (word == MERGED).then_some(true)?,
            Part::Solver => self.solver = Some(part.words().into_iter().find(|name| *name == word)?),
            Part::Estimate => self.estimate = Some(EstimateKind::ALL.into_iter().find(|kind| kind.name() == word)?),
        }
        Some(())
    }
}

const SIDES: [Side; 3] = [Side::Short, Side::Rows, Side::Cols];
const SCALES: [Scale; 2] = [Scale::Mean, Scale::Sum];
const MERGED: &str = "merged";
const SEPARATORS: [char; 3] = [':', '/', '@'];

/// The word of a side: `short`, `rows` or `cols`.
pub fn side_name(side: Side) -> &'static str {
    match side {
        Side::Short => "short",
        Side::Rows => "rows",
        Side::Cols => "cols",
    }
}

/// The word of a scale: `mean` or `sum`.
pub fn scale_name(scale: Scale) -> &'static str {
    match scale {
        Scale::Mean => "mean",
        Scale::Sum => "sum",
    }
}

impl fmt::Display for MethodSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method.name)?;
        self.parts().into_iter().try_for_each(|(part, word)| write!(f, "{}{word}", part.separator()))
    }
}

impl FromStr for MethodSpec {
    type Err = SpecError;

    fn from_str(spec: &str) -> Result<Self, SpecError> {
        let mut end = spec.find(SEPARATORS).unwrap_or(spec.len());
        let name = Word { spec, start: 0, word: &spec[..end] };
        let method = MethodInfo::named(name.word).ok_or_else(|| name.no_method())?;
        let mut found = Self::from(method);
        let mut seen = Vec::new();
        while let Some(separator) = spec[end..].chars().next() {
            let start = end + separator.len_utf8();
            end = spec[start..].find(SEPARATORS).map_or(spec.len(), |length| start + length);
            let word = Word { spec, start, word: &spec[start..end] };
            let parts = Part::after(separator);
            let part = parts.iter().copied().find(|&part| found.take(part, word.word).is_some());
            let part = part.ok_or_else(|| word.unknown(parts))?;
            if seen.contains(&part) {
                return Err(word.repeated(part));
            }
            part.check(method, word)?;
            seen.push(part);
        }
        Ok(found)
    }
}

impl TryFrom<String> for MethodSpec {
    type Error = SpecError;

    fn try_from(spec: String) -> Result<Self, SpecError> {
        spec.parse()
    }
}

impl From<MethodSpec> for String {
    fn from(spec: MethodSpec) -> Self {
        spec.to_string()
    }
}
