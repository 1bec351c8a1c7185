//! The server over real connections, with the demo model, and the translation on its own.

mod api;
mod client;
mod limits;
mod support;
mod translate;
