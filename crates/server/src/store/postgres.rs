//! A connection to PostgreSQL, used from a thread that may block. Each statement has a time limit, at both ends.
//!
//! A server is reached over TLS, its certificate checked against a CA that the configuration names and its exact name; or
//! over a unix socket. Nothing else is dialled.

mod tls;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tokio::runtime::Runtime;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{self, FromSql, IsNull, ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Statement};
use wardline_proto::event::Event;

use super::sql::{Param, Row, Value, Values};

/// How long a statement may take here. The server itself gives up a little before: what it has given up is not in doubt.
const STATEMENT: Duration = Duration::from_secs(30);
/// The same for reaching one host and for being let in there: the next one may be the one that works.
const CONNECTING: Duration = Duration::from_secs(5);

/// What every session is told. Whatever a role or a database sets: a commit means the disk has it, and what a server that
/// hangs has locked is free again soon.
const SESSION: &str = "SET statement_timeout = '25s'; SET lock_timeout = '1s'; \
                       SET idle_in_transaction_session_timeout = '10s'; SET TimeZone = 'UTC'; \
                       SET default_transaction_isolation = 'read committed'; \
                       SELECT set_config('synchronous_commit', 'on', false) \
                       WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')";

/// Waits until a synchronous standby has everything that can be read here. After a restart PostgreSQL shows commits that
/// still waited for it, and an agent throws away what is said to be here.
pub(super) const CAUGHT_UP: &str = "SELECT pg_logical_emit_message(true, 'wardline', '')";

/// The table `[postgres]` of the configuration: what is needed to be let in.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Certificates of the CAs one of which has issued that of the database server, PEM.
    ca: Option<PathBuf>,
    /// A file with the password, in its first line.
    password_file: Option<PathBuf>,
    /// A certificate to log in with, PEM.
    certificate: Option<PathBuf>,
    /// Its private key, PEM.
    key: Option<PathBuf>,
}

/// Where the database is and how to be let in.
#[derive(Clone, Debug)]
pub struct Settings {
    config: Config,
    /// One for each host.
    hosts: Vec<Config>,
    login: Login,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            match host {
                Host::Tcp(name) => f.write_str(name)?,
                Host::Unix(folder) => write!(f, "{}", folder.display())?,
            }
            let ports = self.config.get_ports();
            if let Some(port) = ports.get(index).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl Settings {
    /// Reads `postgres://USER@HOST[:PORT][,HOST[:PORT]]/DATABASE`; a host is a name, or the folder of a unix socket.
    ///
    /// # Errors
    /// In words: what cannot be used, and what to do.
    pub fn new(url: &str, login: &Login) -> Result<Self, String> {
        let config: Config = url.parse().map_err(|error| format!("database: {}", Shown(&error)))?;
        let (hosts, user) = (config.get_hosts(), config.get_user());
        let remote = hosts.iter().any(|host| matches!(host, Host::Tcp(_)));
        if hosts.is_empty() || user.is_none() || config.get_dbname().is_none() {
            return Err("database: `postgres://USER@HOST/DATABASE` is expected".into());
        }
        if !config.get_hostaddrs().is_empty() {
            return Err(
                "database: `hostaddr` is not allowed: a server is dialled by the name that it has to prove".into()
            );
        }
        if remote && hosts.iter().any(|host| matches!(host, Host::Unix(_))) {
            return Err("database: its hosts are either names or folders of unix sockets".into());
        }
        if config.get_password().is_some() {
            return Err("database: no password belongs into the address; name its file as `password_file` in \
                        `[postgres]`"
                .into());
        }
        if remote && login.ca.is_none() {
            return Err("database: a server that is reached over a network has to prove who it is; name the \
                        certificate of its CA as `ca` in `[postgres]`"
                .into());
        }
        if login.certificate.is_some() != login.key.is_some() {
            return Err("[postgres]: `certificate` and `key` belong together".into());
        }
        let ports = config.get_ports();
        let one = |(index, host): (usize, &Host)| {
            let mut one = Config::new();
            match host {
                Host::Tcp(name) => one.host(name),
                Host::Unix(folder) => one.host_path(folder),
            };
            if let Some(port) = ports.get(index).or(ports.first()) {
                one.port(*port);
            }
            one.user(user.unwrap_or_default())
                .dbname(config.get_dbname().unwrap_or_default())
                .ssl_mode(if remote { SslMode::Require } else { SslMode::Disable })
                .target_session_attrs(TargetSessionAttrs::ReadWrite)
                .application_name("wardline-server")
                .tcp_user_timeout(STATEMENT)
                .keepalives_idle(CONNECTING);
            one
        };
        let hosts = hosts.iter().enumerate().map(one).collect();
        Ok(Self { config, hosts, login: login.clone() })
    }

    /// The first host that takes writes.
    async fn connect(&self) -> Result<Client, Error> {
        let mut last = Error::Late;
        for host in &self.hosts {
            match tokio::time::timeout(CONNECTING, self.dial(host)).await {
                Ok(Ok(client)) => {
                    client.batch_execute(CAUGHT_UP).await?;
                    return Ok(client);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = Error::Late,
            }
        }
        Err(last)
    }

    async fn dial(&self, host: &Config) -> Result<Client, Error> {
        let mut config = host.clone();
        if let Some(path) = &self.login.password_file {
            let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, &error))?;
            config.password(text.lines().next().unwrap_or_default());
        }
        // It ends with the client, and says what is wrong by the client's next answer.
        let client = match config.get_ssl_mode() {
            SslMode::Disable => {
                let (client, connection) = config.connect(NoTls).await?;
                tokio::spawn(async move { drop(connection.await) });
                client
            }
            _ => {
                let (client, connection) = config.connect(tls::connector(&self.login)?).await?;
                tokio::spawn(async move { drop(connection.await) });
                client
            }
        };
        client.batch_execute(SESSION).await?;
        Ok(client)
    }
}

