//! What stands around the translation: connections, routes, who may ask, and how much.

mod app;
mod body;
mod guard;
mod listen;
mod live;
mod reply;
mod routes;
mod stream;
mod writes;

pub use listen::{Server, Stopper};
