//! Words both ends share about health and alerts.

use serde::{Deserialize, Serialize};

/// Defines an enum with a stable number on the wire and in databases, and a stable word in texts.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $number:literal $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $word)] $variant = $number,)* }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
            /// The number on the wire and in databases.
            pub const fn number(self) -> u32 { self as u32 }
            /// The word in texts.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $word),* } }
            /// From the number on the wire.
            pub const fn from_number(number: u32) -> Option<Self> { match number { $($number => Some(Self::$variant),)* _ => None } }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.pad(self.as_str()) }
        }
    };
}

words! {
    /// The state of a monitor. The numbers are the exit codes of the monitoring-plugins interface.
    Health {
        /// All is well.
        Healthy = 0 "healthy",
        /// Worse than it should be.
        Warning = 1 "warning",
        /// Broken.
        Critical = 2 "critical",
        /// The check could not tell.
        Unknown = 3 "unknown",
    }
}

impl Health {
    /// How bad it is, for "worse than before": healthy, then unknown, then warning, then critical.
    pub const fn badness(self) -> u8 {
        match self {
            Self::Healthy => 0,
            Self::Unknown => 1,
            Self::Warning => 2,
            Self::Critical => 3,
        }
    }
}

words! {
    /// How serious an alert or an event is.
    Severity {
        /// Worth knowing.
        Information = 0 "information",
        /// Look at it soon.
        Warning = 1 "warning",
        /// Something is broken.
        Critical = 2 "critical",
    }
}

words! {
    /// How urgent an alert is.
    Priority {
        /// When there is time.
        Low = 0 "low",
        /// The usual.
        Normal = 1 "normal",
        /// Before all others.
        High = 2 "high",
    }
}

/// An alert's resolution state: 0 is new, 255 is closed, the rest is the operators' own.
pub mod resolution {
    /// Nobody has looked at it.
    pub const NEW: u8 = 0;
    /// Done with.
    pub const CLOSED: u8 = 255;
}
