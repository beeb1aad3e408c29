//! An authenticated, acknowledged channel between health services.
pub mod journal;
pub mod outbox;
