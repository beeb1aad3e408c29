//! The bytes of a session inside of TLS. By certificate they are frames as they are. By Kerberos all of them are wrapped
//! once more (RFC 4121): on the wire stand messages of its length (2 bytes, big endian) and the wrap token.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use wardline_gss::{Context, OVERHEAD};

/// Bytes that are read at once.
pub(crate) const CHUNK: usize = 256 * 1024;
/// Bytes that an idle session has for what comes next.
const IDLE: usize = 1024;
/// The most bytes of one wrapped message in the clear: its token's length has 16 bits.
const WRAP: usize = u16::MAX as usize - OVERHEAD;

/// Wraps and unwraps; the two directions of a session share it, and hold it only while they compute.
#[derive(Clone, Debug)]
struct Wrapper(Arc<Mutex<Context>>);

impl Wrapper {
    fn with<T>(&self, what: impl FnOnce(&mut Context) -> Result<T, wardline_gss::Failed>) -> io::Result<T> {
        let mut context = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        what(&mut context).map_err(|failed| io::Error::new(io::ErrorKind::InvalidData, failed))
    }
}

/// Whether it is the other end that did not wrap this. What TLS cannot read anybody on the wire may have written.
pub(crate) fn is_wrong(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<wardline_gss::Failed>())
}

/// The writing direction of a session.
#[derive(Debug)]
pub(crate) struct Sealer {
    wrapper: Option<Wrapper>,
    wrapped: BytesMut,
}

/// The reading direction of a session.
#[derive(Debug)]
pub(crate) struct Opener {
    wrapper: Option<Wrapper>,
    wrapped: BytesMut,
    /// Whether the last read filled all the room that there was.
    flows: bool,
}

/// Both directions of a session: within this context, or by TLS alone.
pub(crate) fn open(context: Option<Context>) -> (Sealer, Opener) {
    let wrapper = context.map(|context| Wrapper(Arc::new(Mutex::new(context))));
    let sealer = Sealer { wrapper: wrapper.clone(), wrapped: BytesMut::new() };
    (sealer, Opener { wrapper, wrapped: BytesMut::new(), flows: false })
}

impl Sealer {
    /// Writes these frames, and empties the buffer.
    ///
    /// # Errors
    /// They cannot be written, or not wrapped.
    pub(crate) async fn write(&mut self, to: &mut (impl AsyncWrite + Unpin), frames: &mut BytesMut) -> io::Result<()> {
        let Some(wrapper) = &self.wrapper else {
            to.write_all(frames).await?;
            to.flush().await?;
            frames.clear();
            return Ok(());
        };
        let wrapped = &mut self.wrapped;
        for clear in frames.chunks(WRAP) {
            wrapper
                .with(|context| {
                    let mut length = Ok(0);
                    context.wrap(clear, |token| {
                        length = u16::try_from(token.len());
                        wrapped.put_u16(length.unwrap_or(0));
                        wrapped.put_slice(token);
                    })?;
                    Ok(length)
                })?
                .map_err(io::Error::other)?;
        }
        frames.clear();
        to.write_all(wrapped).await?;
        to.flush().await?;
        wrapped.clear();
        Ok(())
    }

    /// Gives back what a burst needed.
    pub(crate) fn rest(&mut self) {
        if self.wrapped.capacity() > CHUNK / 16 {
            self.wrapped = BytesMut::new();
        }
    }
}

impl Opener {
    /// Reads what is there and appends it to `clear`, perhaps nothing yet; gives how many bytes were read, 0 at the end. Safe
    /// to cancel.
    ///
    /// # Errors
    /// It cannot be read; or it is not what the other end wrapped, in its order: nothing more can be believed.
    pub(crate) async fn read(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        clear: &mut BytesMut,
    ) -> io::Result<usize> {
        let Some(wrapper) = &self.wrapper else {
            let room = make_room(clear, self.flows);
            let read = from.read_buf(clear).await?;
            self.flows = read >= room;
            return Ok(read);
        };
        // What one burst needed is not kept for an idle session.
        if clear.is_empty() && !self.flows && clear.capacity() > IDLE {
            *clear = BytesMut::new();
        }
        let room = make_room(&mut self.wrapped, self.flows);
        let read = from.read_buf(&mut self.wrapped).await?;
        self.flows = read >= room;
        while let Some((head, rest)) = self.wrapped.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes(*head));
            let Some(token) = rest.get(..length) else { break };
            wrapper.with(|context| context.unwrap(token, |message| clear.extend_from_slice(message)))?;
            self.wrapped.advance(2 + length);
        }
        Ok(read)
    }
}

/// A session that waits for its next message holds little; one on which much comes in reads much at once. Gives how much
/// can be read.
fn make_room(buffer: &mut BytesMut, flows: bool) -> usize {
    if buffer.is_empty() && !flows {
        if buffer.capacity() > IDLE {
            *buffer = BytesMut::new();
        }
        buffer.reserve(IDLE);
    } else if buffer.capacity() - buffer.len() < CHUNK / 4 {
        buffer.reserve(CHUNK);
    }
    buffer.capacity() - buffer.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tls_cannot_read_is_not_the_other_ends_doing() {
        // As the stream says it of a bit that was changed on the way.
        let changed = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert!(!is_wrong(&changed) && !is_wrong(&io::ErrorKind::UnexpectedEof.into()));
    }
}
