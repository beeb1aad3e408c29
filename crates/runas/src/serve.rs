//! Answers what the agent asks: one request for each connection, from no other user.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use wardline_proto::event::Event;
use wardline_proto::runas::{
    Answer, BadRequest, CREDENTIALS_LIMIT, Credential, Ended, FOLDER, REQUEST_LIMIT, Request, WAIT_LIMIT,
};
use wardline_runas::bounded::{self, Failure, Printed};
use zeroize::Zeroizing;

use crate::folder::{Folder, Runtime};
use crate::policy::{Denied, Policy, Target};
use crate::users::Users;
use crate::{become_user, journal};

/// The most connections at a time; those beyond are closed at once.
const CONNECTIONS: usize = 512;
/// How long a request may take to arrive, and an answer to be taken.
const TRANSFER: Duration = Duration::from_secs(10);
/// How many different refusals are told, each once.
const TOLD: usize = 1000;
/// The most characters of one: it may name what was asked for.
const REASON: usize = 500;

/// A request with what follows it.
struct Asked {
    request: Request,
    files: Vec<(String, Zeroizing<Vec<u8>>)>,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Bad(#[from] BadRequest),
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("user {0} may not ask")]
    Foreign(u32),
    /// Nobody is there any more.
    #[error("the request broke off: {0}")]
    Gone(#[from] io::Error),
    #[error("the request took too long")]
    Slow,
}

/// What answers.
#[derive(Debug)]
pub struct Server {
    policy: Arc<Policy>,
    runtime: Runtime,
    users: Users,
    told: Mutex<HashSet<String>>,
}

/// Binds the socket: the agent's user alone may open it.
///
/// # Errors
/// It cannot be made there.
pub fn bind(policy: &Policy) -> io::Result<UnixListener> {
    let path = &policy.socket;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
        crate::path::root_only(folder, crate::path::Shared::Sticky).map_err(io::Error::other)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::other("somebody listens there"));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => return Err(io::Error::other("there is something else than a socket")),
        Err(_) => {}
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let bound = bound?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    chown(path, Some(policy.agent.as_raw()), None)?;
    Ok(bound)
}

impl Server {
    /// Of a policy, with nothing running.
    pub fn new(policy: Policy, runtime: Runtime, users: Users) -> Self {
        Self { policy: Arc::new(policy), runtime, users, told: Mutex::default() }
    }

