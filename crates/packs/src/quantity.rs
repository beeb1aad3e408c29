//! Durations and sizes as people write them: `250ms`, `24h`, `64MiB`.

use std::time::Duration;

/// Why a text is no quantity: what would be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a whole number and a unit of time.
    #[error("a duration is a whole number and one of the units ms, s, m, h, d, as in \"30s\"")]
    Duration,
    /// Not a whole number and a unit of size.
    #[error("a size is a whole number and one of the units B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, as in \"64MiB\"")]
    Size,
    /// More than can be counted.
    #[error("the number is too large")]
    TooLarge,
}

/// Reads a duration: a whole number and one of the units `ms`, `s`, `m`, `h`, `d`, with nothing in between.
///
/// # Errors
/// It is none, or has more milliseconds than 64 bits count.
pub fn duration(text: &str) -> Result<Duration, QuantityError> {
    let (number, unit) = split(text).ok_or(QuantityError::Duration)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(QuantityError::Duration),
    };
    times(number, milliseconds).map(Duration::from_millis)
}

/// Reads a size in bytes: a whole number and one of the units `B`, `KB` to `TB` (powers of 1000), `KiB` to `TiB`
/// (powers of 1024), with nothing in between.
///
/// # Errors
/// It is none, or more bytes than 64 bits count.
pub fn size(text: &str) -> Result<u64, QuantityError> {
    let (number, unit) = split(text).ok_or(QuantityError::Size)?;
    let bytes = match unit {
        "B" => 1,
        "KB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        "KiB" => 1024,
        "MiB" => 1024_u64.pow(2),
        "GiB" => 1024_u64.pow(3),
        "TiB" => 1024_u64.pow(4),
        _ => return Err(QuantityError::Size),
    };
    times(number, bytes)
}

/// The digits in front and what follows them; `None` without digits.
fn split(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).filter(|(digits, _)| !digits.is_empty())
}

fn times(digits: &str, unit: u64) -> Result<u64, QuantityError> {
    // Only digits: the one way to fail is their number.
    let number: u64 = digits.parse().map_err(|_| QuantityError::TooLarge)?;
    number.checked_mul(unit).ok_or(QuantityError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        for (text, milliseconds) in
            [("0s", 0), ("250ms", 250), ("30s", 30_000), ("2m", 120_000), ("24h", 86_400_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "s", "30", "30 s", " 30s", "30s ", "-1s", "+1s", "1.5s", "1h30m", "1w", "30S", "٣s"] {
            assert_eq!(duration(bad), Err(QuantityError::Duration), "{bad:?}");
        }
        for huge in ["18446744073709551616ms", "213503982335d"] {
            assert_eq!(duration(huge), Err(QuantityError::TooLarge), "{huge:?}");
        }
    }

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        for (text, bytes) in [
            ("0B", 0),
            ("1KB", 1000),
            ("64MiB", 64 << 20),
            ("3GB", 3_000_000_000),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "B", "64", "64 MiB", "64mib", "64M", "-1B", "1.5GB", "1PB"] {
            assert_eq!(size(bad), Err(QuantityError::Size), "{bad:?}");
        }
        assert_eq!(size("16777216TiB"), Err(QuantityError::TooLarge));
    }
}
