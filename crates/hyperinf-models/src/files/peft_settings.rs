//! Every setting of PEFT's `LoraConfig`, and what is done with it.

/// A setting of `adapter_config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterSetting {
    /// Its name.
    pub name: &'static str,
    /// What is done with it.
    pub treatment: Treatment,
}

/// What is done with a setting of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It is read and has its effect. The text says which values, where not all are taken.
    Followed(&'static str),
    /// It has no effect on what a trained adapter computes, for this reason.
    NoEffect(&'static str),
    /// Only `null`, `false` and empty lists are accepted, because of what it would do.
    Refused(&'static str),
}

use Treatment::{Followed, NoEffect, Refused};

/// The settings of PEFT 0.21. Any other setting must be `null`, `false` or empty.
pub const ADAPTER_SETTINGS: &[AdapterSetting] = &[
    of("peft_type", Followed("`LORA`")),
    of("task_type", Followed("")),
    of("base_model_name_or_path", Followed("named in errors; the base model is the one that is given")),
    of("r", Followed("")),
    of("lora_alpha", Followed("")),
    of("lora_dropout", Followed("in training only")),
    of("use_rslora", Followed("")),
    of("rank_pattern", Followed("regular expressions; the first that matches counts")),
    of("alpha_pattern", Followed("regular expressions; the first that matches counts")),
    of("target_modules", Followed("ends of names, a regular expression, or `all-linear`; `null` is the model's usual")),
    of("exclude_modules", Followed("ends of names, or a regular expression")),
    of("layers_to_transform", Followed("a number or a list")),
    of("layers_pattern", Followed("with `layers_to_transform`")),
    of("modules_to_save", Followed("any module; saving a tied embedding unties it")),
    of("ensure_weight_tying", Followed("a saved embedding stays tied")),
    of("trainable_token_indices", Followed("rows of the token embedding")),
    of(
        "init_lora_weights",
        Followed("`true`, `false`, `gaussian`, `eva`, `orthogonal`, `mica`; others change the base"),
    ),
    of("bias", Followed("`none`")),
    of("fan_in_fan_out", NoEffect("PEFT turns it off for linear layers")),
    of("auto_mapping", NoEffect("the class that loads the model in Python")),
    of("revision", NoEffect("the base model is the one that is given")),
    of("inference_mode", NoEffect("whether PyTorch trains the adapter")),
    of("peft_version", NoEffect("who wrote the file")),
    of("megatron_core", NoEffect("the name of a Python module")),
    of("runtime_config", NoEffect("where PyTorch computes")),
    of("qalora_group_size", NoEffect("used with `use_qalora` only")),
    of("loftq_config", NoEffect("used with `init_lora_weights` = `loftq` only")),
    of("eva_config", NoEffect("the start of training")),
    of("corda_config", NoEffect("used with `init_lora_weights` = `corda` only")),
    of("lora_ga_config", NoEffect("used with `init_lora_weights` = `lora_ga` only")),
    of("use_dora", Refused("DoRA scales the columns of the sum of base and update")),
    of("use_qalora", Refused("QALoRA pools the inputs of A")),
    of("use_bdlora", Refused("the factors are block diagonal")),
    of("lora_bias", Refused("B has a bias")),
    of("velora_config", Refused("gradients are those of compressed inputs")),
    of("monteclora_config", Refused("the factors are drawn at random")),
    of("kasa_config", Refused("the base's smallest singular values are removed")),
    of("arrow_config", Refused("a router mixes several adapters")),
    of("alora_invocation_tokens", Refused("the adapter works after certain tokens only")),
    of("layer_replication", Refused("layers of the base are repeated")),
    of("megatron_config", Refused("layers are Megatron's")),
    of("target_parameters", Refused("LoRA on parameters that are not layers")),
];

const fn of(name: &'static str, treatment: Treatment) -> AdapterSetting {
    AdapterSetting { name, treatment }
}
