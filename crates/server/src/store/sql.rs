//! One face of two databases. Statements are written once, in the words that SQLite and PostgreSQL share, with numbered
//! parameters (`?1`); integers have 64 bits, truth is 0 or 1.

use std::cell::Cell;

use rusqlite::types::{ToSqlOutput, ValueRef};

use wardline_connector::outage::is_busy;
use wardline_secrets::head::Reach;

use super::postgres::{self, Postgres};
use super::sqlite;

/// A connection. A failed statement leaves its transaction good for nothing but a rollback, unless it was
/// [`guarded`](Connection::guarded).
pub(super) struct Connection {
    engine: Engine,
    careful: Cell<bool>,
}

/// What is at the other end.
pub(super) enum Engine {
    /// A file.
    Sqlite(rusqlite::Connection),
    /// A server.
    Postgres(Box<Postgres>),
}

/// Why a statement has failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite says.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL says, or the way to it.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// A column does not hold what it should.
    #[error("column {0} is not {1}")]
    Column(usize, &'static str),
    /// The database cannot keep every text.
    #[error("its encoding is {0}: create it with --encoding=UTF8")]
    Encoding(String),
    /// A row that was just written is not there.
    #[error("a row that was just written is not there")]
    Vanished,
    /// The trust log does not reach as far as it did: another, older database is there now. What it reached.
    #[error("the trust log does not reach {0} any more")]
    LogShorter(Reach),
    /// A newer version of the program has changed the schema while this one ran.
    #[error("a newer version of the program has changed the database")]
    Newer,
}

impl Error {
    /// Somebody else has the lock: nothing was tried, so nothing is in doubt.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Sqlite(error) if is_busy(error))
    }

    /// What is there cannot be read.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite(error) => sqlite::is_damage(error),
            Self::Postgres(error) => error.is_damage(),
            _ => false,
        }
    }

    /// It is about one row; trying again cannot help.
    pub(super) fn is_about_the_row(&self) -> bool {
        match self {
            Self::Sqlite(error) => sqlite::is_about_the_row(error),
            Self::Postgres(error) => error.is_about_the_row(),
            // Somebody has written what none of us does.
            Self::Column(..) => true,
            Self::Encoding(_) | Self::Vanished | Self::LogShorter(_) | Self::Newer => false,
        }
    }
}

/// A value for a statement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Param<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}

macro_rules! param {
    ($type:ty, $value:ident => $param:expr) => {
        impl<'a> From<$type> for Param<'a> {
            fn from($value: $type) -> Self {
                $param
            }
        }
    };
}

param!(i64, value => Param::Integer(value));
param!(i32, value => Param::Integer(value.into()));
param!(u32, value => Param::Integer(value.into()));
param!(u8, value => Param::Integer(value.into()));
param!(bool, value => Param::Integer(value.into()));
param!(f64, value => Param::Real(value));
param!(&'a str, value => Param::Text(value));
param!(&'a String, value => Param::Text(value));
param!(&'a [u8], value => Param::Blob(value));
param!(&'a Vec<u8>, value => Param::Blob(value));

impl<'a, const N: usize> From<&'a [u8; N]> for Param<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Self::Blob(value)
    }
}

impl<'a, T: Into<Param<'a>>> From<Option<T>> for Param<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The values of a statement, in the order of their numbers.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::store::sql::Param::from($value)),*] };
}
pub(super) use params;

/// What a column holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Value {
    /// The same, to be put into a statement.
    pub(super) fn param(&self) -> Param<'_> {
        match self {
            Self::Null => Param::Null,
            Self::Integer(value) => Param::Integer(*value),
            Self::Real(value) => Param::Real(*value),
            Self::Text(value) => Param::Text(value),
            Self::Blob(value) => Param::Blob(value),
        }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(value) => Self::Integer(value),
            ValueRef::Real(value) => Self::Real(value),
            ValueRef::Text(value) => Self::Text(String::from_utf8_lossy(value).into_owned()),
            ValueRef::Blob(value) => Self::Blob(value.to_vec()),
        }
    }
}

/// A row of an answer.
#[derive(Debug)]
pub(super) struct Row(pub(super) Vec<Value>);

impl Row {
    /// What stands in a column, counted from 0.
    pub(super) fn get<T: Column>(&self, index: usize) -> Result<T, Error> {
        let value = self.0.get(index).and_then(T::of);
        value.ok_or(Error::Column(index, T::WHAT))
    }
}

