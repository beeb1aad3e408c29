//! A port that stays ours while the program that listens on it is restarted.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt::ReuseAddr,
};

/// A free port of the loopback address.
///
/// It is bound but not listening, so that the system gives it to nobody else, while a program that asks for it by
/// number (and sets SO_REUSEADDR, as servers do) gets it, again and again.
#[derive(Debug)]
pub struct Port {
    _bound: OwnedFd,
    address: SocketAddr,
}

impl Port {
    /// Reserves one.
    pub fn reserve() -> Self {
        let bound =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket can be made");
        setsockopt(&bound, ReuseAddr, &true).expect("an address can be shared");
        let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        bind(bound.as_raw_fd(), &any).expect("there is a free port");
        let got: SockaddrIn = getsockname(bound.as_raw_fd()).expect("a bound socket has a name");
        Self { _bound: bound, address: SocketAddrV4::from(got).into() }
    }

    /// The address to listen on.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn it_can_be_listened_on_again_and_again() {
        let port = Port::reserve();
        for _ in 0..3 {
            let listener = TcpListener::bind(port.address()).unwrap();
            let client = TcpStream::connect(port.address()).unwrap();
            // The listening end closes first and leaves the connection in TIME_WAIT, as a killed server does.
            drop(listener.accept().unwrap());
            drop((listener, client));
        }
        assert!(TcpStream::connect(port.address()).is_err());
    }

    #[test]
    fn nobody_else_is_given_it() {
        let held: Vec<_> = (0..200).map(|_| Port::reserve()).collect();
        for _ in 0..2000 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let got = listener.local_addr().unwrap();
            assert!(held.iter().all(|port| port.address() != got));
        }
    }
}
