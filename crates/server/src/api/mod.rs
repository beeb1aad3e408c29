//! The data access service: what operators and their programs can ask, answered from the store and from what is
//! connected right now, on a unix socket that only root and the server's own user may use.
//!
//! ```text
//!  socket   who may ask, and the listener
//!  relayed  requests that come by a server without a database; passing: there, on their way
//!  routes   HTTP to questions, answers to JSON, refusals to problem details
//!  service  the answers
//!  accounts those about Run As accounts and profiles
//!  packs    those about packs
//!  trust    those about members, tokens and the trust log
//! ```

mod accounts;
mod database;
mod packs;
mod passing;
mod relayed;
mod routes;
mod service;
mod socket;
mod trust;

pub use passing::passing;
pub use relayed::Relayed;
pub use routes::router;
pub use service::{Connected, Live, OnBehalf, Service};
pub use socket::Socket;

#[cfg(test)]
mod tests;
