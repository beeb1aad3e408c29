//! Asks the helper to run one program.

use std::io;
use std::path::Path;

use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use wardline_proto::runas::{ANSWER_LIMIT, Answer, CREDENTIALS_LIMIT, OUTPUT_LIMIT, Request, STDERR_LIMIT};
use zeroize::Zeroizing;

use crate::bounded::Printed;

/// Connects to the helper's socket.
///
/// # Errors
/// Nobody listens there, or somebody else than root: he is sent nothing.
pub async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket).await?;
    match stream.peer_cred()?.uid() {
        0 => Ok(stream),
        other => Err(io::Error::other(format!("user {other} listens there, and not root"))),
    }
}

/// Has the helper run one program; `contents` are those of the request's credentials, in their order. When the future is
/// dropped the program is killed.
///
/// # Errors
/// The helper cannot be reached, or breaks off.
pub async fn ask(socket: &Path, request: &Request, contents: &[&[u8]]) -> io::Result<(Answer, Printed)> {
    let fits = contents.iter().map(|content| content.len()).sum::<usize>() <= CREDENTIALS_LIMIT;
    let named = request.credentials.iter().map(|credential| credential.length as usize);
    if !fits || !named.eq(contents.iter().map(|content| content.len())) {
        return Err(io::Error::other("the credentials are too long, or not those of the request"));
    }
    let mut stream = connect(socket).await?;
    // Whoever refuses a request does not read all of it: what is answered says why.
    let sent = send(&mut stream, request, contents).await;
    let answered = receive(&mut stream).await;
    sent.or_else(|error| answered.as_ref().map(drop).map_err(|_| error))?;
    answered
}

async fn send(stream: &mut UnixStream, request: &Request, contents: &[&[u8]]) -> io::Result<()> {
    let header = request.encode_to_vec();
    let length = u32::try_from(header.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&header).await?;
    for content in contents {
        stream.write_all(content).await?;
    }
    Ok(())
}

async fn receive(stream: &mut UnixStream) -> io::Result<(Answer, Printed)> {
    let length = stream.read_u32().await? as usize;
    if length > ANSWER_LIMIT {
        return Err(io::Error::other("the answer is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    let answer = Answer::decode(bytes.as_slice()).map_err(io::Error::other)?;
    let (stdout, stderr) = (answer.stdout as usize, answer.stderr as usize);
    if stdout > OUTPUT_LIMIT || stderr > STDERR_LIMIT {
        return Err(io::Error::other("the output is too long"));
    }
    let mut printed = Printed { stdout: Zeroizing::new(vec![0; stdout]), stderr: Zeroizing::new(vec![0; stderr]) };
    stream.read_exact(&mut printed.stdout).await?;
    stream.read_exact(&mut printed.stderr).await?;
    Ok((answer, printed))
}
