//! The server's side: who knocks is heard, and the desk decides.

use std::future::Future;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use wardline_proto::join::{Answered, Down, Hello, Proof, Refusal, Said, Up, Why};
use wardline_proto::message::{Digest, Signed, decode};
use wardline_proto::{Name, Role};
use wardline_secrets::signature::{VerifyingKey, random};

use super::{DEADLINE, close, hear, say, transcript};

/// Who decides who is let in.
pub trait Desk {
    /// A challenge to who said `hello` (its bytes as they came), with this nonce: a
    /// [`wardline_proto::join::Challenge`], signed by the duty key.
    fn challenge(&self, hello: &[u8], nonce: [u8; 16]) -> Signed;

    /// Decides: a [`wardline_proto::join::Welcome`], signed by the duty key, or why not. Whether the signatures of the
    /// proof fit is for it to check.
    fn admit(&self, knock: Knock) -> impl Future<Output = Result<Signed, Why>> + Send;
}

/// Who knocks, in the right shape, but with nothing checked yet.
#[derive(Clone, Debug)]
pub struct Knock {
    /// What they said they are.
    pub hello: Hello,
    /// What the signatures of the proof must be over.
    pub transcript: Digest,
    /// The signatures.
    pub proof: Proof,
    /// Where they come from; behind a gateway, the gateway's.
    pub address: SocketAddr,
}

/// Serves one who knocks: hears them out within bounds of time and size, asks the desk, answers, closes.
pub async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, address: SocketAddr, desk: &impl Desk) {
    let talk = async {
        let outcome = match knock(&mut stream, address, desk).await {
            Ok(knock) => desk.admit(knock).await,
            Err(Some(why)) => Err(why),
            Err(None) => return,
        };
        let answered = match outcome {
            Ok(welcome) => Answered::Welcome(welcome),
            Err(why) => Answered::Refusal(Refusal { why: why.into() }),
        };
        // Who has gone away asks again, and is given the same answer.
        let _ = say(&mut stream, &Down { answered: Some(answered) }).await;
        close(&mut stream).await;
    };
    let _ = tokio::time::timeout(DEADLINE, talk).await;
}

/// Hears who knocks; the error is what they are told, or nothing when they have gone.
async fn knock(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    address: SocketAddr,
    desk: &impl Desk,
) -> Result<Knock, Option<Why>> {
    let Some(Up { said: Some(Said::Hello(bytes)) }) = hear(stream).await.map_err(|_| None)? else {
        return Err(Some(Why::Protocol));
    };
    let hello = decode(&bytes).filter(is_shaped).ok_or(Some(Why::Protocol))?;
    let challenge = desk.challenge(&bytes, random());
    let transcript = transcript(&bytes, &challenge.payload);
    let down = Down { answered: Some(Answered::Challenge(challenge)) };
    say(stream, &down).await.map_err(|_| None)?;
    let Some(Up { said: Some(Said::Proof(proof)) }) = hear(stream).await.map_err(|_| None)? else {
        return Err(Some(Why::Protocol));
    };
    let signed = if hello.token.is_empty() { proof.token.is_empty() } else { proof.token.len() == 64 };
    if !signed || proof.identity.len() != 64 {
        return Err(Some(Why::Protocol));
    }
    Ok(Knock { hello, transcript, proof, address })
}

/// Whether everything in a hello has the form that it must have.
fn is_shaped(hello: &Hello) -> bool {
    matches!(hello.token.len(), 0 | 16)
        && hello.nonce.len() == 16
        && !hello.request.is_empty()
        && hello.name.parse::<Name>().is_ok()
        && matches!(hello.role.parse(), Ok(Role::Agent | Role::Gateway))
        && VerifyingKey::from_spki(&hello.identity).is_ok()
}