/// What a column can be read as.
pub(super) trait Column: Sized {
    /// What that is.
    const WHAT: &'static str;
    /// Reads it, if it is that.
    fn of(value: &Value) -> Option<Self>;
}

macro_rules! column {
    ($type:ty, $what:literal, $pattern:pat => $value:expr) => {
        impl Column for $type {
            const WHAT: &'static str = $what;

            fn of(value: &Value) -> Option<Self> {
                match value {
                    $pattern => $value,
                    _ => None,
                }
            }
        }
    };
}

column!(i64, "an integer", Value::Integer(value) => Some(*value));
column!(i32, "a number of 32 bits", Value::Integer(value) => i32::try_from(*value).ok());
column!(u32, "a number of 32 bits", Value::Integer(value) => u32::try_from(*value).ok());
column!(u8, "a number of 8 bits", Value::Integer(value) => u8::try_from(*value).ok());
column!(bool, "true or false", Value::Integer(value) => Some(*value != 0));
column!(String, "a text", Value::Text(value) => Some(value.clone()));
column!(Vec<u8>, "bytes", Value::Blob(value) => Some(value.clone()));

impl<const N: usize> Column for [u8; N] {
    const WHAT: &'static str = "as many bytes as it should be";

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Blob(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        }
    }
}

impl<T: Column> Column for Option<T> {
    const WHAT: &'static str = T::WHAT;

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::of(value).map(Some),
        }
    }
}

/// The values of one column of many rows.
#[derive(Debug)]
pub(super) enum Values<'a> {
    Integers(Vec<i64>),
    Texts(Vec<&'a str>),
    Blobs(Vec<&'a [u8]>),
}

impl<'a> Values<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Integers(values) => values.len(),
            Self::Texts(values) => values.len(),
            Self::Blobs(values) => values.len(),
        }
    }

    /// The value of one row.
    pub(super) fn at(&self, row: usize) -> Param<'a> {
        match self {
            Self::Integers(values) => values.get(row).copied().into(),
            Self::Texts(values) => values.get(row).copied().into(),
            Self::Blobs(values) => values.get(row).copied().into(),
        }
    }
}

impl From<Engine> for Connection {
    fn from(engine: Engine) -> Self {
        Self { engine, careful: Cell::new(false) }
    }
}

impl Connection {
    pub(super) const fn engine(&self) -> &Engine {
        &self.engine
    }

    #[cfg(test)]
    pub(super) fn into_engine(self) -> Engine {
        self.engine
    }

    /// Begins a transaction that writes.
    pub(super) fn begin(&self) -> Result<(), Error> {
        match &self.engine {
            Engine::Sqlite(connection) => Ok(connection.execute_batch("BEGIN IMMEDIATE")?),
            Engine::Postgres(connection) => Ok(connection.batch("BEGIN")?),
        }
    }

    /// Begins a transaction that reads one state of the database.
    pub(super) fn begin_reading(&self) -> Result<(), Error> {
        match &self.engine {
            Engine::Sqlite(connection) => Ok(connection.execute_batch("BEGIN")?),
            Engine::Postgres(connection) => Ok(connection.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?),
        }
    }

    /// Makes durable what the transaction has written.
    pub(super) fn commit(&self) -> Result<(), Error> {
        match &self.engine {
            Engine::Sqlite(connection) => Ok(connection.execute_batch("COMMIT")?),
            Engine::Postgres(connection) => Ok(connection.commit()?),
        }
    }

    /// Takes back what the transaction has written.
    pub(super) fn rollback(&self) -> Result<(), Error> {
        match &self.engine {
            Engine::Sqlite(connection) if connection.is_autocommit() => Ok(()),
            Engine::Sqlite(connection) => Ok(connection.execute_batch("ROLLBACK")?),
            Engine::Postgres(connection) => Ok(connection.batch("ROLLBACK")?),
        }
    }

    /// Writes within a transaction: all of it or nothing.
    pub(super) fn transaction<T>(&self, write: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.begin()?;
        let written = write().and_then(|answer| self.commit().map(|()| answer));
        // What has failed says more than this could; who did not answer would be waited for once more.
        if !matches!(written, Ok(_) | Err(Error::Postgres(postgres::Error::Late))) {
            let _ = self.rollback();
        }
        written
    }