/// Why PostgreSQL has not done something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It says so itself, or the way to it has failed.
    #[error("{}", Shown(.0))]
    Client(#[from] tokio_postgres::Error),
    /// There was no answer in time.
    #[error("there was no answer in time")]
    Late,
    /// A file that is needed to log in.
    #[error("{0}")]
    Login(String),
}

/// What the client says, with what it only hints at.
struct Shown<'a>(&'a tokio_postgres::Error);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::error::Error as _;
        if let Some(error) = self.0.as_db_error() {
            return write!(f, "{} (SQLSTATE {})", error.message(), error.code().code());
        }
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl Error {
    fn file(path: &std::path::Path, error: &dyn fmt::Display) -> Self {
        Self::Login(format!("{}: {error}", path.display()))
    }

    fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Client(error) => error.code(),
            _ => None,
        }
    }

    /// It is about one row: a value that cannot be stored (class 22), a rule that it breaks (23), or too long for an index
    /// (54).
    pub(super) fn is_about_the_row(&self) -> bool {
        self.state().is_some_and(|state| ["22", "23", "54"].iter().any(|class| state.code().starts_with(class)))
    }

    /// What is there cannot be read: it makes no sense (class XX), the disk does not give it back, or the file is gone
    /// (58).
    pub(super) fn is_damage(&self) -> bool {
        self.state().is_some_and(|state| ["XX", "58"].iter().any(|class| state.code().starts_with(class)))
    }

    /// What an operator has to know of it, when it has kept something from being written there.
    pub(super) fn trouble(&self, path: String) -> Event {
        match self.state() {
            Some(state) if *state == SqlState::DISK_FULL => Event::DiskFull { path },
            Some(state) if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(state) => {
                Event::DatabaseUnusable { path, reason: self.to_string() }
            }
            Some(state) if *state == SqlState::IO_ERROR => Event::DiskFailed { path, reason: self.to_string() },
            _ => Event::DatabaseBusy { path, reason: self.to_string() },
        }
    }
}

/// A connection.
pub(super) struct Postgres {
    client: Client,
    statements: RefCell<HashMap<String, Statement>>,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Wherever that is: nothing is waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Postgres {
    /// Connects to the first host of the list that takes writes.
    pub(super) fn connect(settings: &Settings) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Login(error.to_string()))?;
        let client = wait(&runtime, settings.connect())?;
        Ok(Self { client, statements: RefCell::default(), runtime: Some(runtime) })
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Error> {
        let runtime = self.runtime.as_ref().ok_or(Error::Late)?;
        wait(runtime, async { answer.await.map_err(Error::from) })
    }

