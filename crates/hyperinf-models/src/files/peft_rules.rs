//! Which layers an adapter is for, with which rank and scale: PEFT's rules for names.

use fancy_regex::Regex;

use super::peft_config::ends_in;
use crate::{AdapterConfig, LoadError, LoraConfig, TargetModules};

/// Deeper patterns are refused before they are parsed.
const DEEPEST: usize = 100;
const LONGEST: usize = 4096;
/// The layers of models without `target_modules`: the choice that PEFT makes for the families read here.
const USUAL: [&str; 4] = ["q_proj", "v_proj", "query", "value"];

/// The settings about names, with their patterns compiled.
pub(super) struct Rules<'a> {
    config: &'a AdapterConfig,
    targets: Names<'a>,
    excluded: Names<'a>,
    /// Layers inside saved modules have no adapter.
    saved: Vec<Regex>,
    /// Capture the index of a layer.
    indices: Vec<Regex>,
    ranks: Vec<(Pattern<'a>, usize)>,
    alphas: Vec<(Pattern<'a>, f64)>,
}

/// Names by their ends, or by a pattern of the whole.
enum Names<'a> {
    None,
    All,
    Ends(Vec<&'a str>),
    Pattern(Regex),
}

/// The end of a name, from a `.` on.
enum Pattern<'a> {
    /// Most patterns are plain names: an adapter may have one for each of its layers.
    Plain(&'a str),
    Regex(Regex),
}

/// A pattern that cannot be used.
pub(super) struct BadPattern {
    pub(super) setting: &'static str,
    pub(super) pattern: String,
    reason: String,
}

impl<'a> Rules<'a> {
    pub(super) fn new(config: &'a AdapterConfig) -> Result<Self, BadPattern> {
        let list = |names: &'a [String]| Names::Ends(names.iter().map(String::as_str).collect());
        let names = |setting, names: &'a TargetModules| match names {
            TargetModules::Usual => Ok(Names::Ends(USUAL.to_vec())),
            TargetModules::AllLinear => Ok(Names::All),
            TargetModules::Names(names) => Ok(list(names)),
            TargetModules::Pattern(pattern) => compiled(setting, pattern, ("^(?:", ")$")).map(Names::Pattern),
        };
        let saved = config.modules_to_save.iter();
        let indices = if config.layers_pattern.is_empty() {
            vec![compiled("layers_pattern", r"[^.]*", (r"^.*?\.", r"\.(\d+)\."))?]
        } else {
            let layers = config.layers_pattern.iter();
            layers
                .map(|layers| compiled("layers_pattern", layers, (r"^(?:.*?\.)?(?:", r")\.(\d+)\.")))
                .collect::<Result<_, _>>()?
        };
        Ok(Self {
            config,
            targets: names("target_modules", &config.target_modules)?,
            excluded: config.excluded.as_ref().map_or(Ok(Names::None), |n| names("exclude_modules", n))?,
            saved: saved
                .map(|module| compiled("modules_to_save", module, (r"^(?:.*\.)?(?:", r")(?:$|\..*)")))
                .collect::<Result<_, _>>()?,
            indices,
            ranks: patterns("rank_pattern", &config.ranks)?,
            alphas: patterns("alpha_pattern", &config.alphas)?,
        })
    }

    /// Whether the settings name a layer. Its name is the one in the model: `model.layers.0.self_attn.q_proj`.
    pub(super) fn name(&self, layer: &str) -> bool {
        if self.excluded.include(layer) || self.saved.iter().any(|module| is_match(module, layer)) {
            return false;
        }
        self.targets.include(layer) && (self.targets.has(layer) || self.has_index(layer))
    }

    /// Whether the settings name an output layer or an embedding, which `all-linear` leaves out.
    pub(super) fn name_apart(&self, module: &str) -> bool {
        !matches!(self.targets, Names::All) && self.name(module)
    }

    /// Rank, scale and dropout of a layer.
    pub(super) fn of(&self, layer: &str) -> LoraConfig {
        let rank = self.ranks.iter().find(|(pattern, _)| pattern.matches(layer)).map(|(_, rank)| *rank);
        let alpha = self.alphas.iter().find(|(pattern, _)| pattern.matches(layer)).map(|(_, alpha)| *alpha);
        let lora = self.config.lora;
        LoraConfig { rank: rank.unwrap_or(lora.rank), alpha: alpha.unwrap_or(lora.alpha), ..lora }
    }

    /// Whether the layer's index is one of those to transform.
    fn has_index(&self, layer: &str) -> bool {
        let Some(wanted) = self.config.layers_to_transform.as_ref().filter(|wanted| !wanted.is_empty()) else {
            return true;
        };
        let index = |regex: &Regex| {
            let captures = regex.captures(layer).ok().flatten()?;
            captures.get(1).and_then(|index| index.as_str().parse::<usize>().ok())
        };
        self.indices.iter().find_map(index).is_some_and(|index| wanted.contains(&index))
    }
}

impl Names<'_> {
    fn include(&self, layer: &str) -> bool {
        match self {
            Names::None => false,
            Names::All => true,
            Names::Ends(ends) => ends.iter().any(|end| ends_in(layer, end)),
            Names::Pattern(pattern) => is_match(pattern, layer),
        }
    }

    /// Whether a name is there in full; its index does not matter then.
    fn has(&self, layer: &str) -> bool {
        matches!(self, Names::Ends(ends) if ends.contains(&layer))
    }
}

impl Pattern<'_> {
    fn matches(&self, layer: &str) -> bool {
        match self {
            Pattern::Plain(end) => ends_in(layer, end),
            Pattern::Regex(regex) => is_match(regex, layer),
        }
    }
}

impl BadPattern {
    pub(super) fn error(self, adapter: &std::path::Path) -> LoadError {
        LoadError::AdapterSetting {
            path: adapter.to_owned(),
            setting: self.setting.to_owned(),
            found: format!("{:?} ({})", self.pattern, self.reason),
            expected: "names or regular expressions",
        }
    }
}

fn patterns<'a, T: Copy>(
    setting: &'static str,
    entries: &'a [(String, T)],
) -> Result<Vec<(Pattern<'a>, T)>, BadPattern> {
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let pattern = |(name, value): &'a (String, T)| {
        let pattern = if plain(name) {
            Pattern::Plain(name)
        } else {
            Pattern::Regex(compiled(setting, name, (r"^(?:.*\.)?(?:", ")$"))?)
        };
        Ok((pattern, *value))
    };
    entries.iter().map(pattern).collect()
}

/// A pattern between a beginning and an end.
fn compiled(setting: &'static str, pattern: &str, (begin, end): (&str, &str)) -> Result<Regex, BadPattern> {
    let bad = |reason: String| BadPattern { setting, pattern: pattern.chars().take(80).collect(), reason };
    if pattern.len() > LONGEST || pattern.matches(['(', '[', '{']).count() > DEEPEST {
        return Err(bad(format!("it has more than {LONGEST} characters or {DEEPEST} brackets")));
    }
    // Alone first: a pattern must not close the group that it is put into.
    Regex::new(pattern)
        .and_then(|_| Regex::new(&format!("{begin}{pattern}{end}")))
        .map_err(|error| bad(error.to_string()))
}

/// A pattern that takes too many steps matches nothing; its tensors are then reported as not named.
fn is_match(regex: &Regex, name: &str) -> bool {
    regex.is_match(name).unwrap_or(false)
}
