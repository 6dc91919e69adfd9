//! Tiny transformers with the numbers that PyTorch, transformers and PEFT give for them: `fixtures/transformers`.

mod case;
mod models;
mod tokens;
mod written;
