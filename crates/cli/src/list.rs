//! Long lists: page after page, up to what was asked for.

use std::io::Write as _;

use wardline_sdk::{Page, Problem, page};

/// How many rows are shown when nothing else is asked for.
const DEFAULT: u32 = 1000;

/// Options of every list.
#[derive(clap::Args)]
pub(crate) struct Limit {
    /// Show at most so many.
    #[arg(long, value_name = "N", default_value_t = DEFAULT, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl Limit {
    /// Asks for pages, given how many rows at most and the cursor, until there is enough. Says so when there is more.
    pub(crate) async fn gather<T>(
        &self,
        ask: impl AsyncFn(u32, Option<String>) -> Result<Page<T>, Problem>,
    ) -> Result<Vec<T>, Problem> {
        let mut items = Vec::new();
        let mut cursor = None;
        loop {
            let left = self.limit.saturating_sub(items.len() as u32);
            let page = ask(left.min(page::MOST), cursor).await?;
            items.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                return Ok(items);
            }
            if items.len() >= self.limit as usize {
                let _ = writeln!(std::io::stderr(), "there is more: show it with `--limit N`, now {}", self.limit);
                return Ok(items);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_gathered_up_to_the_limit() {
        let ask = async |limit: u32, cursor: Option<String>| {
            let from: u32 = cursor.map_or(0, |cursor| cursor.parse().unwrap());
            let to = (from + limit).min(2500);
            Ok(Page { items: (from..to).collect::<Vec<_>>(), next: (to < 2500).then(|| to.to_string()) })
        };
        for (limit, expected) in [(1, 1), (1000, 1000), (1700, 1700), (9999, 2500)] {
            assert_eq!(Limit { limit }.gather(ask).await.unwrap(), (0..expected).collect::<Vec<_>>());
        }
    }
}
