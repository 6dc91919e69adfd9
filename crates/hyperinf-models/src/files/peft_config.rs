use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::load::read_json;
use super::pairs::Pairs;
use super::peft_rules::Rules;
use super::peft_settings::{ADAPTER_SETTINGS, Treatment};
use crate::{ALL_LINEAR, LoadError, LoraConfig, LoraScaling};

/// The task of an adapter's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterTask {
    /// Classification of sequences, PEFT's `SEQ_CLS`.
    Classification,
    /// Language modelling, PEFT's `CAUSAL_LM`.
    CausalLm,
    /// Another task or none; the layers are adapted all the same.
    Other,
}

/// A choice of layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// Those that PEFT chooses for the model: query and value of every layer.
    Usual,
    /// All linear layers but the head.
    AllLinear,
    /// Layers whose names are one of these or end in `.` and one of these.
    Names(Vec<String>),
    /// Layers whose whole names, without `base_model.model.`, match this regular expression.
    Pattern(String),
}

/// The tokens whose rows of the embedding an adapter replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainedTokens {
    /// The end of the embedding's name; `None` for the model's token embedding.
    pub module: Option<String>,
    /// The tokens, one for each row.
    pub tokens: Vec<usize>,
}

/// The settings of an adapter, `adapter_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rank, scale and dropout.
    pub lora: LoraConfig,
    /// Ranks that differ from `lora`, by regular expressions of the ends of the layers' names; the first that matches
    /// counts.
    pub ranks: Vec<(String, usize)>,
    /// Values of `alpha` that differ from `lora`, in the same form.
    pub alphas: Vec<(String, f64)>,
    /// The adapted layers.
    pub target_modules: TargetModules,
    /// Layers that are left out.
    pub excluded: Option<TargetModules>,
    /// The indices of the adapted layers; `None` or none for all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// What comes before the index in a layer's name; empty for anything.
    pub layers_pattern: Vec<String>,
    /// Modules that are trained and saved as a whole, such as a classification head.
    pub modules_to_save: Vec<String>,
    /// Whether a saved embedding stays tied to the output layer. Otherwise saving either unties the two.
    pub ensure_weight_tying: bool,
    /// The rows of the token embedding that are trained.
    pub trained_tokens: Option<TrainedTokens>,
    /// The task of the model.
    pub task: AdapterTask,
    /// The base model: its path or its name on the hub.
    pub base_model: Option<String>,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            lora: LoraConfig::default(),
            ranks: Vec::new(),
            alphas: Vec::new(),
            target_modules: TargetModules::Usual,
            excluded: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            ensure_weight_tying: false,
            trained_tokens: None,
            task: AdapterTask::Other,
            base_model: None,
        }
    }
}

/// The settings whose order in the file counts.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Patterns {
    rank_pattern: Option<Pairs<Value>>,
    alpha_pattern: Option<Pairs<Value>>,
}

