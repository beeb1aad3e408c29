//! The unix socket, and who may use it: root and the server's own user, as the kernel says who they are.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::{ConnectInfo, Request, connect_info::Connected};
use axum::http::Method;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::serve::IncomingStream;
use nix::unistd::{Uid, User, geteuid};
use tokio::net::UnixListener;
use wardline_sdk::{Kind, Problem};

use super::routes::{Operator, Refusal};

/// A socket that listens.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens. A socket that a dead process has left is removed; one that somebody listens on is not.
    ///
    /// # Errors
    /// Somebody listens there, or no socket can be made there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_dead(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        }?;
        // Whoever was quicker than this is refused by who he is.
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.into() })
    }

    /// Answers until `shutdown` is over and the requests under way are answered. The socket is removed then.
    ///
    /// # Errors
    /// The socket cannot be listened on any more.
    pub async fn serve(self, app: Router, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
        let app = app.layer(from_fn(only_ours)).into_make_service_with_connect_info::<Peer>();
        let served = axum::serve(self.listener, app).with_graceful_shutdown(shutdown).await;
        let removed = std::fs::remove_file(&self.path);
        served.and(removed)
    }
}

/// There is a socket, and nobody listens on it. Connecting to any other file is refused too.
fn is_dead(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let connected = std::os::unix::net::UnixStream::connect(path);
    is_socket && connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The user at the other end; nothing when the kernel does not say.
#[derive(Clone, Copy)]
struct Peer(Option<Uid>);

impl Peer {
    /// The user's name, or its number when it has none. Asks the system's user database, and may wait for it.
    fn name(self) -> String {
        let Some(uid) = self.0 else { return "unknown".into() };
        User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|peer| Uid::from_raw(peer.uid())))
    }
}

async fn only_ours(ConnectInfo(peer): ConnectInfo<Peer>, mut request: Request, next: Next) -> Response {
    if may_ask(peer, geteuid()) {
        // Only who changes something is named.
        if request.method() == Method::POST {
            let name = tokio::task::spawn_blocking(move || peer.name()).await.unwrap_or_else(|_| "unknown".into());
            request.extensions_mut().insert(Operator(name));
        }
        return next.run(request).await;
    }
    let next = "run it as root or as the server's user, e.g. with `sudo`";
    Refusal(Problem::new(Kind::Denied, "this user may not use the server's socket", next)).into_response()
}

fn may_ask(peer: Peer, own: Uid) -> bool {
    peer.0.is_some_and(|uid| uid.is_root() || uid == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_servers_own_user_may_ask() {
        let own = Uid::from_raw(990);
        let peer = |uid| Peer(Some(Uid::from_raw(uid)));
        assert!(may_ask(peer(0), own) && may_ask(peer(990), own));
        assert!(!may_ask(peer(1000), own) && !may_ask(Peer(None), own));
    }
}