    /// Runs statements without parameters.
    pub(super) fn batch(&self, sql: &str) -> Result<(), Error> {
        self.wait(self.client.batch_execute(sql))
    }

    /// Makes durable what the transaction has written. A COMMIT of one in which something has failed takes it back, and
    /// says nothing; the other statement does.
    pub(super) fn commit(&self) -> Result<(), Error> {
        self.batch("SELECT; COMMIT")
    }

    fn prepare(&self, sql: &str) -> Result<Statement, Error> {
        if let Some(known) = self.statements.borrow().get(sql) {
            return Ok(known.clone());
        }
        let statement = self.wait(self.client.prepare(&sql.replace('?', "$")))?;
        self.statements.borrow_mut().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    pub(super) fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<usize, Error> {
        let statement = self.prepare(sql)?;
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param as _).collect();
        let changed = self.wait(self.client.execute(&statement, &params))?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    pub(super) fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        let statement = self.prepare(sql)?;
        let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param as _).collect();
        self.wait(self.client.query(&statement, &params))?.iter().map(row).collect()
    }

    /// Inserts many rows, in their order.
    pub(super) fn insert(&self, table: &str, columns: &[(&str, Values<'_>)]) -> Result<(), Error> {
        let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        let arrays = columns.iter().zip(1..).map(|((_, values), number)| match values {
            Values::Integers(_) => format!("?{number}::bigint[]"),
            Values::Texts(_) => format!("?{number}::text[]"),
            Values::Blobs(_) => format!("?{number}::bytea[]"),
        });
        let arrays: Vec<_> = arrays.collect();
        let sql = format!("INSERT INTO {table} ({}) SELECT * FROM unnest({})", names.join(", "), arrays.join(", "));
        let statement = self.prepare(&sql)?;
        let arrays = columns.iter().map(|(_, values)| match values {
            Values::Integers(values) => Box::new(values.as_slice()) as Box<dyn ToSql + Sync + '_>,
            Values::Texts(values) => Box::new(values.iter().map(|text| storable(text)).collect::<Vec<_>>()),
            Values::Blobs(values) => Box::new(values.as_slice()),
        });
        let arrays: Vec<_> = arrays.collect();
        let params: Vec<_> = arrays.iter().map(|array| &**array).collect();
        self.wait(self.client.execute(&statement, &params)).map(drop)
    }
}

/// A text as PostgreSQL takes it: it has no NUL, for which the symbol of it stands.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{2400}").into() } else { text.into() }
}

fn wait<T>(runtime: &Runtime, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    runtime.block_on(async { tokio::time::timeout(STATEMENT, answer).await }).unwrap_or(Err(Error::Late))
}

fn row(row: &tokio_postgres::Row) -> Result<Row, Error> {
    (0..row.len()).map(|index| Ok(row.try_get::<_, Value>(index)?)).collect::<Result<_, _>>().map(Row)
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match *ty {
            Type::INT8 => Self::Integer(i64::from_sql(ty, raw)?),
            Type::INT4 => Self::Integer(i32::from_sql(ty, raw)?.into()),
            Type::BOOL => Self::Integer(bool::from_sql(ty, raw)?.into()),
            Type::FLOAT8 => Self::Real(f64::from_sql(ty, raw)?),
            Type::BYTEA => Self::Blob(raw.to_vec()),
            _ => Self::Text(String::from_sql(ty, raw)?),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::INT4 | Type::BOOL | Type::FLOAT8 | Type::BYTEA | Type::TEXT)
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self, ty: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(value) => value.to_sql_checked(ty, out),
            Self::Real(value) => value.to_sql_checked(ty, out),
            Self::Text(value) => storable(value).to_sql_checked(ty, out),
            Self::Blob(value) => value.to_sql_checked(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        // Each value looks by itself.
        true
    }

    types::to_sql_checked!();
}
