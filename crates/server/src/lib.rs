//! Keeps what agents say, exactly once, and gives access to it.
//!
//! ```text
//!   agents, gateways --> ingest --> store (SQLite) <-- api <-- command line
//!                           \--> live (who is connected) --/
//! ```

pub mod api;
pub mod ingest;
pub mod live;
pub mod store;
