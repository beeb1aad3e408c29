//! Performance data as monitoring plugins print it: `'label'=value[unit];[warn];[crit];[min];[max]`, separated by
//! blanks.
//!
//! One item that is wrong makes the whole text wrong: what a plugin measures is taken as it was meant, or not at all.
//! Numbers have a decimal point, whatever the plugin's locale (plugins are run in `C.UTF-8`).

use wardline_proto::entry::Sample;

/// The most values that one check may print.
pub const MOST_SAMPLES: usize = 512;
/// The most bytes of a label.
pub const LONGEST_LABEL: usize = 256;
/// The most characters of a unit.
const LONGEST_UNIT: usize = 8;

/// An item that is no performance data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad performance data {item:?}: {why}")]
pub struct BadItem {
    /// The item, or its beginning.
    pub item: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Reads performance data. A value of `U` means that the plugin could not tell; it gives no sample.
///
/// # Errors
/// An item has not the form above, or there are more than [`MOST_SAMPLES`].
pub fn parse(text: &str) -> Result<Vec<Sample>, BadItem> {
    let mut samples = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (sample, behind) = item(rest).map_err(|why| BadItem { item: beginning(rest), why })?;
        if samples.len() == MOST_SAMPLES {
            return Err(BadItem { item: beginning(rest), why: "more than 512 values" });
        }
        samples.extend(sample);
        rest = behind.trim_start();
    }
    Ok(samples)
}

/// Reads the item that the text begins with; returns what follows it.
fn item(text: &str) -> Result<(Option<Sample>, &str), &'static str> {
    let (label, rest) = label(text)?;
    if label.is_empty() {
        return Err("the label is empty");
    }
    if label.len() > LONGEST_LABEL {
        return Err("the label has more than 256 bytes");
    }
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let (fields, behind) = rest.split_at_checked(end).unwrap_or((rest, ""));
    let mut fields = fields.split(';');
    let value = fields.next().unwrap_or_default();
    let sample = match value {
        "U" => None,
        _ => {
            let (value, unit) = quantity(value)?;
            Some(Sample { label, value, unit: unit.to_owned() })
        }
    };
    for (index, field) in fields.enumerate() {
        match index {
            _ if field.is_empty() && index < 4 => {}
            0 | 1 if is_range(field) => {}
            0 | 1 => return Err("the threshold is no range"),
            2 | 3 if quantity(field).is_ok() => {}
            2 | 3 => return Err("the minimum or maximum is no number"),
            // Some plugins end every item with a semicolon.
            4 if field.is_empty() => {}
            _ => return Err("more than a value, two thresholds, a minimum and a maximum"),
        }
    }
    Ok((sample, behind))
}

/// Reads a label and its `=`. In quotes it may have blanks and `=`, and two quotes stand for one.
fn label(text: &str) -> Result<(String, &str), &'static str> {
    const NO_EQUALS: &str = "no = behind the label";
    let Some(mut rest) = text.strip_prefix('\'') else {
        let (label, rest) = text.split_once('=').ok_or(NO_EQUALS)?;
        if label.contains(char::is_whitespace) {
            return Err(NO_EQUALS);
        }
        if label.contains('\'') {
            return Err("a quote within a label that is not quoted");
        }
        return Ok((label.to_owned(), rest));
    };
    let mut label = String::new();
    loop {
        let (part, behind) = rest.split_once('\'').ok_or("the label's quote is not closed")?;
        label.push_str(part);
        match behind.strip_prefix('\'') {
            Some(more) => {
                label.push('\'');
                rest = more;
            }
            None => return Ok((label, behind.strip_prefix('=').ok_or(NO_EQUALS)?)),
        }
    }
}

/// Splits a number and its unit.
fn quantity(text: &str) -> Result<(f64, &str), &'static str> {
    let (number, unit) = text.split_at_checked(number_length(text)).unwrap_or((text, ""));
    if number.is_empty() {
        return Err("no number where one belongs");
    }
    let number: f64 = number.parse().map_err(|_| "no number where one belongs")?;
    if !number.is_finite() {
        return Err("the number is too large");
    }
    if unit.starts_with(',') {
        return Err("a decimal comma; numbers have a decimal point");
    }
    // Debian's plugins print s, ms, us, %, B, KB, MB, GB, TB and KiB; others have their own: `b/s`, `°C`.
    let fits = |c: char| c.is_alphabetic() || matches!(c, '%' | '°' | '/');
    if unit.chars().count() > LONGEST_UNIT || !unit.chars().all(fits) {
        return Err("the unit is not a few letters");
    }
    Ok((number, unit))
}

