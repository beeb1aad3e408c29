//! The wire between two programs: forwards what they say, keeps a copy, and can hurt it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A direction through the tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the end that dialled.
    Up,
    /// To the end that dialled.
    Down,
}

/// A TCP proxy on the loopback address. Connections end with it.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    refusing: bool,
    accepted: usize,
    open: Vec<Connection>,
    up: Wire,
    down: Wire,
}

#[derive(Debug)]
struct Connection {
    number: usize,
    ends: [TcpStream; 2],
}

/// One direction, over all connections.
#[derive(Debug, Default)]
struct Wire {
    recorded: Vec<u8>,
    held: bool,
    delay: Duration,
    flip: Option<usize>,
}

impl State {
    const fn wire(&mut self, way: Way) -> &mut Wire {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    fn is_open(&self, number: usize) -> bool {
        self.open.iter().any(|connection| connection.number == number)
    }

    /// Closes connections at once, both ends.
    fn close(&mut self, which: impl Fn(usize) -> bool) {
        for connection in self.open.extract_if(.., |connection| which(connection.number)) {
            for end in &connection.ends {
                // It may be closed already.
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of the tap panics")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }
}

impl Tap {
    /// Listens, and dials `target` for whoever connects.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared { target, state: Mutex::default(), changed: Condvar::new() });
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has taken so far.
    pub fn accepted(&self) -> usize {
        self.shared.state().accepted
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.state().open.len()
    }

    /// How many bytes came in, over all connections.
    pub fn count(&self, way: Way) -> usize {
        self.shared.state().wire(way).recorded.len()
    }

    /// The bytes that came in, as they came, over all connections.
    pub fn recorded(&self, way: Way) -> Vec<u8> {
        self.shared.state().wire(way).recorded.clone()
    }

    /// Cuts all connections. New ones are taken.
    pub fn cut(&self) {
        self.shared.change(|state| state.close(|_| true));
    }

    /// Closes every new connection at once, or no more.
    pub fn refuse(&self, refuse: bool) {
        self.shared.change(|state| state.refusing = refuse);
    }

    /// Passes nothing on in this direction, or what has gathered and all that follows. Nobody is told: a black hole.
    pub fn hold(&self, way: Way, hold: bool) {
        self.shared.change(|state| state.wire(way).held = hold);
    }

    /// Passes everything on so much later.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.shared.change(|state| state.wire(way).delay = delay);
    }

    /// Flips the lowest bit of one byte: the `offset`-th of those that come in from now on.
    pub fn flip(&self, way: Way, offset: usize) {
        self.shared.change(|state| {
            let wire = state.wire(way);
            wire.flip = Some(wire.recorded.len() + offset);
        });
    }

    /// Whether the byte that was to be flipped has come in.
    pub fn flipped(&self, way: Way) -> bool {
        self.shared.state().wire(way).flip.is_none()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.closed = true;
            state.close(|_| true);
        });
        // Wakes the accepting thread, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut pumps = Vec::new();
    for client in listener.incoming() {
        if shared.state().closed {
            break;
        }
        // The client may have gone again.
        if let Ok(client) = client {
            pumps.extend(connect(client, shared).into_iter().flatten());
        }
    }
    for pump in pumps {
        let _ = pump.join();
    }
}

/// Dials on and starts a thread for each direction. Without a target the client is told by a close.
fn connect(client: TcpStream, shared: &Arc<Shared>) -> Option<[JoinHandle<()>; 2]> {
    let number = {
        let mut state = shared.state();
        state.accepted += 1;
        if state.refusing {
            return None;
        }
        state.accepted
    };
    let server = TcpStream::connect(shared.target).ok()?;
    let again = |end: &TcpStream| end.try_clone().expect("a socket can be shared");
    for end in [&client, &server] {
        end.set_nodelay(true).expect("a socket has options");
    }
    shared.state().open.push(Connection { number, ends: [again(&client), again(&server)] });
    let start = |way, from, to| {
        let shared = Arc::clone(shared);
        thread::spawn(move || pump(&shared, number, way, from, to))
    };
    Some([start(Way::Up, again(&client), again(&server)), start(Way::Down, server, client)])
}

/// Carries bytes one way until the connection ends or is cut.
fn pump(shared: &Shared, number: usize, way: Way, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(length @ 1..) => length,
            // The sender said that nothing follows; the other direction may go on.
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                break;
            }
            Err(_) => break shared.change(|state| state.close(|one| one == number)),
        };
        let arrived = Instant::now();
        let mut state = shared.state();
        let wire = state.wire(way);
        let begin = wire.recorded.len();
        wire.recorded.extend_from_slice(&buffer[..length]);
        if let Some(at) = wire.flip.and_then(|flip| flip.checked_sub(begin)).filter(|at| *at < length) {
            buffer[at] ^= 1;
            wire.flip = None;
        }
        // Waits for the moment to pass it on, or for the end of the connection.
        while state.is_open(number) {
            let wire = state.wire(way);
            let left = wire.delay.saturating_sub(arrived.elapsed());
            state = if wire.held {
                shared.changed.wait(state).expect("no thread of the tap panics")
            } else if !left.is_zero() {
                shared.changed.wait_timeout(state, left).expect("no thread of the tap panics").0
            } else {
                break;
            };
        }
        let open = state.is_open(number);
        drop(state);
        if !open || to.write_all(&buffer[..length]).is_err() {
            break shared.change(|state| state.close(|one| one == number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A program that sends back what it gets, until the test ends.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let mut answer = client.try_clone().unwrap();
                thread::spawn(move || std::io::copy(&mut client, &mut answer));
            }
        });
        address
    }

    fn say(client: &mut TcpStream, text: &str) -> std::io::Result<String> {
        client.write_all(text.as_bytes())?;
        let mut answer = vec![0; text.len()];
        client.read_exact(&mut answer)?;
        Ok(String::from_utf8(answer).unwrap())
    }

    #[test]
    fn it_forwards_counts_and_records() {
        let tap = Tap::to(echo());
        let mut one = TcpStream::connect(tap.address()).unwrap();
        assert_eq!(say(&mut one, "first").unwrap(), "first");
        assert_eq!((tap.accepted(), tap.open()), (1, 1));
        assert_eq!((tap.count(Way::Up), tap.recorded(Way::Down)), (5, b"first".to_vec()));
        one.shutdown(Shutdown::Write).unwrap();
        assert_eq!(one.read(&mut [0; 1]).unwrap(), 0, "that nothing follows went through and came back");
    }

    #[test]
    fn it_cuts_and_takes_new_connections() {
        let tap = Tap::to(echo());
        let mut one = TcpStream::connect(tap.address()).unwrap();
        say(&mut one, "x").unwrap();
        tap.cut();
        assert!(say(&mut one, "x").is_err());
        assert_eq!(tap.open(), 0);
        tap.refuse(true);
        let mut two = TcpStream::connect(tap.address()).unwrap();
        assert!(say(&mut two, "x").is_err());
        tap.refuse(false);
        let mut three = TcpStream::connect(tap.address()).unwrap();
        assert_eq!(say(&mut three, "x").unwrap(), "x");
    }

    #[test]
    fn it_flips_one_bit_of_one_byte_and_records_what_was_sent() {
        let tap = Tap::to(echo());
        let mut client = TcpStream::connect(tap.address()).unwrap();
        say(&mut client, "first").unwrap();
        tap.flip(Way::Up, 2);
        assert!(!tap.flipped(Way::Up));
        assert_eq!(say(&mut client, "abcd").unwrap(), "abbd");
        assert!(tap.flipped(Way::Up));
        assert_eq!(say(&mut client, "abcd").unwrap(), "abcd");
        assert_eq!(tap.recorded(Way::Up), b"firstabcdabcd");
    }

    #[test]
    fn it_holds_one_way() {
        let tap = Tap::to(echo());
        let mut client = TcpStream::connect(tap.address()).unwrap();
        say(&mut client, "first").unwrap();
        tap.hold(Way::Down, true);
        client.write_all(b"more").unwrap();
        wait::until("the echo", LIMIT, || (tap.count(Way::Down) == 9).then_some(()));
        client.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
        assert!(client.read(&mut [0; 4]).is_err(), "nothing came through");
        client.set_read_timeout(None).unwrap();
        tap.hold(Way::Down, false);
        assert_eq!(say(&mut client, "").unwrap(), "");
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"more");
    }

    #[test]
    fn it_delays_and_a_cut_does_not_wait() {
        let tap = Tap::to(echo());
        let mut client = TcpStream::connect(tap.address()).unwrap();
        let delay = Duration::from_millis(50);
        tap.delay(Way::Up, delay);
        let begin = Instant::now();
        say(&mut client, "x").unwrap();
        assert!(begin.elapsed() >= delay);
        tap.delay(Way::Up, Duration::from_secs(3600));
        client.write_all(b"y").unwrap();
        wait::until("the byte", LIMIT, || (tap.count(Way::Up) == 2).then_some(()));
        drop(tap);
        assert!(client.read_exact(&mut [0; 1]).is_err());
    }
}
