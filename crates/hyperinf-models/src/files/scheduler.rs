//! Diffusers' `scheduler/scheduler_config.json`: the noise of training, of which every scheduler has the same.

use std::path::Path;

use serde_json::{Value, json};

use super::fields::Fields;
use crate::{BetaSchedule, LoadError, NoiseProcess, NoiseSchedule, Prediction};

pub(super) const FOLDER: &str = "scheduler";
pub(super) const FILE: &str = "scheduler_config.json";
pub(super) const FLOW: &str = "FlowMatchEulerDiscreteScheduler";
const DIFFUSION: &str = "DDPMScheduler";
const OF_FLOW: [&str; 2] = [FLOW, "FlowMatchHeunDiscreteScheduler"];
/// With the default of the first and last `β`.
const OF_DIFFUSION: [(&str, f64, f64); 12] = [
    (DIFFUSION, 1e-4, 0.02),
    ("DDIMScheduler", 1e-4, 0.02),
    ("PNDMScheduler", 1e-4, 0.02),
    ("LMSDiscreteScheduler", 1e-4, 0.02),
    ("EulerDiscreteScheduler", 1e-4, 0.02),
    ("EulerAncestralDiscreteScheduler", 1e-4, 0.02),
    ("DPMSolverMultistepScheduler", 1e-4, 0.02),
    ("DPMSolverSinglestepScheduler", 1e-4, 0.02),
    ("UniPCMultistepScheduler", 1e-4, 0.02),
    ("DEISMultistepScheduler", 1e-4, 0.02),
    ("HeunDiscreteScheduler", 0.00085, 0.012),
    ("KDPM2DiscreteScheduler", 0.00085, 0.012),
];
/// Settings that are followed, or must have the value that is.
const FOLLOWED: [&str; 13] = [
    "_class_name",
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "prediction_type",
    "rescale_betas_zero_snr",
    "trained_betas",
    "use_flow_sigmas",
    "shift",
    "use_dynamic_shifting",
    "flow_shift",
    "shift_terminal",
];
/// Settings of diffusers' samplers, which change no loss.
const OF_SAMPLERS: [&str; 34] = [
    "algorithm_type",
    "base_image_seq_len",
    "base_shift",
    "clip_sample",
    "clip_sample_range",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "interpolation_type",
    "invert_sigmas",
    "lambda_min_clipped",
    "lower_order_final",
    "max_image_seq_len",
    "max_shift",
    "predict_x0",
    "sample_max_value",
    "set_alpha_to_one",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "steps_offset",
    "stochastic_sampling",
    "thresholding",
    "time_shift_type",
    "timestep_spacing",
    "timestep_type",
    "use_beta_sigmas",
    "use_exponential_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
];
/// And more of them.
const OF_SAMPLERS_TOO: [&str; 1] = ["variance_type"];

/// The noise that the scheduler in a pipeline's folder describes.
pub(super) fn noise_process(folder: &Path) -> Result<NoiseProcess, LoadError> {
    let fields = Fields::read(&folder.join(FOLDER).join(FILE))?;
    let class = fields.text("_class_name")?.ok_or_else(|| fields.absent("_class_name"))?;
    let flow = OF_FLOW.contains(&class.as_str());
    let Some(&(_, first, last)) = OF_DIFFUSION.iter().find(|(name, ..)| *name == class || flow) else {
        let known: Vec<&str> = OF_DIFFUSION.iter().map(|(name, ..)| *name).chain(OF_FLOW).collect();
        return Err(fields.refuse("_class_name", &json!(class), &known.join(", ")));
    };
    let known = |name: &str| [&FOLLOWED[..], &OF_SAMPLERS, &OF_SAMPLERS_TOO].iter().any(|names| names.contains(&name));
    if let Some((name, value)) = fields.entries().find(|(name, _)| !known(name) && *name != "_diffusers_version") {
        return Err(fields.refuse(name, value, "settings that are known"));
    }
    let absent = "absent, as nothing else is supported";
    fields.only("trained_betas", &[], absent)?;
    fields.only("use_flow_sigmas", &[json!(false)], "false")?;
    fields.only("use_dynamic_shifting", &[json!(false)], "false")?;
    fields.only("shift", &[json!(1), json!(1.0)], "1")?;
    fields.only("shift_terminal", &[], absent)?;
    let default = NoiseSchedule::default();
    let betas = match fields.text("beta_schedule")?.as_deref() {
        None | Some("linear") => BetaSchedule::Linear,
        Some("scaled_linear") => BetaSchedule::ScaledLinear,
        Some("squaredcos_cap_v2") => BetaSchedule::SquaredCosine,
        Some(other) => {
            let expected = "linear, scaled_linear, squaredcos_cap_v2";
            return Err(fields.refuse("beta_schedule", &json!(other), expected));
        }
    };
    let prediction = match fields.text("prediction_type")?.as_deref() {
        _ if flow => Prediction::Flow,
        None | Some("epsilon") => Prediction::Epsilon,
        Some("v_prediction") => Prediction::Velocity,
        Some("sample") => Prediction::Sample,
        Some(other) => {
            return Err(fields.refuse("prediction_type", &json!(other), "epsilon, v_prediction, sample"));
        }
    };
    let schedule = NoiseSchedule {
        timesteps: fields.optional_size("num_train_timesteps")?.unwrap_or(default.timesteps),
        betas,
        beta_first: fields.number("beta_start")?.unwrap_or(first),
        beta_last: fields.number("beta_end")?.unwrap_or(last),
        zero_snr: fields.flag("rescale_betas_zero_snr", false)?,
    };
    let process = NoiseProcess { schedule, prediction, min_snr: None };
    fields.checked(process.validate())?;
    Ok(process)
}

/// The settings of a scheduler with this noise.
pub(super) fn scheduler_config(process: &NoiseProcess) -> Value {
    let NoiseSchedule { timesteps, betas, beta_first, beta_last, zero_snr } = process.schedule;
    let prediction = match process.prediction {
        Prediction::Flow => return json!({ "_class_name": FLOW, "num_train_timesteps": timesteps, "shift": 1.0 }),
        Prediction::Epsilon => "epsilon",
        Prediction::Velocity => "v_prediction",
        Prediction::Sample => "sample",
    };
    let betas = match betas {
        BetaSchedule::Linear => "linear",
        BetaSchedule::ScaledLinear => "scaled_linear",
        BetaSchedule::SquaredCosine => "squaredcos_cap_v2",
    };
    json!({
        "_class_name": DIFFUSION,
        "num_train_timesteps": timesteps,
        "beta_schedule": betas,
        "beta_start": beta_first,
        "beta_end": beta_last,
        "prediction_type": prediction,
        "rescale_betas_zero_snr": zero_snr,
    })
}

/// The class that the settings are of.
pub(super) fn scheduler_class(process: &NoiseProcess) -> &'static str {
    if process.prediction == Prediction::Flow { FLOW } else { DIFFUSION }
}
