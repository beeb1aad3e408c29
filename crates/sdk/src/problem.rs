//! How a question is refused: problem details (RFC 9457) with the number of the event that explains it and what to do
//! next.

use serde::{Deserialize, Serialize};

/// Why a question was not answered. As `application/problem+json` it is of type `about:blank`: the status says what
/// kind of problem it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// The HTTP status in words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, in one line.
    #[serde(default)]
    pub detail: String,
    /// The number of the event that explains it, for `wardline explain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<u32>,
    /// What to do next, most often a command.
    #[serde(default)]
    pub next: String,
}

/// What kind of problem it is, for whoever decides by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The question makes no sense.
    Invalid,
    /// Who asks may not.
    Denied,
    /// There is no such thing.
    NotFound,
    /// It does not fit how things are now.
    Conflict,
    /// The service failed.
    Failed,
    /// The service is not there.
    Unreachable,
}

impl Kind {
    /// The HTTP status, and the same in words.
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Self::Invalid => (400, "Bad Request"),
            Self::Denied => (403, "Forbidden"),
            Self::NotFound => (404, "Not Found"),
            Self::Conflict => (409, "Conflict"),
            Self::Failed => (500, "Internal Server Error"),
            Self::Unreachable => (503, "Service Unavailable"),
        }
    }
}

impl Problem {
    /// The media type.
    pub const MEDIA_TYPE: &str = "application/problem+json";

    /// A problem without an event.
    pub fn new(kind: Kind, detail: impl Into<String>, next: impl Into<String>) -> Self {
        let (status, title) = kind.status();
        Self { title: title.into(), status, detail: detail.into(), event: None, next: next.into() }
    }

    /// The same problem, explained by an event.
    #[must_use]
    pub fn explained_by(mut self, event: u32) -> Self {
        self.event = Some(event);
        self
    }

    /// What kind it is.
    pub const fn kind(&self) -> Kind {
        match self.status {
            401 | 403 => Kind::Denied,
            404 => Kind::NotFound,
            409 | 412 => Kind::Conflict,
            400..500 => Kind::Invalid,
            502..=504 => Kind::Unreachable,
            _ => Kind::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_of_the_kind_it_was_made_of() {
        for kind in [Kind::Invalid, Kind::Denied, Kind::NotFound, Kind::Conflict, Kind::Failed, Kind::Unreachable] {
            assert_eq!(Problem::new(kind, "", "").kind(), kind);
        }
    }

    #[test]
    fn what_another_program_says_with_less_is_understood() {
        let problem: Problem = serde_json::from_str(r#"{"status":405,"instance":"/x"}"#).unwrap();
        assert_eq!(problem.kind(), Kind::Invalid);
    }
}
