//! The program as a whole: exit codes, what goes to standard output and what to standard error, and faults.

mod chat;
mod demo;
mod faults;
mod inspect;
mod logits;
mod run;
mod support;