impl AdapterConfig {
    /// The settings in a folder's `adapter_config.json`.
    ///
    /// # Errors
    ///
    /// If the file is missing or a setting asks for something unsupported ([`ADAPTER_SETTINGS`] lists them), or any
    /// unknown setting is switched on.
    pub(super) fn read(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join("adapter_config.json");
        if !path.exists() {
            let looked_for = "`adapter_config.json`";
            return Err(LoadError::Missing { path: folder.to_owned(), what: "adapter", looked_for });
        }
        let fields = Fields::read(&path)?;
        let refuse = |setting: &str, found: &Value, expected| LoadError::AdapterSetting {
            path: folder.to_owned(),
            setting: setting.to_owned(),
            found: found.to_string(),
            expected,
        };
        let only = |setting, accepted: &[Value], expected| match fields.get(setting) {
            Some(value) if !accepted.contains(value) => Err(refuse(setting, value, expected)),
            _ => Ok(()),
        };
        only("peft_type", &[json!("LORA")], "\"LORA\"")?;
        only("bias", &[json!("none")], "\"none\"")?;
        // PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ change the weights of the base.
        let begun = [json!(true), json!(false), json!("gaussian"), json!("eva"), json!("orthogonal"), json!("mica")];
        only("init_lora_weights", &begun, "a start that leaves the base model's weights unchanged")?;
        for (name, value) in fields.entries() {
            match ADAPTER_SETTINGS.iter().find(|setting| setting.name == name).map(|setting| setting.treatment) {
                Some(Treatment::Followed(_) | Treatment::NoEffect(_)) => {}
                Some(Treatment::Refused(why)) if is_on(value) => {
                    return Err(LoadError::AdapterFeature {
                        path: folder.to_owned(),
                        setting: name.to_owned(),
                        found: value.to_string(),
                        why,
                    });
                }
                None if is_on(value) => return Err(refuse(name, value, "an adapter without it")),
                _ => {}
            }
        }
        let scaling =
            if fields.flag("use_rslora", false)? { LoraScaling::RankStabilized } else { LoraScaling::Standard };
        let lora = LoraConfig {
            rank: fields.size("r")?,
            alpha: fields.needed_number("lora_alpha")?,
            scaling,
            dropout: fields.number("lora_dropout")?.unwrap_or(0.0),
        };
        lora.validate()?;
        let list = |setting: &str, value: &Value| -> Result<Vec<String>, LoadError> {
            let list =
                value.as_array().and_then(|list| list.iter().map(|name| name.as_str().map(str::to_owned)).collect());
            list.ok_or_else(|| refuse(setting, value, "a list of names"))
        };
        let names = |setting: &str| fields.get(setting).map_or(Ok(Vec::new()), |value| list(setting, value));
        let choice = |setting: &str| -> Result<Option<TargetModules>, LoadError> {
            match fields.get(setting) {
                None => Ok(None),
                Some(Value::String(pattern)) => Ok(Some(TargetModules::Pattern(pattern.clone()))),
                Some(value) => Ok(Some(TargetModules::Names(list(setting, value)?))),
            }
        };
        let target_modules = match choice("target_modules")?.unwrap_or(TargetModules::Usual) {
            TargetModules::Pattern(name) if name.eq_ignore_ascii_case(ALL_LINEAR) => TargetModules::AllLinear,
            other => other,
        };
        let layers_to_transform = match fields.get("layers_to_transform") {
            None => None,
            Some(value) => Some(
                indices(value)
                    .ok_or_else(|| refuse("layers_to_transform", value, "a whole number or a list of whole numbers"))?,
            ),
        };
        let layers_pattern = match fields.get("layers_pattern") {
            Some(Value::String(one)) => Some(one.clone()).filter(|one| !one.is_empty()).into_iter().collect(),
            _ => names("layers_pattern")?,
        };
        for setting in ["layers_to_transform", "layers_pattern"] {
            if let (Some(value), TargetModules::Pattern(_) | TargetModules::AllLinear) =
                (fields.get(setting), &target_modules)
            {
                return Err(refuse(setting, value, "`target_modules` as a list with it"));
            }
        }
        let mut modules_to_save = names("modules_to_save")?;
        modules_to_save.sort_unstable();
        modules_to_save.dedup();
        let patterns: Patterns = read_json(&path)?;
        let positive = |setting, pairs: Option<Pairs<Value>>, whole: bool| {
            let pairs = pairs.unwrap_or_else(|| Pairs(Vec::new()));
            if let Some(name) = pairs.repeated() {
                return Err(refuse(setting, &json!(name), "every name once"));
            }
            let number = |(name, value): (String, Value)| {
                let number = value.as_f64().filter(|&n| n.is_finite() && n > 0.0 && (!whole || n.fract() == 0.0));
                let expected = "positive numbers by names of layers";
                number
                    .map(|number| (name.clone(), number))
                    .ok_or_else(|| refuse(setting, &json!({ name: value }), expected))
            };
            pairs.0.into_iter().map(number).collect::<Result<Vec<_>, _>>()
        };
        let ranks = positive("rank_pattern", patterns.rank_pattern, true)?;
        let trained_tokens = match fields.get("trainable_token_indices").filter(|value| is_on(value)) {
            None => None,
            Some(value) => Some(tokens(value).ok_or_else(|| {
                refuse("trainable_token_indices", value, "a list of tokens, or one embedding with such a list")
            })?),
        };
        let task = match fields.text("task_type")?.as_deref() {
            Some("SEQ_CLS") => AdapterTask::Classification,
            Some("CAUSAL_LM") => AdapterTask::CausalLm,
            _ => AdapterTask::Other,
        };
        let config = Self {
            lora,
            ranks: ranks.into_iter().map(|(name, rank)| (name, rank as usize)).collect(),
            alphas: positive("alpha_pattern", patterns.alpha_pattern, false)?,
            target_modules,
            excluded: choice("exclude_modules")?.filter(|_| fields.get("exclude_modules").is_some_and(is_on)),
            layers_to_transform,
            layers_pattern,
            modules_to_save,
            ensure_weight_tying: fields.flag("ensure_weight_tying", false)?,
            trained_tokens,
            task,
            base_model: fields.text("base_model_name_or_path")?,
        };
        // Patterns are compiled here for their errors, which name the folder.
        Rules::new(&config).map_err(|bad| bad.error(folder))?;
        Ok(config)
    }

