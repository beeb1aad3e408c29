//! Keeps what agents say, exactly once, and gives access to it.

pub mod api;
pub mod store;
