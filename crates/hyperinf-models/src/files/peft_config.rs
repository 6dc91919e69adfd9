use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::fields::Fields;
use crate::{LoadError, LoraConfig, LoraScaling};

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

/// The layers that an adapter is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// Layers whose names are one of these or end in `.` and one of these.
    Names(Vec<String>),
    /// A pattern, which is not interpreted: the tensors show which layers it matches.
    Pattern(String),
}

/// The settings of an adapter, `adapter_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rank, scale and dropout.
    pub lora: LoraConfig,
    /// Ranks that differ from `lora`, by the ends of the layers' names.
    pub ranks: BTreeMap<String, usize>,
    /// Values of `alpha` that differ from `lora`, by the ends of the layers' names.
    pub alphas: BTreeMap<String, f64>,
    /// The adapted layers.
    pub target_modules: TargetModules,
    /// Modules that are trained and saved as a whole: a classification head.
    pub modules_to_save: Vec<String>,
    /// The task of the model.
    pub task: AdapterTask,
    /// The base model: its path or its name on the hub.
    pub base_model: Option<String>,
    /// Whether some of the layers in `target_modules` are excluded. The tensors show which.
    pub excludes: bool,
}

/// Settings about the start of training or the file itself. They do not change what a trained adapter computes.
const PASSED_OVER: [&str; 13] = [
    "auto_mapping",
    "revision",
    "inference_mode",
    "megatron_core",
    "runtime_config",
    "peft_version",
    "qalora_group_size",
    "corda_config",
    "eva_config",
    "lora_ga_config",
    "layers_pattern",
    "ensure_weight_tying",
    "exclude_modules",
];

/// Settings that are read.
const READ: [&str; 13] = [
    "peft_type",
    "base_model_name_or_path",
    "task_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "target_modules",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "init_lora_weights",
    "bias",
];

impl AdapterConfig {
    /// The settings in a folder's `adapter_config.json`.
    ///
    /// # Errors
    ///
    /// If the file is missing or a setting asks for something unsupported: a method other than LoRA, DoRA, biases, a
    /// choice of layers by index, embeddings, or any unknown setting that is switched on.
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
        // PiSSA, OLoRA and LoftQ change the weights of the base.
        let begun = [json!(true), json!(false), json!("gaussian"), json!("eva"), json!("orthogonal")];
        only("init_lora_weights", &begun, "a start that leaves the base model's weights unchanged")?;
        for (name, value) in fields.entries() {
            if !READ.contains(&name) && !PASSED_OVER.contains(&name) && is_on(value) {
                return Err(refuse(name, value, "an adapter without it"));
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
        let names = |setting: &str| -> Result<Vec<String>, LoadError> {
            let Some(value) = fields.get(setting) else { return Ok(Vec::new()) };
            let list =
                value.as_array().and_then(|list| list.iter().map(|name| name.as_str().map(str::to_owned)).collect());
            list.ok_or_else(|| refuse(setting, value, "a list of names"))
        };
        let target_modules = match fields.get("target_modules").and_then(Value::as_str) {
            Some(pattern) => TargetModules::Pattern(pattern.to_owned()),
            None => TargetModules::Names(names("target_modules")?),
        };
        let mut modules_to_save = names("modules_to_save")?;
        modules_to_save.sort_unstable();
        modules_to_save.dedup();
        let mut ranks = BTreeMap::new();
        let mut alphas = BTreeMap::new();
        for (setting, whole) in [("rank_pattern", true), ("alpha_pattern", false)] {
            for (name, value) in fields.get(setting).and_then(Value::as_object).into_iter().flatten() {
                let number = value.as_f64().filter(|&n| n.is_finite() && n > 0.0 && (!whole || n.fract() == 0.0));
                let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
                let (Some(number), true) = (number, plain) else {
                    return Err(refuse(setting, &json!({ name: value }), "positive numbers by names of layers"));
                };
                if whole {
                    ranks.insert(name.clone(), number as usize);
                } else {
                    alphas.insert(name.clone(), number);
                }
            }
        }
        let task = match fields.text("task_type")?.as_deref() {
            Some("SEQ_CLS") => AdapterTask::Classification,
            Some("CAUSAL_LM") => AdapterTask::CausalLm,
            _ => AdapterTask::Other,
        };
        Ok(Self {
            lora,
            ranks,
            alphas,
            target_modules,
            modules_to_save,
            task,
            base_model: fields.text("base_model_name_or_path")?,
            excludes: fields.get("exclude_modules").is_some_and(is_on),
        })
    }

    /// The settings as PEFT writes them.
    pub(super) fn to_json(&self) -> Value {
        let LoraConfig { rank, alpha, scaling, dropout } = self.lora;
        let alphas = self.alphas.iter().map(|(name, &alpha)| (name.clone(), whole(alpha)));
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
            "target_modules": match &self.target_modules {
                TargetModules::Names(names) => json!(names),
                TargetModules::Pattern(pattern) => json!(pattern),
            },
            "modules_to_save": if self.modules_to_save.is_empty() { Value::Null } else { json!(self.modules_to_save) },
            "layers_to_transform": null,
            "layers_pattern": null,
            "rank_pattern": self.ranks,
            "alpha_pattern": alphas.collect::<Map<_, _>>(),
            "auto_mapping": null,
            "revision": null,
        })
    }

    /// Rank, scale and dropout of a layer.
    ///
    /// # Errors
    ///
    /// If two entries with different values match the layer.
    pub(super) fn of_layer(&self, name: &str) -> Result<LoraConfig, LoadError> {
        let rank = matching("rank_pattern", &self.ranks, name)?.unwrap_or(self.lora.rank);
        let alpha = matching("alpha_pattern", &self.alphas, name)?.unwrap_or(self.lora.alpha);
        Ok(LoraConfig { rank, alpha, ..self.lora })
    }
}

/// The value of the entries that match a layer's name.
///
/// PEFT takes the first in the file, but that order is not known here: all matching entries must agree.
fn matching<T: Copy + PartialEq>(
    setting: &'static str,
    entries: &BTreeMap<String, T>,
    name: &str,
) -> Result<Option<T>, LoadError> {
    let mut matching = entries.iter().filter(|(end, _)| ends_in(name, end));
    let Some((first, &value)) = matching.next() else { return Ok(None) };
    match matching.find(|&(_, &other)| other != value) {
        None => Ok(Some(value)),
        Some((second, _)) => {
            let (layer, first, second) = (name.to_owned(), first.clone(), second.clone());
            Err(LoadError::AdapterPattern { setting, layer, first, second })
        }
    }
}

/// Whether a layer's name is `end` or ends in `.` and `end`.
pub(super) fn ends_in(name: &str, end: &str) -> bool {
    name == end || name.strip_suffix(end).is_some_and(|stem| !end.is_empty() && stem.ends_with('.'))
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
