use std::any::TypeId;
use std::path::PathBuf;

use clap::{Arg, Command, CommandFactory};
use serde_json::{Map, Value, json};

use super::{COMMAND, is_list, is_optional, is_switch, key_of, options};
use crate::args::{Cli, SchemaArgs};
use crate::error::CliError;
use crate::to_stdout;

/// Prints the JSON schema of configurations, of one command or of all.
///
/// # Errors
///
/// If standard output cannot be written.
pub(crate) fn run(args: &SchemaArgs) -> Result<(), CliError> {
    let mut root = Cli::command();
    root.build();
    let mut all = Vec::new();
    commands(&root, &mut Vec::new(), &mut all);
    if !args.command.is_empty() {
        let name = args.command.join(" ");
        super::find(&args.command)?;
        all.retain(|schema| schema["properties"][COMMAND]["const"] == name.as_str());
    }
    let mut schema = match all.len() {
        1 => all.remove(0),
        _ => json!({ "title": "A run of hyperinf", "oneOf": all }),
    };
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    to_stdout(|out| {
        serde_json::to_writer_pretty(&mut *out, &schema)?;
        writeln!(out)
    })
}

/// The schemas of the commands without commands of their own.
fn commands(command: &Command, path: &mut Vec<String>, found: &mut Vec<Value>) {
    if !command.has_subcommands() {
        found.push(of_command(command, &path.join(" ")));
        return;
    }
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        path.push(command.get_name().to_owned());
        commands(command, path, found);
        path.pop();
    }
}

fn of_command(command: &Command, name: &str) -> Value {
    let shown = || options(command).filter(|arg| !arg.is_hide_set());
    let mut properties: Map<String, Value> = shown().map(|arg| (key_of(arg), of_arg(arg))).collect();
    properties.insert(COMMAND.to_owned(), json!({ "const": name }));
    let required = shown().filter(|arg| arg.is_required_set()).map(key_of);
    let required: Vec<String> = std::iter::once(COMMAND.to_owned()).chain(required).collect();
    json!({
        "title": format!("hyperinf {name}"),
        "description": command.get_about().map(ToString::to_string),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn of_arg(arg: &Arg) -> Value {
    let mut schema = if is_switch(arg) { json!({ "type": "boolean" }) } else { of_value(arg) };
    if is_optional(arg) && !is_switch(arg) {
        schema = json!({ "anyOf": [{ "type": "boolean" }, schema] });
    }
    if is_list(arg) {
        schema = json!({ "anyOf": [{ "type": "array", "items": schema }, schema] });
    }
    if let Some(help) = arg.get_help() {
        schema["description"] = json!(help.to_string());
    }
    let defaults = arg.get_default_values();
    if let ([default], false) = (defaults, is_switch(arg)) {
        schema["default"] = json!(default.to_string_lossy());
    }
    schema
}

fn of_value(arg: &Arg) -> Value {
    let names: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !names.is_empty() {
        return json!({ "enum": names });
    }
    let of = arg.get_value_parser().type_id();
    let is = |ids: &[TypeId]| ids.iter().any(|id| of == *id);
    if is(&[TypeId::of::<u8>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<usize>()]) {
        json!({ "type": "integer", "minimum": 0 })
    } else if is(&[TypeId::of::<f64>(), TypeId::of::<f32>()]) {
        json!({ "type": "number" })
    } else if is(&[TypeId::of::<PathBuf>()]) {
        json!({ "type": "string" })
    } else {
        json!({ "type": ["string", "number"] })
    }
}
