//! How long lists are read: a page, and a cursor to the next one.

use serde::{Deserialize, Serialize};

/// As many rows as a page has when nothing else is asked for.
pub const DEFAULT: u32 = 100;
/// The most rows of a page.
pub const MOST: u32 = 1000;

/// A part of a list, in the list's order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// What to give as `cursor` to get the next page; nothing when this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// The page that `rows`, read one longer than `limit`, make. `cursor` gives a row's cursor.
    pub fn of(mut rows: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Self {
        let limit = limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(cursor) } else { None };
        Self { items: rows, next }
    }
}

/// How many rows to give to somebody who asked for so many.
pub fn limit(asked: Option<u32>) -> u32 {
    asked.unwrap_or(DEFAULT).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_with_more_behind_it_has_a_cursor() {
        assert_eq!(Page::of(vec![1, 2, 3], 2, i32::to_string), Page { items: vec![1, 2], next: Some("2".into()) });
        assert_eq!(Page::of(vec![1, 2], 2, i32::to_string), Page { items: vec![1, 2], next: None });
        assert_eq!(Page::of(vec![], 2, i32::to_string), Page { items: vec![], next: None });
    }
}
