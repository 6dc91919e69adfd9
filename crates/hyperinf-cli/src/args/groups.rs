//! The commands in `hyperinf --help`, under headings.

use clap::{Command, CommandFactory};

use super::Cli;

/// Every command once, the everyday ones first.
const GROUPS: [(&str, &[&str]); 6] = [
    ("Everyday", &["demo", "finetune", "detect", "select", "attribute", "report"]),
    ("Before a run", &["check", "plan", "evaluate", "generate"]),
    ("Gradients computed once, asked often", &["index", "query", "verify"]),
    ("Files of gradients", &["score", "compare", "sweep", "inspect", "convert"]),
    ("Methods", &["methods", "eval", "converge"]),
    ("The program", &["schema", "completions", "man"]),
];
/// Columns before the names, and between names and descriptions.
const INDENT: usize = 2;

/// The parser, whose help has so many columns.
pub(crate) fn command(columns: usize) -> Command {
    let command = Cli::command().term_width(columns);
    let list = list(&command, columns);
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}{{options}}{{after-help}}"
    ))
}

/// All groups, and the heading of the options that follow.
fn list(command: &Command, columns: usize) -> String {
    let styles = command.get_styles();
    let styled =
        |style: &clap::builder::styling::Style, text: &str| format!("{}{text}{}", style.render(), style.render_reset());
    let longest = command.get_subcommands().map(|own| own.get_name().len()).max().unwrap_or(0);
    let start = 2 * INDENT + longest;
    let mut text = String::new();
    for (heading, names) in GROUPS {
        text.push_str(&styled(styles.get_header(), &format!("{heading}:")));
        text.push('\n');
        for own in names.iter().filter_map(|name| command.find_subcommand(name)) {
            let (name, about) = (own.get_name(), own.get_about().map(ToString::to_string).unwrap_or_default());
            let lines = wrapped(&about, columns.saturating_sub(start)).join(&format!("\n{:start$}", ""));
            let gap = start - INDENT - name.len();
            text.push_str(&format!("{:INDENT$}{}{:gap$}{lines}\n", "", styled(styles.get_literal(), name), ""));
        }
        text.push('\n');
    }
    text + &styled(styles.get_header(), "Options:") + "\n"
}

/// A text in lines of at most so many columns, where words allow it.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
