//! `hyperinf completions` and `hyperinf man`: files for shells and for `man`.

use std::io::{self, Write};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use hyperinf::store::{OutputFolder, Staged, publish};

use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::error::CliError;
use crate::to_stdout;

/// Prints the completions of a shell.
///
/// # Errors
///
/// If standard output cannot be written.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hyperinf", &mut text);
    to_stdout(|out| out.write_all(&text))
}

/// Prints the manual page of the program, or writes those of all commands.
///
/// # Errors
///
/// If a file or standard output cannot be written.
pub(crate) fn man(args: &ManArgs) -> Result<(), CliError> {
    let mut root = Cli::command();
    root.build();
    let Some(folder) = &args.out else {
        let page = page(root)?;
        return to_stdout(|out| out.write_all(&page));
    };
    let mut pages = Vec::new();
    all(&root, "hyperinf".to_owned(), &mut pages).map_err(crate::error::Usage::Stdout)?;
    let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    let folder = OutputFolder::new(folder, &names, &[])?;
    let paths: Vec<_> = names.iter().map(|name| folder.file(name)).collect();
    let staged = paths.iter().zip(&pages).map(|(path, (_, page))| Staged::new(path, |file| Ok(file.write_all(page)?)));
    Ok(publish(staged.collect::<Result<Vec<_>, _>>()?, &[])?)
}

fn page(command: Command) -> Result<Vec<u8>, CliError> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(crate::error::Usage::Stdout)?;
    Ok(page)
}

/// The pages of a command and of its own commands, with the names of their files.
fn all(command: &Command, name: String, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    pages.push((format!("{name}.1"), page));
    let own = command.get_subcommands().filter(|own| own.get_name() != "help");
    let mut own = own;
    own.try_for_each(|own| all(own, format!("{name}-{}", own.get_name()), pages))
}
