//! The store against files: what it hands over is always what the files say, or an error.

mod ahead;
mod bulk;
mod contents;
mod faults;
mod files;
mod pressure;
mod support;
mod threads;