    /// Serves until `stop`, then ends what runs. Where it is run must be the thread that lives for as long as the program:
    /// what runs is killed with the thread that started it.
    pub async fn run(self, listener: UnixListener, stop: impl Future<Output = ()>) {
        let server = Arc::new(self);
        let (stopping, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() < CONNECTIONS => {
                        let (server, stopped) = (Arc::clone(&server), stopped.clone());
                        connections.spawn(async move { server.connection(stream, stopped).await });
                    }
                    Ok(_) => {}
                    // Out of descriptors, for example.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
            }
        }
        drop((listener, stopping));
        while connections.join_next().await.is_some() {}
        // Nobody may take it for one that answers.
        let _ = std::fs::remove_file(&server.policy.socket);
    }

    async fn connection(&self, mut stream: UnixStream, mut stopped: watch::Receiver<()>) {
        let asked = match timeout(TRANSFER, self.read(&mut stream)).await.unwrap_or(Err(Refusal::Slow)) {
            Ok(asked) => asked,
            Err(refusal) => {
                let text: String = refusal.to_string().chars().take(REASON).collect();
                if !matches!(refusal, Refusal::Gone(_)) {
                    self.tell(&stream, &text);
                    answer(&mut stream, &said(Ended::Refused, text), &Printed::default()).await;
                }
                return;
            }
        };
        let (mut reading, mut writing) = stream.into_split();
        let over = async {
            tokio::select! {
                // Whoever asks says nothing more: he has gone.
                _ = reading.read_u8() => {}
                _ = stopped.changed() => {}
            }
        };
        if let Some((result, printed)) = self.serve(asked, over).await {
            answer(&mut writing, &result, &printed).await;
        }
    }

    /// Reads a request, checks who asks, and what.
    async fn read(&self, stream: &mut UnixStream) -> Result<Asked, Refusal> {
        let peer = stream.peer_cred()?.uid();
        if peer != self.policy.agent.as_raw() {
            return Err(Refusal::Foreign(peer));
        }
        let length = stream.read_u32().await?;
        if length == 0 || length as usize > REQUEST_LIMIT {
            return Err(BadRequest::Length(length).into());
        }
        let mut bytes = vec![0; length as usize];
        stream.read_exact(&mut bytes).await?;
        let request = Request::parse(&bytes)?;
        // On a thread of its own: a path may lead to a file system whose server is away.
        let (policy, user, program) = (Arc::clone(&self.policy), request.user.clone(), request.program.clone());
        let allowed = tokio::task::spawn_blocking(move || policy.allows(&user, &program)).await;
        allowed.map_err(io::Error::other)??;
        let mut files = Vec::with_capacity(request.credentials.len());
        for Credential { name, length } in &request.credentials {
            let mut content = Zeroizing::new(vec![0; (*length as usize).min(CREDENTIALS_LIMIT)]);
            stream.read_exact(&mut content).await?;
            files.push((name.clone(), content));
        }
        Ok(Asked { request, files })
    }

    /// Runs what was asked for. Whatever happens, nothing of it is left when this returns. Nothing is answered when `over`
    /// comes first.
    async fn serve(
        &self,
        Asked { request, files }: Asked,
        over: impl Future<Output = ()>,
    ) -> Option<(Answer, Printed)> {
        tokio::pin!(over);
        let named = match self.policy.target(&request.user) {
            Ok(named) => named,
            Err(denied) => return Some((said(Ended::Refused, denied.to_string()), Printed::default())),
        };
        let target = match named {
            Some(target) => target,
            None => {
                let taken = tokio::select! {
                    () = &mut over => return None,
                    taken = self.users.take(Duration::from_millis(WAIT_LIMIT)) => taken,
                };
                match taken {
                    Some(target) => target,
                    None => {
                        let text = "every number of the policy's `users` is in use".into();
                        return Some((said(Ended::NotStarted, text), Printed::default()));
                    }
                }
            }
        };
        let folder = if files.is_empty() { Ok(None) } else { self.runtime.folder(target, &files).map(Some) };
        // The plugin's process must not begin as a copy of one that has them.
        drop(files);
        let result = match &folder {
            Ok(folder) => tokio::select! {
                () = &mut over => None,
                result = self.execute(&request, target, named.is_none(), folder.as_ref()) => Some(result),
            },
            Err(error) => {
                let text = format!("{}: {error}", self.policy.runtime.display());
                Some((said(Ended::NotStarted, text), Printed::default()))
            }
        };
        if named.is_none()
            && let Err(reason) = self.users.give_back(target).await
        {
            journal::emit(&Event::UserNotFreed { user: target.uid.to_string(), reason });
        }
        drop(folder);
        result
    }

    async fn execute(
        &self,
        request: &Request,
        target: Target,
        alone: bool,
        folder: Option<&Folder>,
    ) -> (Answer, Printed) {
        let mut printed = Printed::default();
        let result = self.attempt(request, target, alone, folder, &mut printed).await;
        let answer = match result {
            Ok(Ok(status)) => match status.code() {
                Some(code) => Answer { ended: Ended::Exit.into(), number: code, ..Answer::default() },
                None => {
                    let number = status.signal().unwrap_or_default();
                    Answer { ended: Ended::Signal.into(), number, ..Answer::default() }
                }
            },
            Ok(Err(reason)) => {
                let text = format!("the plugin {} cannot be started: {reason}", request.program);
                said(Ended::NotStarted, text)
            }
            Err(failure @ Failure::Start { .. }) => said(Ended::NotStarted, failure.to_string()),
            Err(failure) => said(Ended::Failed, failure.to_string()),
        };
        (answer, printed)
    }

    /// How the program ended, or why it never began.
    async fn attempt(
        &self,
        request: &Request,
        target: Target,
        alone: bool,
        folder: Option<&Folder>,
        printed: &mut Printed,
    ) -> Result<Result<ExitStatus, String>, Failure> {
        let folder = folder.map(|folder| folder.path().display().to_string());
        let put = |argument: &String| match &folder {
            Some(folder) => argument.replace(FOLDER, folder),
            None => argument.clone(),
        };
        let arguments: Vec<_> = request.arguments.iter().map(put).collect();
        let (mut reason, status) = io::pipe()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .args(become_user::arguments(target, alone, self.policy.limits, &request.program, &arguments))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .stdin(status);
        if let Some(folder) = &folder {
            command.env("CREDENTIALS_DIRECTORY", folder);
        }
        let (time, most) = self.policy.bounds(request.time, request.output);
        let status = bounded::run(command, time, most, printed).await?;
        // Its only other end went with the process, or where the plugin began.
        let mut text = String::new();
        reason.read_to_string(&mut text)?;
        Ok(if text.is_empty() { Ok(status) } else { Err(text) })
    }

    /// Says why somebody was refused, once for each reason.
    fn tell(&self, stream: &UnixStream, reason: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD && told.insert(reason.to_owned()) {
            let user = stream.peer_cred().map_or_else(|_| "unknown".into(), |peer| peer.uid().to_string());
            journal::emit(&Event::RunAsRefused { user, reason: reason.into() });
        }
    }
}

fn said(ended: Ended, text: String) -> Answer {
    Answer { ended: ended.into(), text, ..Answer::default() }
}

/// Whoever does not take the answer in time does not get it.
async fn answer(writing: &mut (impl AsyncWrite + Unpin), answer: &Answer, printed: &Printed) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or_default();
    let (stdout, stderr) = (length(&printed.stdout), length(&printed.stderr));
    let header = Answer { stdout, stderr, ..answer.clone() }.encode_to_vec();
    let written = async {
        writing.write_u32(length(&header)).await?;
        writing.write_all(&header).await?;
        writing.write_all(&printed.stdout).await?;
        writing.write_all(&printed.stderr).await?;
        writing.shutdown().await
    };
    let _: Result<io::Result<()>, _> = timeout(TRANSFER, written).await;
}
