//! Moments: milliseconds since 1970, and the same as text for whoever reads the JSON.

use std::fmt;

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds since 1970, UTC. In JSON `{"ms": 1732246800123, "utc": "2024-11-22T03:40:00.123Z"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Time(pub u64);

impl Time {
    /// The moment as the calendar library has it; one beyond its last year is that year's end.
    pub fn timestamp(self) -> jiff::Timestamp {
        let ms = i64::try_from(self.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX)
    }
}

impl fmt::Display for Time {
    /// RFC 3339 in UTC, with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.timestamp())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut time = serializer.serialize_struct("Time", 2)?;
        time.serialize_field("ms", &self.0)?;
        time.serialize_field("utc", &self.to_string())?;
        time.end()
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The text only repeats the number.
        #[derive(Deserialize)]
        struct Repr {
            ms: u64,
        }
        Repr::deserialize(deserializer).map(|time| Self(time.ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_text() {
        let json = serde_json::to_string(&Time(1_732_246_800_123)).unwrap();
        assert_eq!(json, r#"{"ms":1732246800123,"utc":"2024-11-22T03:40:00.123Z"}"#);
        assert_eq!(serde_json::from_str::<Time>(&json).unwrap(), Time(1_732_246_800_123));
    }

    #[test]
    fn a_time_beyond_the_calendar_is_still_a_time() {
        assert!(Time(u64::MAX).to_string().starts_with("9999-12-3"));
    }
}
