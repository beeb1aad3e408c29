//! Where events go: one line each on standard error, `TIME SEVERITY NUMBER TEXT`, as from every daemon.

use std::io::Write as _;

use wardline_proto::event::Event;
use wardline_proto::health::Severity;

/// Emits an event, with the journal's priority in front when the journal reads.
pub fn emit(event: &Event) {
    let priority = match event.severity() {
        Severity::Information => 6,
        Severity::Warning => 4,
        Severity::Critical => 3,
    };
    let prefix = if std::env::var_os("JOURNAL_STREAM").is_some() { format!("<{priority}>") } else { String::new() };
    let text: String = event.text().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = format!("{prefix}{:.3} {} {} {text}\n", jiff::Timestamp::now(), event.severity(), event.number());
    // One write per line. When standard error is gone there is nobody left to tell.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}