    /// The settings as PEFT writes them.
    pub(super) fn to_json(&self) -> Value {
        let LoraConfig { rank, alpha, scaling, dropout } = self.lora;
        let ranks = self.ranks.iter().map(|(name, rank)| (name.clone(), json!(rank)));
        let alphas = self.alphas.iter().map(|(name, alpha)| (name.clone(), whole(*alpha)));
        json!({
            "peft_type": "LORA",
            "task_type": match self.task {
                AdapterTask::Classification => json!("SEQ_CLS"),
                AdapterTask::CausalLm => json!("CAUSAL_LM"),
                AdapterTask::Other => Value::Null,
            },
            "base_model_name_or_path": self.base_model,
            "inference_mode": true,
            "r": rank,
            "lora_alpha": whole(alpha),
            "lora_dropout": dropout,
            "use_rslora": scaling == LoraScaling::RankStabilized,
            "use_dora": false,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "target_modules": chosen(Some(&self.target_modules)),
            "exclude_modules": chosen(self.excluded.as_ref()),
            "modules_to_save": if self.modules_to_save.is_empty() { Value::Null } else { json!(self.modules_to_save) },
            "layers_to_transform": self.layers_to_transform,
            "layers_pattern": if self.layers_pattern.is_empty() { Value::Null } else { json!(self.layers_pattern) },
            "rank_pattern": ranks.collect::<Map<_, _>>(),
            "alpha_pattern": alphas.collect::<Map<_, _>>(),
            "ensure_weight_tying": self.ensure_weight_tying,
            "trainable_token_indices": self.trained_tokens.as_ref().map(|trained| match &trained.module {
                Some(module) => json!({ module: trained.tokens }),
                None => json!(trained.tokens),
            }),
            "auto_mapping": null,
            "revision": null,
        })
    }
}

/// One whole number, or a list of them.
fn indices(value: &Value) -> Option<Vec<usize>> {
    let whole = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    match value {
        Value::Array(list) => list.iter().map(whole).collect(),
        one => whole(one).map(|one| vec![one]),
    }
}

/// Tokens, or a single embedding with its tokens.
fn tokens(value: &Value) -> Option<TrainedTokens> {
    match value {
        Value::Object(modules) => match modules.iter().collect::<Vec<_>>()[..] {
            [(module, list @ Value::Array(_))] => {
                Some(TrainedTokens { module: Some(module.clone()), tokens: indices(list)? })
            }
            _ => None,
        },
        Value::Array(_) => Some(TrainedTokens { module: None, tokens: indices(value)? }),
        _ => None,
    }
}

/// Whether a layer's name is `end` or ends in `.` and `end`.
pub(super) fn ends_in(name: &str, end: &str) -> bool {
    name == end || name.strip_suffix(end).is_some_and(|stem| !end.is_empty() && stem.ends_with('.'))
}

fn chosen(layers: Option<&TargetModules>) -> Value {
    match layers {
        None | Some(TargetModules::Usual) => Value::Null,
        Some(TargetModules::AllLinear) => json!(ALL_LINEAR),
        Some(TargetModules::Names(names)) => json!(names),
        Some(TargetModules::Pattern(pattern)) => json!(pattern),
    }
}

/// Whether a setting is switched on.
fn is_on(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

/// A number as JSON; one without a fraction as an integer, which PEFT expects.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}
