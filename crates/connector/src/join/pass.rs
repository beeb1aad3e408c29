//! A gateway's side: messages are copied both ways, unread.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{DEADLINE, Stream, close, dial, read, write};
use crate::config::Parent;
use crate::journal;
use crate::parents::unreachable;

/// The most messages each way.
const MESSAGES: usize = 3;

/// Passes what a host and a server say to each other on to the first parent that answers, within bounds of number,
/// size and time.
pub async fn pass(mut stream: impl AsyncRead + AsyncWrite + Unpin, parents: &[Parent]) {
    let talk = async {
        if let Some(above) = first(parents).await {
            between(&mut stream, above).await;
        }
        close(&mut stream).await;
    };
    let _ = tokio::time::timeout(DEADLINE, talk).await;
}

async fn first(parents: &[Parent]) -> Option<Stream> {
    for parent in parents {
        match dial(parent).await {
            Ok(above) => return Some(above),
            Err(error) => journal::emit(unreachable(parent, error)),
        }
    }
    None
}

/// Copies until the server has closed, either end is gone, or one says more than it may.
async fn between(below: &mut (impl AsyncRead + AsyncWrite + Unpin), above: Stream) {
    let (mut from_below, mut to_below) = tokio::io::split(below);
    let (mut from_above, mut to_above) = tokio::io::split(above);
    let _: io::Result<()> = tokio::select! {
        // What came from above is passed on before anything else ends the session.
        biased;
        end = copy(&mut from_above, &mut to_below) => end,
        end = copy(&mut from_below, &mut to_above) => end,
    };
    close(&mut to_above).await;
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    for _ in 0..MESSAGES {
        match read(from).await? {
            Some(message) => write(to, &message).await?,
            None => return Ok(()),
        }
    }
    Ok(())
}
