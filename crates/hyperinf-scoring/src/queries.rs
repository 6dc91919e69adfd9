use std::sync::Arc;

use hyperinf_gradients::{Block, Capture, Gradients};

use crate::passes::mean;
use crate::{ScoreError, Set, Source};

/// One query: the mean gradient of one set less that of another.
///
/// Scores for it are those for the mean of `helped` less those for the mean of `harmed`: positive = helps `helped`
/// more than `harmed`, whatever it does to both. The set `harmed` is [`Set::Contrast`] in errors.
#[derive(Clone, Copy)]
pub struct Contrast<'a> {
    /// What samples are to help.
    pub helped: &'a dyn Source,
    /// What they are not to help.
    pub harmed: &'a dyn Source,
}

impl Source for Contrast<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Gradients) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        let helped = mean(self.helped, false, Set::Query)?;
        let harmed = mean(self.harmed, false, Set::Contrast)?;
        helped.same_layout(&harmed).map_err(ScoreError::gradients(Set::Contrast))?;
        let blocks = helped.blocks.into_iter().zip(harmed.blocks).map(|(a, b)| a - b).collect();
        visit(Gradients { layout: helped.layout, blocks })
    }
}

/// Several sources one after the other: the samples of the second count on from those of the first.
#[derive(Clone)]
pub struct Joined<'a>(pub Vec<&'a dyn Source>);

impl Source for Joined<'_> {
    fn pass(&self, visit: &mut dyn FnMut(Gradients) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.0.iter().try_for_each(|source| source.pass(visit))
    }

    fn has_captures(&self) -> bool {
        self.0.iter().all(|source| source.has_captures())
    }

    fn unprojected(&self) -> Option<Arc<[Block]>> {
        self.0.first().and_then(|source| source.unprojected())
    }

    fn pass_captures(&self, visit: &mut dyn FnMut(Vec<Capture>) -> Result<(), ScoreError>) -> Result<(), ScoreError> {
        self.0.iter().try_for_each(|source| source.pass_captures(visit))
    }
}
