//! Questions from standard input, one a line, with an answer a line.

use std::cell::Cell;
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;

use burn::tensor::Device;
use hyperinf::data::{AnsweredQuery, Query, QuerySeconds, Questions, Reading, Reply, RunError};
use serde::Serialize;

use crate::error::{CliError, Input, Usage};
use crate::progress::observer;

/// An answer, on one line.
#[derive(Serialize)]
struct Line<'a> {
    line: usize,
    #[serde(flatten)]
    answer: &'a AnsweredQuery,
    read: &'a Reading,
    seconds: QuerySeconds,
}

/// A row that cannot be used, on one line.
#[derive(Serialize)]
struct Refused {
    line: usize,
    error: String,
}

/// Answers the rows of standard input until it ends.
///
/// # Errors
///
/// See [`CliError`]; [`Input::Questions`] at the end if rows could not be used.
pub(super) fn run(query: &Query, device: &Device) -> Result<(), CliError> {
    let (input, mut out) = (io::stdin().lock(), io::stdout().lock());
    let mut lines = input.lines().zip(1..);
    let (mut asked, mut failed) = (0, 0);
    let (mut unread, mut unwritten) = (None, None);
    let line = Cell::new(0_usize);
    let mut next = || {
        loop {
            match lines.next()? {
                (Ok(text), _) if text.trim().is_empty() => {}
                (Ok(text), number) => {
                    line.set(number);
                    asked += 1;
                    return Some(text);
                }
                (Err(error), _) => {
                    unread = Some(error);
                    return None;
                }
            }
        }
    };
    let mut reply = |found: Result<Reply, RunError>| {
        let line = line.get();
        let written = match &found {
            Ok(Reply { answers, reading, seconds }) => answers.iter().try_for_each(|answer| {
                let (read, seconds) = (reading, *seconds);
                say(&mut out, &Line { line, answer, read, seconds })
            }),
            Err(error) => {
                failed += 1;
                say(&mut out, &Refused { line, error: chain(error) })
            }
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                unwritten = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    query.serve(device, Questions { next: &mut next, reply: &mut reply, observe: &mut observer() })?;
    if let Some(source) = unread {
        return Err(Input::Questions { asked, failed, source: Some(source) }.into());
    }
    match unwritten {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Usage::Stdout(error).into()),
        None if failed > 0 => Err(Input::Questions { asked, failed, source: None }.into()),
        _ => Ok(()),
    }
}

fn say(out: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(found) = cause {
        text = format!("{text}: {found}");
        cause = found.source();
    }
    text
}
