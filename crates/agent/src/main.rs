//! The agent's program: refuses packs that are wrong, runs the others.

use std::process::ExitCode;

use wardline_connector::journal;
use wardline_packs::Pack;
use wardline_proto::event::Event;

fn main() -> ExitCode {
    for file in std::env::args().skip(1) {
        let reason = match std::fs::read_to_string(&file) {
            Ok(text) => Pack::parse(&file, &text).err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = reason {
            journal::emit(Event::ConfigurationRefused { file, reason });
            return ExitCode::FAILURE;
        }
    }
    // The folder of the state, the queue and the connection to the parent belong here, around `wardline_agent::run`.
    ExitCode::SUCCESS
}