/// How many bytes of the text are a decimal number: `-1.5e3`. An `e` without digits behind it begins a unit.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes.iter().skip(from).take_while(|b| b.is_ascii_digit()).count();
    let sign = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
    let whole = digits(sign);
    let mut end = sign + whole;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        if whole + fraction == 0 {
            return 0;
        }
        end += 1 + fraction;
    } else if whole == 0 {
        return 0;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        match digits(end + 1 + sign) {
            0 => {}
            exponent => end += 1 + sign + exponent,
        }
    }
    end
}

/// Whether a text is a threshold: `[@][start:][end]`, where the start may be `~` for "however low".
fn is_range(text: &str) -> bool {
    let text = text.strip_prefix('@').unwrap_or(text);
    let is_number = |text: &str| quantity(text).is_ok();
    match text.split_once(':') {
        None => is_number(text),
        Some((start, end)) => (start == "~" || is_number(start)) && (end.is_empty() || is_number(end)),
    }
}

/// As much of an item as belongs in a message.
fn beginning(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(text: &str) -> Vec<(String, f64, String)> {
        parse(text).unwrap().into_iter().map(|sample| (sample.label, sample.value, sample.unit)).collect()
    }

    fn one(label: &str, value: f64, unit: &str) -> Vec<(String, f64, String)> {
        vec![(label.into(), value, unit.into())]
    }

    #[test]
    fn a_value_has_a_label_and_a_unit() {
        assert_eq!(samples("time=0.002657s;;;0.000000;10.000000"), one("time", 0.002_657, "s"));
        assert_eq!(samples("/=12853444608B;216442024755;243497277849;0;270552530944"), one("/", 12_853_444_608.0, "B"));
        for unit in ["", "s", "us", "ms", "ns", "µs", "%", "B", "KB", "MB", "GB", "TB", "KiB", "c", "b/s", "°C", "E"]
        {
            assert_eq!(samples(&format!("a=-1.5{unit};~:1;@1:2;-1;+.5")), one("a", -1.5, unit), "{unit}");
        }
        assert_eq!(samples("a=1e-3s b=2.E2"), [one("a", 0.001, "s"), one("b", 200.0, "")].concat());
    }

    #[test]
    fn a_quoted_label_has_blanks_quotes_and_equals() {
        assert_eq!(samples("'C: it''s = 5%'=1%"), one("C: it's = 5%", 1.0, "%"));
        assert_eq!(samples("''''=1"), one("'", 1.0, ""));
    }

    #[test]
    fn items_are_separated_by_any_blanks() {
        assert_eq!(samples("  a=1  b=2;\n\tc=3;;;;; \n").len(), 3);
        assert!(samples(" \n ").is_empty());
    }

    #[test]
    fn a_value_that_the_plugin_does_not_know_gives_no_sample() {
        assert_eq!(samples("a=U;1;2 b=2"), one("b", 2.0, ""));
    }

    #[test]
    fn a_bad_item_is_named() {
        let long = format!("{}=1", "x".repeat(257));
        let many = "a=1 ".repeat(513);
        for (text, item, why) in [
            ("a=1 load b=2", "load", "no ="),
            ("load", "load", "no ="),
            ("a = 1", "a", "no ="),
            ("'a b'1", "'a", "no ="),
            ("=1", "=1", "empty"),
            ("''=1", "''=1", "empty"),
            ("'a b=1", "'a", "not closed"),
            ("a'b=1", "a'b=1", "quote"),
            ("a=", "a=", "no number"),
            ("a=;1", "a=;1", "no number"),
            ("a=abc", "a=abc", "no number"),
            ("a=NaN", "a=NaN", "no number"),
            ("a=.", "a=.", "no number"),
            ("a=--1", "a=--1", "no number"),
            ("a=1e999", "a=1e999", "too large"),
            ("a=1,5", "a=1,5", "decimal comma"),
            ("a=1.2.3", "a=1.2.3", "letters"),
            ("a=1kilobytes", "a=1kilobytes", "letters"),
            ("a=1;x", "a=1;x", "range"),
            ("a=1;;1:2:3", "a=1;;1:2:3", "range"),
            ("a=1;;;x", "a=1;;;x", "minimum"),
            ("a=1;;;;;6", "a=1;;;;;6", "more than a value"),
            ("a=1;;;;;;", "a=1;;;;;;", "more than a value"),
            (&long, &"x".repeat(64), "256 bytes"),
            (&many, "a=1", "512"),
        ] {
            let bad = parse(text).unwrap_err();
            assert_eq!(bad.item, item, "{text}");
            assert!(bad.why.contains(why), "{text}: {bad}");
        }
    }

    #[test]
    fn no_cut_of_good_data_is_trouble() {
        let text = "'C: it''s'=-1.5e3µs;@~:1;1:2;-1;+.5 b=U '°'=1°C";
        for (cut, _) in text.char_indices() {
            let (head, tail) = text.split_at(cut);
            let _ = (parse(head), parse(tail));
        }
    }
}
