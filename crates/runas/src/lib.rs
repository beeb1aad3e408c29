//! Runs plugins as other users. The program `wardline-runas` is a root process beside the agent; this library is what the
//! agent needs of it.
//!
//! ```text
//!   agent                                 wardline-runas (root)
//!     |                                     |  main      command line, start, stop
//!     |                                     |  policy    who may ask, for which users and programs
//!   ask ---- unix socket: Request, secrets -->  serve    who is asking, one request for each connection
//!     |                                     |    |
//!     |                                     |  path      nobody but root can have changed the program
//!     |                                     |  users     a number that nobody else has now; nothing of it is left
//!     |                                     |  folder    the secrets as files in memory, the user's own
//!     |                                     |  become    a process of its own: limits, no new privileges, the user, exec
//!     |                                     |    |
//!   bounded  <------ Answer, output --------  bounded    time, output, and what is left of the program
//! ```
//!
//! The agent runs programs under its own user by `bounded` alone, where there is no helper.

pub mod ask;
pub mod bounded;
