//! Cuts lists into pages by the key of the last row.

use api::page::{LIMIT_DEFAULT, LIMIT_MAX, PageQuery};

use super::AppError;

/// The most digits of the number in a cursor: all of them fit into 64 bits.
const NUMBER_LEN_MAX: usize = 18;

/// The longest text in a cursor.
const TEXT_LEN_MAX: usize = 64;

/// One page, before it is wrapped.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Page<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) next_cursor: Option<String>,
}

/// Where a page starts: the number and the text by which the rows are ordered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    /// The key of the row before the first.
    pub(crate) number: i64,
    /// Decides between rows with the same number.
    pub(crate) text: String,
    /// How many rows the caller wants.
    limit: usize,
}

impl Window {
    /// Reads what the caller asked for; `start` is the key before the very first row, `cap` the most rows of a page.
    pub(crate) fn read(query: &PageQuery, start: (i64, &str), cap: u32) -> Result<Self, AppError> {
        let limit = match query.limit {
            Some(0) => return Err(AppError::bad_request("limit must be at least 1")),
            Some(limit) => limit.min(cap),
            None => LIMIT_DEFAULT,
        };
        let (number, text) = match &query.cursor {
            Some(cursor) => decode(cursor)
                .ok_or_else(|| AppError::bad_request("cursor is not one that this server made"))?,
            None => (start.0, start.1.to_owned()),
        };
        Ok(Self {
            number,
            text,
            limit: limit as usize,
        })
    }

    /// For lists that are ordered from the newest.
    pub(crate) fn newest_first(query: &PageQuery) -> Result<Self, AppError> {
        Self::read(query, (i64::MAX, ""), LIMIT_MAX)
    }

    /// For lists that are ordered from the oldest.
    pub(crate) fn oldest_first(query: &PageQuery) -> Result<Self, AppError> {
        Self::read(query, (-1, ""), LIMIT_MAX)
    }

    /// How many rows to fetch: one more than the page, which tells whether another follows.
    pub(crate) fn fetch(&self) -> i64 {
        i64::try_from(self.limit + 1).unwrap_or(i64::MAX)
    }

    /// The key as the store takes it.
    pub(crate) fn key(&self) -> (i64, &str) {
        (self.number, &self.text)
    }

    /// Cuts what was fetched to one page; with `more` there are further rows though fewer than a page were fetched.
    pub(crate) fn cut_early<T>(
        &self,
        rows: Vec<T>,
        more: bool,
        key: impl Fn(&T) -> (i64, String),
    ) -> Page<T> {
        let last = rows.last().map(&key).filter(|_| more && rows.len() <= self.limit);
        let mut page = self.cut(rows, key);
        page.next_cursor = page.next_cursor.or(last.map(cursor));
        page
    }

    /// Cuts what was fetched to one page; `key` tells a row's number and text.
    pub(crate) fn cut<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> (i64, String)) -> Page<T> {
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next_cursor = rows.last().filter(|_| more).map(|last| cursor(key(last)));
        Page { rows, next_cursor }
    }
}

fn cursor((number, text): (i64, String)) -> String {
    if text.is_empty() {
        return number.to_string();
    }
    format!("{number}.{text}")
}

/// Takes whatever has the form that the contract states: [`api::page::CURSOR_PATTERN`].
fn decode(cursor: &str) -> Option<(i64, String)> {
    let (number, text) = match cursor.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (cursor, ""),
    };
    let digits = (1..=NUMBER_LEN_MAX).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !digits || text.len() > TEXT_LEN_MAX || !text.bytes().all(plain) {
        return None;
    }
    Some((number.parse().ok()?, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_knows_where_the_next_one_starts() {
        let query = PageQuery {
            limit: Some(2),
            cursor: None,
        };
        let window = Window::oldest_first(&query).expect("valid");
        let page = window.cut(vec![1, 2, 3], |n| (*n, "x".to_owned()));
        assert_eq!(page.rows, [1, 2]);
        let next = PageQuery {
            limit: Some(2),
            cursor: page.next_cursor,
        };
        let window = Window::oldest_first(&next).expect("own cursor");
        assert_eq!(window.key(), (2, "x"));
        assert_eq!(window.cut(vec![3], |n| (*n, String::new())).next_cursor, None);
    }

    #[test]
    fn rubbish_is_no_cursor() {
        let long = format!("1.{}", "a".repeat(65));
        for cursor in [
            "",
            "*",
            "a",
            "1.",
            ".a",
            "-1",
            "+1",
            "1.a.b",
            "1.a b",
            "1.ä",
            "1\n",
            "1.a\0",
            "1234567890123456789",
            &long,
        ] {
            let query = PageQuery {
                limit: None,
                cursor: Some(cursor.to_owned()),
            };
            assert!(Window::newest_first(&query).is_err(), "{cursor}");
        }
    }
}
