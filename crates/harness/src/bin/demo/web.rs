//! The web service that the demo watches.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use wardline_harness::pki;

/// The user that logs on.
pub const USER: &str = "ann";
/// What the web service answers when it is broken.
pub const BROKEN: &str = "500 Broken on purpose";

/// A small web service on a free port of the loopback address, behind TLS and a login; healthy or not.
pub struct Web {
    /// Where it listens.
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    tls: Arc<ServerConfig>,
    /// What it wants to hear, as HTTP says it.
    login: Mutex<String>,
    healthy: AtomicBool,
    requests: AtomicU64,
    logins: AtomicU64,
}

impl Web {
    /// Starts it, healthy; nobody can log on yet.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("a bound socket has a name");
        let inner = Arc::new(Inner {
            tls: pki::self_signed_server("shop.test"),
            login: Mutex::default(),
            healthy: AtomicBool::new(true),
            requests: AtomicU64::new(0),
            logins: AtomicU64::new(0),
        });
        let served = Arc::clone(&inner);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client that goes away in between is none.
                let _ = served.serve(client);
            }
        });
        Self { address, inner }
    }

    /// Mends it, or breaks it.
    pub fn set_healthy(&self, healthy: bool) {
        self.inner.healthy.store(healthy, Ordering::SeqCst);
    }

    /// From now on this is the password.
    pub fn expect(&self, password: &str) {
        let login = Base64::encode_string(format!("{USER}:{password}").as_bytes());
        *self.inner.login.lock().expect("nobody panics") = format!("Basic {login}");
    }

    /// How often check_http has asked.
    pub fn requests(&self) -> u64 {
        self.inner.requests.load(Ordering::SeqCst)
    }

    /// How often somebody has logged on, with what is the password now.
    pub fn logins(&self) -> u64 {
        self.inner.logins.load(Ordering::SeqCst)
    }
}

impl Inner {
    fn serve(&self, tcp: TcpStream) -> std::io::Result<()> {
        tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
        let tls = ServerConnection::new(Arc::clone(&self.tls)).map_err(std::io::Error::other)?;
        let mut client = StreamOwned::new(tls, tcp);
        let (mut ours, mut logged_on) = (false, false);
        let expected = self.login.lock().expect("nobody panics").clone();
        for line in BufReader::new(&mut client).lines() {
            let line = line?;
            ours |= line.starts_with("User-Agent: check_http");
            logged_on |= line.strip_prefix("Authorization: ").is_some_and(|login| login == expected);
            if line.is_empty() {
                break;
            }
        }
        let status = match (logged_on, self.healthy.load(Ordering::SeqCst)) {
            (false, _) => "401 Unauthorized",
            (true, true) => "200 OK",
            (true, false) => BROKEN,
        };
        write!(client, "HTTP/1.1 {status}\r\nContent-Length: 3\r\nConnection: close\r\n\r\nHi\n")?;
        client.conn.send_close_notify();
        client.flush()?;
        self.requests.fetch_add(u64::from(ours), Ordering::SeqCst);
        self.logins.fetch_add(u64::from(ours && logged_on), Ordering::SeqCst);
        Ok(())
    }
}