    /// Runs a statement; how many rows it has changed.
    pub(super) fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<usize, Error> {
        match &self.engine {
            Engine::Sqlite(connection) => {
                Ok(connection.prepare_cached(sql)?.execute(rusqlite::params_from_iter(params))?)
            }
            Engine::Postgres(connection) => Ok(connection.execute(sql, params)?),
        }
    }

    /// Runs a statement; the rows of its answer.
    pub(super) fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        match &self.engine {
            Engine::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                let width = statement.column_count();
                let rows = statement.query_map(rusqlite::params_from_iter(params), |row| {
                    let values = (0..width).map(|index| row.get_ref(index).map(Value::from));
                    values.collect::<rusqlite::Result<_>>().map(Row)
                })?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            }
            Engine::Postgres(connection) => Ok(connection.query(sql, params)?),
        }
    }

    /// The same, each row read as what it says.
    pub(super) fn read<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        read: impl Fn(&Row) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        self.query(sql, params)?.iter().map(read).collect()
    }

    /// The first row of an answer, if there is one.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        read: impl FnOnce(&Row) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        self.query(sql, params)?.first().map(read).transpose()
    }

    /// The one number that a statement answers.
    pub(super) fn number(&self, sql: &str) -> Result<i64, Error> {
        self.first(sql, &[], |row| row.get(0))?.ok_or(Error::Vanished)
    }

    /// Inserts many rows, in their order: the names of the columns, and the values of each.
    pub(super) fn insert(&self, table: &str, columns: &[(&str, Values<'_>)]) -> Result<(), Error> {
        match &self.engine {
            Engine::Sqlite(connection) => Ok(sqlite::insert(connection, table, columns)?),
            Engine::Postgres(connection) => Ok(connection.insert(table, columns)?),
        }
    }

    /// Does something about one row. When the row itself is refused, and each is written by itself, its transaction can
    /// go on.
    pub(super) fn guarded<T, E: From<Error>>(&self, write: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        match &self.engine {
            Engine::Postgres(connection) if self.is_careful() => {
                let batch = |sql| connection.batch(sql).map_err(|error| E::from(error.into()));
                batch("SAVEPOINT one")?;
                let written = write();
                batch(if written.is_ok() { "RELEASE one" } else { "ROLLBACK TO one; RELEASE one" })?;
                written
            }
            // In a file a statement that fails takes back itself alone.
            _ => write(),
        }
    }

    /// Whether a transaction goes on after a statement that failed within [`Self::guarded`].
    pub(super) const fn goes_on(&self) -> bool {
        matches!(self.engine, Engine::Sqlite(_)) || self.is_careful()
    }

    /// Whether each row is written by itself, because one of many is refused.
    pub(super) const fn is_careful(&self) -> bool {
        self.careful.get()
    }

    /// Gives whether that is news.
    pub(super) fn set_careful(&self, careful: bool) -> bool {
        self.careful.replace(careful) != careful
    }

    /// What goes behind a `SELECT` of rows that this transaction will change, where others may want to as well.
    pub(super) const fn for_update(&self) -> &'static str {
        match &self.engine {
            // Nobody else writes meanwhile.
            Engine::Sqlite(_) => "",
            Engine::Postgres(_) => " FOR UPDATE",
        }
    }

    /// Keeps others from writing into a table until the transaction ends. They still read it.
    pub(super) fn lock(&self, table: &str) -> Result<(), Error> {
        match &self.engine {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(connection) => Ok(connection.batch(&format!("LOCK TABLE {table} IN EXCLUSIVE MODE"))?),
        }
    }

    /// Has the COMMIT of this transaction wait until a synchronous standby has everything that can be read here.
    pub(super) fn catch_up_standby(&self) -> Result<(), Error> {
        match &self.engine {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(connection) => Ok(connection.batch(postgres::CAUGHT_UP)?),
        }
    }

    /// How large the database is, in bytes.
    pub(super) fn bytes(&self) -> Result<i64, Error> {
        match &self.engine {
            Engine::Sqlite(_) => Ok(self.number("PRAGMA page_count")? * self.number("PRAGMA page_size")?),
            Engine::Postgres(_) => self.number("SELECT pg_database_size(current_database())"),
        }
    }
}

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(value),
            Self::Real(value) => ValueRef::Real(value),
            Self::Text(value) => ValueRef::Text(value.as_bytes()),
            Self::Blob(value) => ValueRef::Blob(value),
        }))
    }
}
